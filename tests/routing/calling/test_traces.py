"""Traces: what happened, attempt by attempt, in bounded memory, without prompts or keys."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from catalog.errors import UpstreamError
from catalog.model import Capability, LibrarySource, Model
from routing.calling.traces import TraceQuery, Traces, TraceSettings
from routing.outcomes import Result, Usage
from routing.plan import Candidate, Exclusion, Lazy, Plan, Strategy
from routing.state.sqlite import SqliteState
from tests.routing.clocks import ManualClock
from tests.routing.outcome_factory import CHAT, outcome


def candidate(name: str) -> Candidate:
    row = Model(id=name, capabilities=frozenset({Capability.CHAT}), source=LibrarySource(module="m"))
    return Candidate(row, score=0.5, quality=0.6, latency=1.0, cost=None, failure_domain=name, reason="best")


def plan(*names: str, excluded: int = 0) -> Plan:
    return Plan(
        candidates=tuple(candidate(name) for name in names),
        excluded=tuple(Exclusion(f"out{n}", "breaker_open", "failed") for n in range(excluded)),
        strategy=Strategy.PROFILE,
        reason="a is best",
    )


def traces(state: SqliteState | None = None, **settings: object) -> Traces:
    return Traces(TraceSettings.model_validate(settings), ManualClock(), state)


def test_a_further_job_of_a_request_goes_on_with_its_trace() -> None:
    kept = traces()
    assert not kept.go_on("t"), "a trace that is not kept begins anew"
    kept.start("t", CHAT, plan("a"))
    kept.record(outcome(trace="t", model="a", first_chunk=0.1))
    kept.finish("t", UpstreamError("Down."))
    assert kept.go_on("t")
    kept.record(outcome(trace="t", model="b", first_chunk=0.1))
    kept.finish("t")
    told = kept.get("t")
    assert told is not None
    assert (told["status"], told["answered_by"], told["error"]) == ("done", "b", None)
    assert [one["model"] for one in told["attempts"]] == ["a", "b"]
    assert [one["model"] for one in told["plan"]["candidates"]] == ["a"]


def test_a_trace_tells_each_attempt_and_who_answered() -> None:
    kept = traces()
    kept.start("t", replace(CHAT, key="alice"), plan("a", "b", excluded=1))
    running = kept.get("t")
    assert running is not None
    assert (running["status"], running["answered_by"], running["attempts"]) == ("running", None, [])
    kept.record(outcome(Result.FAILED, trace="t", model="a", error="upstream_error", status=500, provider_key=1))
    kept.record(
        outcome(trace="t", model="b", attempt=2, usage=Usage(input=3, output=4), cost=0.25, first_chunk=0.1)
    )
    told = kept.get("t")
    assert told is not None
    assert (told["status"], told["answered_by"]) == ("done", "b")
    assert [(one["model"], one["result"], one["error"]) for one in told["attempts"]] == [
        ("a", "failed", "upstream_error"),
        ("b", "success", None),
    ]
    assert told["attempts"][0]["provider_key"] == 1
    assert told["attempts"][1]["usage"]["output"] == 4
    assert [one["model"] for one in told["plan"]["candidates"]] == ["a", "b"]
    assert told["plan"]["excluded"] == [{"model": "out0", "code": "breaker_open", "reason": "failed"}]
    assert told["request"]["key"] == "alice"
    json.dumps(told)


def test_a_request_that_its_caller_left_was_cancelled() -> None:
    kept = traces()
    kept.start("t", CHAT, plan("a"))
    kept.record(outcome(Result.CANCELLED, trace="t", model="a"))
    kept.finish("t")
    told = kept.get("t")
    assert told is not None
    assert told["status"] == "cancelled"
    assert [each["id"] for each in kept.recent(TraceQuery(limit=9, status="cancelled"))] == ["t"]


def test_a_request_that_no_candidate_could_answer_has_failed_with_its_error() -> None:
    kept = traces()
    kept.start("t", CHAT, plan("a"))
    kept.record(outcome(Result.FAILED, trace="t", model="a"))
    kept.finish("t", UpstreamError("a answered 500"))
    told = kept.get("t")
    assert told is not None
    assert told["status"] == "failed"
    told_error = {"code": "upstream_error", "type": "upstream_error", "status": 502, "message": "a answered 500"}
    assert told["error"] == told_error
    quoting = UpstreamError("a says: your prompt")
    quoting.quotes = True
    kept.finish("t", quoting)
    assert (again := kept.get("t")) is not None
    assert again["error"] == {**told_error, "message": None}
    assert kept.answered("t") is None


def test_the_attempt_that_a_report_is_about_is_the_one_that_answered() -> None:
    kept = traces()
    kept.start("t", CHAT, plan("a", "b"))
    kept.record(outcome(Result.FAILED, trace="t", model="a"))
    kept.record(outcome(Result.SUCCESS, trace="t", model="b", attempt=2))
    answered = kept.answered("t")
    assert answered is not None
    assert answered.model == "b"


def test_an_answer_that_broke_off_was_seen_by_the_caller() -> None:
    kept = traces()
    kept.start("t", CHAT, plan("a"))
    kept.record(outcome(Result.FAILED, trace="t", model="a", first_chunk=0.2, error="stream_broken"))
    answered = kept.answered("t")
    assert answered is not None
    assert answered.error == "stream_broken"


def test_memory_is_bounded_and_the_oldest_goes_first() -> None:
    kept = traces(capacity=3)
    for number in range(5):
        kept.start(f"t{number}", CHAT, plan("a"))
    assert [number for number in range(5) if kept.get(f"t{number}") is not None] == [2, 3, 4]
    kept.record(outcome(trace="t0"))
    assert kept.get("t0") is None


def test_reasons_are_not_written_out_until_somebody_looks_and_old_ones_are_let_go() -> None:
    written: list[str] = []

    def write() -> tuple[Exclusion, ...]:
        written.append("now")
        return (Exclusion("out", "no_key", "no key"),) * 40

    kept = traces(explained=2, excluded=5)
    for number in range(3):
        kept.start(f"t{number}", CHAT, replace(plan("a"), excluded=Lazy(40, write)))
    assert written == []
    newest, oldest = kept.get("t2"), kept.get("t0")
    assert newest is not None
    assert oldest is not None
    assert (len(newest["plan"]["excluded"]), newest["plan"]["more_excluded"]) == (5, 35)
    assert (len(oldest["plan"]["excluded"]), oldest["plan"]["more_excluded"]) == (0, 40)


@pytest.mark.parametrize("keep", [False, True])
def test_a_prompt_is_kept_only_when_the_setting_says_so(keep: bool) -> None:
    kept = traces(store_prompts=keep)
    kept.start("t", CHAT, plan("a"), prompt=lambda: "MARKER")
    assert ("MARKER" in json.dumps(kept.get("t"))) is keep
    assert ("MARKER" in repr(vars(kept))) is keep


async def test_finished_traces_outlive_the_process_when_they_are_to(tmp_path: Path) -> None:
    state = SqliteState(tmp_path / "state.sqlite")
    await state.start()
    kept = traces(state, persist=True)
    kept.start("t", CHAT, plan("a"))
    kept.finish("t")
    kept.record(outcome(trace="t", model="a"))
    again = traces(state, persist=True)
    assert again.get("t") is None
    found = await again.find("t")
    assert found is not None
    assert found["answered_by"] == "a"
    assert await again.find("unknown") is None
    await state.close()


def test_kept_prompts_are_bounded_one_by_one_and_together() -> None:
    kept = traces(store_prompts=True, prompt_bytes=20, prompt_memory=50)
    for number in range(4):
        kept.start(f"t{number}", CHAT, plan("a"), lambda: {"text": "long" * 100})
    kept.start("short", CHAT, plan("a"), lambda: {"text": "hi"})
    documents = [kept.get(name) for name in ("t0", "t1", "t2", "t3", "short")]
    prompts = [document.get("prompt") for document in documents if document is not None]
    long = {"bytes": 411, "beginning": '{"text":"longlonglon'}
    assert prompts == [None, None, None, long, {"text": "hi"}]
