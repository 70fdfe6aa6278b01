"""Jobs are made and opened without HTTP: as a batch runner or a WebSocket session does it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from backends.streams.assemble import ChatAssembler
from backends.wire.audio import TranscriptionRequest
from backends.wire.chat import ChatRequest
from backends.wire.tokens import DetokenizeRequest, TokenizeRequest
from catalog.errors import Draining, InvalidRequest, NotPermitted, RateLimited
from catalog.model import Capability
from routing.accounts.virtual_keys import KeyLimits, Rate, VirtualKeys
from routing.calling.bounds import KEY, Bound
from routing.calling.job import Job
from server import jobs
from server.callers import ANONYMOUS, Caller, Origin
from server.jobs import JOBS, chat_job, open_job
from server.runtime import Runtime
from tests.server.conftest import state
from tests.server.fakes import fake_runtime

ORIGIN = Origin(Caller("team"), "trace-1", {"x-roundhouse-prefer-fast": "true"})
BODIES: dict[Capability, dict[str, Any]] = {
    Capability.CHAT: {"model": "parrot", "messages": [{"role": "user", "content": "Hi"}]},
    Capability.COMPLETION: {"model": "parrot", "prompt": "Hi"},
    Capability.EMBED: {"model": "parrot", "input": "a"},
    Capability.RERANK: {"model": "r", "query": "q", "documents": ["a", "b"]},
    Capability.MODERATE: {"input": "Hello"},
    Capability.CLASSIFY: {"model": "r", "input": ["a"], "labels": ["good", "bad"]},
    Capability.SPEAK: {"model": "songbird", "input": "Hi"},
    Capability.IMAGE: {"model": "p", "prompt": "a bird"},
    Capability.VIDEO: {"model": "p", "prompt": "a bird"},
}


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[Runtime]:
    made = fake_runtime(tmp_path)[0]
    async with state(made):
        yield made


@pytest.mark.parametrize("capability", JOBS)
async def test_a_job_needs_a_body_and_an_origin_alone(runtime: Runtime, capability: Capability) -> None:
    kind, make = JOBS[capability]
    job = make(kind.model_validate(BODIES[capability]), ORIGIN)
    assert (job.trace, job.facts.key, job.facts.capability) == ("trace-1", "team", capability)
    assert job.facts.intent.prefer_fast
    async with open_job(runtime, job, ORIGIN.caller) as answer:
        assert [item async for item in answer]


@pytest.mark.parametrize(
    ("make", "body"),
    [
        (jobs.transcription_job, TranscriptionRequest(model="ear", file=b"RIFF")),
        (jobs.tokenize_job, TokenizeRequest(content="Hi")),
        (jobs.detokenize_job, DetokenizeRequest(tokens=[72])),
    ],
    ids=["transcription", "tokenize", "detokenize"],
)
async def test_jobs_of_other_bodies_are_made_alike(runtime: Runtime, make: Any, body: Any) -> None:
    async with open_job(runtime, make(body, ORIGIN), ORIGIN.caller) as answer:
        assert [item async for item in answer]


async def test_a_chat_is_assembled_from_an_opened_job(runtime: Runtime) -> None:
    job = chat_job(ChatRequest.model_validate(BODIES[Capability.CHAT]), Origin(ANONYMOUS, "t"))
    whole = ChatAssembler()
    async with open_job(runtime, job, ANONYMOUS) as answer:
        async for item in answer:
            whole.add(item)
    assert whole.result()["choices"][0]["message"]["content"] == "Hello there"


async def test_the_key_bounds_the_models_of_a_job_that_no_request_brought(runtime: Runtime) -> None:
    keys = _keys(runtime)
    created = await keys.create("bound", models=("songbird",))
    caller = Caller(created.info.id, key=created.info)
    job = chat_job(ChatRequest.model_validate(BODIES[Capability.CHAT]), Origin(caller, "t"))
    with pytest.raises(NotPermitted, match="parrot"):
        open_job(runtime, job, caller)


async def test_the_key_bounds_the_rate_of_jobs_that_no_request_brought(runtime: Runtime) -> None:
    created = await _keys(runtime).create("slow", limits=KeyLimits(requests=Rate(minute=1)))
    caller = Caller(created.info.id, key=created.info)
    job = chat_job(ChatRequest.model_validate(BODIES[Capability.CHAT]), Origin(caller, "t"))
    async with open_job(runtime, job, caller):
        pass
    with pytest.raises(RateLimited):
        async with open_job(runtime, job, caller):
            pass


async def test_what_is_left_of_the_keys_tokens_bounds_an_answer_that_has_no_bound(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = await _keys(runtime).create("few", limits=KeyLimits(tokens=Rate(day=1000)))
    caller = Caller(created.info.id, key=created.info)
    job = chat_job(ChatRequest.model_validate(BODIES[Capability.CHAT]), Origin(caller, "t"))
    opened: list[Job[Any]] = []

    def opening(job: Job[Any]) -> Any:
        opened.append(job)
        raise Draining("stops here")

    monkeypatch.setattr(runtime.dispatcher, "open", opening)
    with pytest.raises(Draining):
        async with open_job(runtime, job, caller):
            pass
    assert [one.bound for one in opened] == [Bound(1000 - job.facts.prompt_tokens, KEY)]
    asked = ChatRequest.model_validate({**BODIES[Capability.CHAT], "max_tokens": 2000})
    with pytest.raises(InvalidRequest, match="at most 9") as refused:
        async with open_job(runtime, chat_job(asked, Origin(caller, "t")), caller):
            pass
    assert refused.value.param == "max_tokens"


def test_a_job_that_contradicts_itself_is_refused_before_it_is_opened() -> None:
    kind, make = JOBS[Capability.IMAGE]
    with pytest.raises(InvalidRequest, match="partial_images"):
        make(kind.model_validate({**BODIES[Capability.IMAGE], "partial_images": 2}), ORIGIN)


def _keys(runtime: Runtime) -> VirtualKeys:
    assert runtime.keys is not None
    return runtime.keys


def test_jobs_are_made_without_any_web_framework() -> None:
    code = "import sys, server.jobs; print({'starlette', 'fastapi', 'uvicorn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
