"""The engine ``apple`` over a FAKE of Apple's SDK (:mod:`tests.fakes.apple_fm_sdk`), as no machine here has it."""

from __future__ import annotations

import asyncio
import platform
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest

from backends.workers.engines.apple import AppleEngine, Conversation
from backends.workers.engines.registry import builtin_engines
from backends.workers.program.app import build_app
from backends.workers.spec import WorkerSpec
from catalog.catalog import Catalog
from catalog.errors import EngineMissing, ModelNotFound, ModelUnavailable
from tests.fakes import apple_fm_sdk as sdk

HELLO = [{"role": "user", "content": "Hello"}]


def spec(**fields: Any) -> WorkerSpec:
    return WorkerSpec(engine="apple", model_id="apple-on-device", socket="unused", api_key="k", **fields)


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apple_fm_sdk", sdk)
    monkeypatch.setattr(sdk.LanguageModelSession, "script", ["Good", "Good day", "Good day."])
    monkeypatch.setattr(sdk.LanguageModelSession, "made", [])


@pytest.fixture
async def worker() -> AsyncIterator[httpx.AsyncClient]:
    engine = AppleEngine(spec(slots=2))
    engine.load()
    transport = httpx.ASGITransport(build_app(spec(), engine))
    headers = {"authorization": "Bearer k"}
    async with httpx.AsyncClient(transport=transport, base_url="http://worker", headers=headers) as client:
        yield client


async def chat(worker: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await worker.post("/v1/chat/completions", json={"model": "m", "messages": HELLO, **fields})


def chunks(answer: httpx.Response) -> list[Any]:
    assert answer.status_code == 200, answer.text
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert events[-1] == "[DONE]"
    return [orjson.loads(event) for event in events[:-1]]


def text(told: list[Any]) -> str:
    return "".join(
        choice["delta"].get("content") or "" for chunk in told for choice in chunk["choices"] if "delta" in choice
    )


def session() -> sdk.LanguageModelSession:
    return sdk.LanguageModelSession.made[-1]


async def test_texts_that_grow_become_deltas_with_an_end_and_usage(worker: httpx.AsyncClient) -> None:
    told = chunks(await chat(worker))
    assert text(told) == "Good day."
    assert told[-2]["choices"][0]["finish_reason"] == "stop"
    assert told[-1]["usage"]["completion_tokens"] > 0
    assert (session().prompt, session().instructions, session().closed) == ("Hello", None, True)


async def test_a_conversation_is_a_transcript_and_its_last_message_the_prompt(worker: httpx.AsyncClient) -> None:
    before = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Two."},
        {"role": "developer", "content": "In English."},
    ]
    chunks(await chat(worker, messages=[*before, {"role": "user", "content": "Three?"}]))
    made = session()
    assert made.prompt == "Three?"
    assert made.transcript is not None
    assert made.transcript.content["type"] == "FoundationModels.Transcript"
    entries = made.transcript.content["transcript"]["entries"]
    assert [(each["role"], each["contents"][0]["text"]) for each in entries] == [
        ("instructions", "Be brief.\n\nIn English."),
        ("user", "One?"),
        ("response", "Two."),
    ]
    chunks(await chat(worker, messages=[before[0], *HELLO]))
    assert (session().instructions, session().transcript) == ("Be brief.", None)


async def test_sampling_is_the_systems(worker: httpx.AsyncClient) -> None:
    chunks(await chat(worker, temperature=0, max_tokens=50))
    assert session().options == sdk.GenerationOptions(sdk.SamplingMode("greedy"), None, 50)
    chunks(await chat(worker, temperature=0.5, top_p=0.9, top_k=40, seed=7))
    assert session().options == sdk.GenerationOptions(sdk.SamplingMode("random", 40, None, 7), 0.5, None)
    chunks(await chat(worker, top_p=0.9))
    assert session().options == sdk.GenerationOptions(sdk.SamplingMode("random", None, 0.9), None, None)


