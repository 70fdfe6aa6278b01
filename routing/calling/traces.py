"""Traces: a record of each recent request, attempt by attempt, kept in memory.

``GET /v1/traces/{id}`` answers with this object; times are seconds, costs dollars::

    {"id", "object": "trace", "at", "status": "running" | "done" | "failed" | "cancelled",
     "request": {"capability", "requested", "stands_for", "task", "complexity", "prompt_tokens", "stream", "key",
                 "mode", "workload"},
     "plan": {"strategy", "reason",
              "candidates": [{"model", "score", "quality", "latency", "cost", "reason"}],
              "excluded": [{"model", "code", "reason"}], "more_candidates", "more_excluded"},
     "attempts": [{"attempt", "model", "endpoint", "result", "at", "queued", "first_chunk", "duration",
                    "usage": {"input", "output", "cached", "reasoning", "units", "known",
                              "details" (UsageDetails, if any)},
                    "cost" (its known part), "unknown_parts", "finish_reason", "bound", "error", "status", "valid",
                    "provider_key"}],
     "answered_by": model id or null,
     "error": {"code", "type", "status", "message" (null if it may repeat words of the request or of an upstream,
               which the caller alone is told)} or null,
     "prompt": the request's body, only when kept; of a long one {"bytes", "beginning"}}

Prompts are not kept unless the setting says so; keys never are: ``key`` is the id of the caller's key, and
``provider_key`` a position.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson
from pydantic import Field

from catalog.errors import RoundhouseError
from catalog.validation.section import Section
from routing.clock import Clock
from routing.facts import Facts
from routing.outcomes import Outcome, Result
from routing.plan import Candidate, Exclusion, Plan
from routing.state.protocol import State


class TraceSettings(Section):
    """Limits of the traces kept."""

    capacity: int = Field(default=10_000, ge=1, description="traces kept in memory; the oldest goes first")
    candidates: int = Field(default=8, ge=1, description="candidates kept of each plan")
    excluded: int = Field(default=32, ge=0, description="exclusions shown of each plan")
    explained: int = Field(
        default=200, ge=0, description="traces whose exclusions are kept; each holds a snapshot of the world"
    )
    store_prompts: bool = Field(
        default=False, description="keep the request's body in the trace, without an audio file's bytes"
    )
    prompt_bytes: int = Field(
        default=100_000,
        ge=1,
        description="bytes of a kept prompt as JSON; of a longer one only its beginning is kept",
    )
    prompt_memory: int = Field(
        default=64 * 1024 * 1024, ge=1, description="bytes of all prompts in memory; the oldest are dropped first"
    )
    persist: bool = Field(default=False, description="keep finished traces in the state, too")
    persist_seconds: float = Field(
        default=7 * 86_400.0, gt=0, description="seconds for which the state keeps a trace"
    )


@dataclass(frozen=True, slots=True)
class TraceQuery:
    """Which traces to list: those of the key ``key`` (None: of all) that began before ``before`` (Unix time)."""

    limit: int
    before: float | None = None
    key: str | None = None
    status: str | None = None
    model: str | None = None


@dataclass(slots=True)
class _Trace:
    id: str
    at: float
    facts: Facts
    strategy: str
    reason: str
    candidates: tuple[Candidate, ...]
    excluded: Sequence[Exclusion]
    more_candidates: int
    exclusions: int
    prompt: bytes | None = None
    prompt_size: int = 0
    attempts: list[Outcome] = field(default_factory=list)
    finished: bool = False
    error: dict[str, Any] | None = None


class Traces:
    """A ring buffer of traces; an :class:`~routing.outcomes.OutcomeSink`."""

    kind = "trace"

    def __init__(self, settings: TraceSettings, clock: Clock, state: State | None = None) -> None:
        self._settings = settings
        self._clock = clock
        self._state = state
        self._with_prompts: deque[_Trace] = deque()
        self._prompt_memory = 0
        self._ring: OrderedDict[str, _Trace] = OrderedDict()
        self._explained: deque[str] = deque()

    def configure(self, settings: TraceSettings) -> None:
        """Use other limits from the next trace on."""
        self._settings = settings

    def start(self, trace: str, facts: Facts, plan: Plan, prompt: Callable[[], Any] | None = None) -> None:
        """Begin the trace of a request. ``prompt`` returns its body; it is called only if prompts are kept."""
        candidates = self._settings.candidates
        begun = self._ring[trace] = _Trace(
            id=trace,
            at=self._clock.wall(),
            facts=facts,
            strategy=plan.strategy.value,
            reason=plan.reason,
            candidates=tuple(plan.candidates[:candidates]),
            excluded=plan.excluded,
            more_candidates=max(0, len(plan.candidates) - candidates),
            exclusions=len(plan.excluded),
        )
        if prompt is not None and self._settings.store_prompts:
            self._keep_prompt(begun, prompt())
        self._ring.move_to_end(trace)
        self._explained.append(trace)
        while len(self._explained) > self._settings.explained:
            old = self._ring.get(self._explained.popleft())
            if old is not None:
                old.excluded = ()
        while len(self._ring) > self._settings.capacity:
            self._ring.popitem(last=False)

    def go_on(self, trace: str) -> bool:
        """Add the attempts of a further job to a trace that is still kept; its plan stays the first job's."""
        found = self._ring.get(trace)
        if found is not None:
            found.finished, found.error = False, None
        return found is not None

    def _keep_prompt(self, trace: _Trace, prompt: Any) -> None:
        body = orjson.dumps(prompt, default=repr, option=orjson.OPT_NON_STR_KEYS)
        trace.prompt_size = len(body)
        trace.prompt = body[: self._settings.prompt_bytes]
        self._prompt_memory += len(trace.prompt)
        self._with_prompts.append(trace)
        while self._prompt_memory > self._settings.prompt_memory or len(self._with_prompts) > len(self._ring):
            oldest = self._with_prompts.popleft()
            self._prompt_memory -= len(oldest.prompt or b"")
            oldest.prompt = None

    def record(self, outcome: Outcome) -> None:
        """Add an ended attempt to its trace."""
        trace = self._ring.get(outcome.trace)
        if trace is not None:
            trace.attempts.append(outcome)
            if trace.finished:
                self._persist(trace)

    def finish(self, trace: str, error: RoundhouseError | None = None) -> None:
        """End the trace of a request, with the error that the caller got, if any."""
        found = self._ring.get(trace)
        if found is not None:
            found.finished = True
            found.error = None if error is None else _error(error)
            self._persist(found)

    def get(self, trace: str) -> dict[str, Any] | None:
        """The trace as the object above, or ``None`` if it is not in memory."""
        found = self._ring.get(trace)
        return None if found is None else self._document(found)

    def recent(self, query: TraceQuery) -> list[dict[str, Any]]:
        """Summaries of the newest traces in memory that match, newest first."""
        found: list[dict[str, Any]] = []
        for trace in reversed(self._ring.values()):
            if len(found) == query.limit:
                break
            if query.before is not None and trace.at >= query.before:
                continue
            if query.key is not None and trace.facts.key != query.key:
                continue
            if query.status is not None and _status(trace) != query.status:
                continue
            summary = _summary(trace)
            if query.model is None or query.model in (summary["answered_by"], summary["requested"]):
                found.append(summary)
        return found

    async def find(self, trace: str) -> dict[str, Any] | None:
        """As :meth:`get`; also looks in the state if traces are persisted."""
        found = self.get(trace)
        if found is None and self._state is not None and self._settings.persist:
            found = await self._state.document(self.kind, trace)
        return found

    def answered(self, trace: str) -> Outcome | None:
        """The attempt that answered, to which a report at ``POST /v1/outcomes`` applies."""
        found = self._ring.get(trace)
        return None if found is None else _answered(found)

    def last(self, trace: str) -> Outcome | None:
        """The last attempt that has ended, whether it answered or not."""
        found = self._ring.get(trace)
        return found.attempts[-1] if found is not None and found.attempts else None

    def _document(self, trace: _Trace) -> dict[str, Any]:
        return _document(trace, self._settings.excluded)

    def _persist(self, trace: _Trace) -> None:
        if self._state is not None and self._settings.persist:
            until = self._clock.wall() + self._settings.persist_seconds
            self._state.put(self.kind, trace.id, self._document(trace), expires_at=until)


