"""Questions of one gateway process to the others: for a trace that it does not have, to take a report on its
answer, whether the state takes its writes, to look at the models on disk or the stored keys, and for recent
traces and log lines.

Traces stay in the memory of the process that served the request, because storing each one would cost every
request.
"""

from __future__ import annotations

from dataclasses import asdict
from operator import itemgetter
from typing import Any

from pydantic import BaseModel

from catalog.errors import InvalidRequest
from catalog.types import Json
from routing.calling.traces import TraceQuery
from server.observability.logging import recent_lines
from server.runtime import Runtime


class Verdict(BaseModel):
    """A report on an answer, by the caller ``key``; an administrator may report on answers of every key."""

    trace: str
    score: float
    key: str
    admin: bool


async def answer_peer(runtime: Runtime | None, question: Any) -> Any:
    """Answer another process's question from this one's memory; ``None`` if it does not know."""
    if runtime is None:
        return None
    if "lag" in question:
        return runtime.spend.lag or None
    if "look" in question:
        if runtime.library is not None:
            await runtime.library.look()
        return None
    if "keys" in question:
        if runtime.keys is not None:
            await runtime.keys.look()
        return None
    if "trace" in question:
        return runtime.traces.get(str(question["trace"]))
    if "traces" in question:
        return runtime.traces.recent(TraceQuery(**question["traces"]))
    if "log" in question:
        return recent_lines(int(question["log"]))
    try:
        return _learn(runtime, Verdict.model_validate(question["verdict"]))
    except InvalidRequest as error:
        return {"refused": error.message, "param": error.param}


async def find_trace(runtime: Runtime, trace: str) -> Json | None:
    """A trace from this process, the state, or another process; ``None`` if there is none (any more)."""
    found = await runtime.traces.find(trace)
    if found is None and runtime.peers is not None:
        found = await runtime.peers.ask({"trace": trace})
    return found


async def recent_traces(runtime: Runtime, query: TraceQuery) -> list[Json]:
    """The newest traces that are asked for, of all processes."""
    found = runtime.traces.recent(query)
    if runtime.peers is not None:
        for others in await runtime.peers.ask_all({"traces": asdict(query)}):
            found += others
    return sorted(found, key=lambda trace: -trace["at"])[: query.limit]


async def recent_log(runtime: Runtime, lines: int) -> list[str]:
    """The newest log entries of all processes, in the order of their times."""
    found = recent_lines(lines)
    if runtime.peers is not None:
        for others in await runtime.peers.ask_all({"log": lines}):
            found += others
        found.sort(key=itemgetter(0))
    return [text for _, text in found[-lines:]]


async def state_lag(runtime: Runtime) -> float:
    """Seconds for which this process, or else another one, could not write the state; 0 while all can."""
    if runtime.spend.lag or runtime.peers is None:
        return runtime.spend.lag
    return float(await runtime.peers.ask({"lag": True}) or 0.0)


async def announce_models(runtime: Runtime) -> None:
    """Have the other processes look at the models on disk."""
    if runtime.peers is not None:
        await runtime.peers.ask({"look": True})


async def announce_keys(runtime: Runtime) -> None:
    """Have the other processes read the keys, so that a change holds in all before its answer."""
    if runtime.peers is not None:
        await runtime.peers.ask({"keys": True})


async def learn(runtime: Runtime, verdict: Verdict) -> Json | None:
    """Learn from a verdict, here or in the process that served the request.

    Returns its effect, or ``None`` if there is no such answered trace, or it is another key's. Raises
    InvalidRequest for a second verdict, whichever process it meets.
    """
    learned = _learn(runtime, verdict)
    if learned is None and runtime.peers is not None:
        learned = await runtime.peers.ask({"verdict": verdict.model_dump()})
        if learned is not None and "refused" in learned:
            raise InvalidRequest(learned["refused"], param=learned["param"])
    return learned


def _learn(runtime: Runtime, verdict: Verdict) -> Json | None:
    outcome = runtime.traces.answered(verdict.trace)
    if outcome is None or not (verdict.admin or outcome.facts.key == verdict.key):
        return None
    lesson = runtime.learner.report(outcome.facts, outcome.model, verdict.score, trace=verdict.trace)
    return {
        "model": lesson.model,
        "task": lesson.task.value,
        "complexity": lesson.complexity.value,
        "expected_quality": {"before": lesson.before, "after": lesson.after},
        "change_detected": lesson.changed,
    }