async def test_a_stop_sequence_ends_the_answer_and_the_work(
    worker: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sdk.LanguageModelSession, "script", ["one tw", "one two three", asyncio.Event()])
    told = chunks(await chat(worker, stop=[" two"]))
    assert text(told) == "one"
    assert told[-2]["choices"][0]["stop_reason"] == " two"
    assert session().closed


async def test_tokens_are_counted_by_an_sdk_that_counts(
    worker: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def token_count(_: sdk.SystemLanguageModel, value: str) -> int:
        return 100 + len(value)

    monkeypatch.setattr(sdk.SystemLanguageModel, "token_count", token_count, raising=False)
    told = chunks(await chat(worker, max_tokens=5))
    assert told[-1]["usage"]["completion_tokens"] == 109
    assert told[-2]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (sdk.ExceededContextWindowSizeError(), 400, "context_length_exceeded"),
        (sdk.GuardrailViolationError(), 400, "content_filter"),
        (sdk.UnsupportedLanguageOrLocaleError(), 400, "invalid_request"),
        (sdk.RateLimitedError(), 503, "model_temporarily_unavailable"),
        (sdk.FoundationModelsError(), 500, "request_failed"),
    ],
)
async def test_the_sdks_errors_are_ours(
    worker: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, code: str
) -> None:
    monkeypatch.setattr(sdk.LanguageModelSession, "script", [error])
    answer = await chat(worker)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    monkeypatch.setattr(sdk.LanguageModelSession, "script", ["a", error])
    assert orjson.loads((await chat(worker)).text.split("data: ")[-1])["error"]["code"] == code


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"logprobs": True}, "unsupported_parameter"),
        ({"grammar": "root ::= x"}, "unsupported_parameter"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "unsupported_parameter"),
        ({"messages": [*HELLO, {"role": "assistant", "content": "Hi"}]}, "unsupported_value"),
    ],
)
async def test_what_the_system_cannot_do_is_refused(
    worker: httpx.AsyncClient, fields: dict[str, Any], code: str
) -> None:
    answer = await chat(worker, **fields)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)


async def test_a_client_that_leaves_ends_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    from backends.wire.chat import ChatRequest

    monkeypatch.setattr(sdk.LanguageModelSession, "script", ["a", "ab", asyncio.Event()])
    engine = AppleEngine(spec())
    engine.load()
    request = ChatRequest.model_validate({"model": "m", "messages": HELLO})
    pieces = engine._pieces(Conversation.of(request), request)
    assert (await anext(pieces)).text == "a"
    assert engine.stats.active == 1
    await pieces.aclose()
    assert (engine.stats.active, engine.stats.cancelled, session().closed) == (0, 1, True)


def test_a_system_without_the_model_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sdk.SystemLanguageModel,
        "unavailable",
        sdk.SystemLanguageModelUnavailableReason.APPLE_INTELLIGENCE_NOT_ENABLED,
    )
    with pytest.raises(ModelUnavailable, match="turn on Apple Intelligence"):
        AppleEngine(spec()).load()


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apple_fm_sdk", None)
    with pytest.raises(EngineMissing, match="apple"):
        AppleEngine(spec()).load()


@pytest.mark.parametrize(
    ("system", "machine", "release", "there"),
    [
        ("darwin", "arm64", "26.1", True),
        ("darwin", "arm64", "27.0.1", True),
        ("darwin", "arm64", "15.5", False),
        ("darwin", "x86_64", "26.1", False),
        ("linux", "aarch64", "", False),
    ],
)
def test_the_model_is_a_row_on_machines_that_have_it(
    monkeypatch: pytest.MonkeyPatch, system: str, machine: str, release: str, there: bool
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(platform, "mac_ver", lambda: (release, ("", "", ""), machine))
    catalog = Catalog.builtin()
    if there:
        row = catalog.resolve("apple-intelligence")
        assert (row.id, row.engine) == ("apple-on-device", "apple")
        assert builtin_engines().options_of(row) is not None
    else:
        with pytest.raises(ModelNotFound):
            catalog.resolve("apple-on-device")