def _answered(trace: _Trace) -> Outcome | None:
    """The last attempt that began to answer; the caller has seen one that broke off, too."""
    for outcome in reversed(trace.attempts):
        answers = outcome.result in (Result.SUCCESS, Result.REFUSAL)
        if answers or (outcome.first_chunk is not None and outcome is trace.attempts[-1]):
            return outcome
    return None


def _status(trace: _Trace) -> str:
    if trace.error is not None:
        return "failed"
    last = trace.attempts[-1].result if trace.attempts else None
    if last is Result.CANCELLED:
        return "cancelled"
    if last in (Result.SUCCESS, Result.REFUSAL):
        return "done"
    return "failed" if trace.finished or last is Result.REJECTED else "running"


def _summary(trace: _Trace) -> dict[str, Any]:
    """A line of the list: sums over the attempts, and the times of the one that answered; unknown is null."""
    facts, answered, attempts = trace.facts, _answered(trace), trace.attempts
    known = bool(attempts) and all(each.cost is not None and not each.unknown_parts for each in attempts)
    last = attempts[-1] if attempts else None
    return {
        "id": trace.id,
        "object": "trace.summary",
        "at": trace.at,
        "status": _status(trace),
        "capability": facts.capability.value,
        "requested": facts.requested,
        "task": facts.task.value,
        "key": facts.key,
        "answered_by": answered.model if answered else None,
        "attempts": len(attempts),
        "first_chunk": answered.first_chunk if answered else None,
        "duration": None if last is None else max(0.0, last.at - trace.at),
        "input_tokens": sum(each.usage.input for each in attempts),
        "output_tokens": sum(each.usage.output for each in attempts),
        "cost": sum(each.cost or 0.0 for each in attempts) if known else None,
        "error": None if trace.error is None else trace.error["code"],
    }


def _document(trace: _Trace, shown: int) -> dict[str, Any]:
    facts, answered = trace.facts, _answered(trace)
    excluded = trace.excluded[:shown]
    document: dict[str, Any] = {
        "id": trace.id,
        "object": "trace",
        "at": trace.at,
        "status": _status(trace),
        "request": {
            "capability": facts.capability.value,
            "requested": facts.requested,
            "stands_for": facts.stands_for,
            "task": facts.task.value,
            "complexity": facts.complexity.value,
            "prompt_tokens": facts.prompt_tokens,
            "stream": facts.stream,
            "key": facts.key,
            "mode": facts.intent.mode.value,
            "workload": facts.intent.workload.value,
        },
        "plan": {
            "strategy": trace.strategy,
            "reason": trace.reason,
            "candidates": [
                {
                    "model": candidate.model.id,
                    "score": candidate.score,
                    "quality": candidate.quality,
                    "latency": candidate.latency,
                    "cost": candidate.cost,
                    "reason": candidate.reason,
                }
                for candidate in trace.candidates
            ],
            "excluded": [{"model": out.model, "code": out.code, "reason": out.reason} for out in excluded],
            "more_candidates": trace.more_candidates,
            "more_excluded": trace.exclusions - len(excluded),
        },
        "attempts": [_attempt(outcome) for outcome in trace.attempts],
        "answered_by": answered.model if answered else None,
        "error": trace.error,
    }
    if trace.prompt is not None:
        document["prompt"] = _prompt(trace.prompt, trace.prompt_size)
    return document


def _prompt(kept: bytes, size: int) -> Any:
    """The prompt as it was; of one that is not kept whole the first characters of its JSON."""
    if len(kept) == size:
        return orjson.loads(kept)
    return {"bytes": size, "beginning": kept.decode(errors="ignore")}


def _error(error: RoundhouseError) -> dict[str, Any]:
    message = None if error.quotes else error.message
    return {"code": error.code, "type": error.type, "status": error.status, "message": message}


def _attempt(outcome: Outcome) -> dict[str, Any]:
    usage = outcome.usage
    return {
        "attempt": outcome.attempt,
        "model": outcome.model,
        "endpoint": outcome.endpoint,
        "result": outcome.result.value,
        "at": outcome.at,
        "queued": outcome.queued,
        "first_chunk": outcome.first_chunk,
        "duration": outcome.duration,
        "usage": {
            "input": usage.input,
            "output": usage.output,
            "cached": usage.cached,
            "reasoning": usage.reasoning,
            "units": usage.units,
            "known": usage.known,
            **({} if usage.details is None else {"details": asdict(usage.details)}),
        },
        "cost": outcome.cost,
        "unknown_parts": list(outcome.unknown_parts),
        "finish_reason": outcome.finish_reason,
        "bound": outcome.bound,
        "error": outcome.error,
        "status": outcome.status,
        "valid": outcome.valid,
        "provider_key": outcome.provider_key,
    }
