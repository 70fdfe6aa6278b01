"""Ollama's API with its official SDK, and with the requests of Open WebUI and curl."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from ollama import AsyncClient, ResponseError

from backends.wire.embeddings import EmbeddingRequest
from backends.workers.pool import WorkerState
from catalog.catalog import Catalog
from catalog.errors import QueueFull, WorkerFailed
from catalog.model import Capability
from catalog.types import Json
from routing.accounts.virtual_keys import KeyLimits, Rate
from tests.conformance.features.doors import PNG
from tests.server.conftest import Gateway, Start
from tests.server.edge.test_gate import ADMIN, BEARER, KEYS
from tests.server.fakes import CHAT, chunk, usage_chunk

MESSAGES: Any = [{"role": "user", "content": "Hi"}]


@asynccontextmanager
async def client(gateway: Gateway, **headers: str) -> AsyncIterator[AsyncClient]:
    """Ollama's client of the gateway."""
    made = AsyncClient(host=str(gateway.client.base_url), headers=headers)
    try:
        yield made
    finally:
        await made.close()  # type: ignore[no-untyped-call]


async def test_a_chat_whole_and_streamed(serve: Start) -> None:
    async with serve() as gateway, client(gateway) as asked:
        whole = await asked.chat(model="parrot", messages=MESSAGES)
        assert whole.message.content == "Hello there"
        assert (whole.done, whole.done_reason, whole.prompt_eval_count, whole.eval_count) == (True, "stop", 3, 2)
        assert whole.total_duration is not None
        parts = [part async for part in await asked.chat(model="parrot:latest", messages=MESSAGES, stream=True)]
        assert "".join(part.message.content or "" for part in parts) == "Hello there"
        assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
        assert {part.model for part in parts} == {"parrot:latest"}, "the name that the client used"


async def test_answers_stream_unless_the_caller_says_otherwise(gateway: Gateway) -> None:
    for path, body in (("/api/chat", {"messages": MESSAGES}), ("/api/generate", {"prompt": "Hi"})):
        answer = await gateway.client.post(path, json={"model": "parrot", **body})
        assert answer.headers["content-type"] == "application/x-ndjson"
        assert answer.headers["x-roundhouse-model"] == "parrot"
        assert len(answer.text.splitlines()) > 2
        answer = await gateway.client.post(path, json={"model": "parrot", "stream": False, **body})
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()["done"] is True


async def test_a_prompt_is_continued_from_its_context_and_completed_raw(serve: Start) -> None:
    async with serve() as gateway, client(gateway) as asked:
        first = await asked.generate(model="parrot", prompt="Hi", system="Be brief.")
        assert first.response == "Hello there"
        await asked.generate(model="parrot", prompt="And now?", context=first.context)
        said = [(message.role, message.content) for message in gateway.backend.requests[-1].messages]
        assert said == [
            ("system", "Be brief."),
            ("user", "Hi"),
            ("assistant", "Hello there"),
            ("user", "And now?"),
        ]
        raw = [part async for part in await asked.generate(model="parrot", prompt="Once", raw=True, stream=True)]
        assert "".join(part.response or "" for part in raw) == "Hello there"
        assert raw[-1].context is None
        assert gateway.backend.requests[-1].prompt == "Once"
        assert gateway.backend.requests[-1].max_tokens > 1000, "not OpenAI's sixteen"


async def test_a_model_that_does_not_chat_completes_a_prompt(gateway: Gateway) -> None:
    runtime = gateway.services.runtime
    assert runtime is not None
    base = CHAT.model_copy(
        update={"id": "base", "aliases": (), "capabilities": frozenset({Capability.COMPLETION})}
    )
    runtime.live.current = Catalog.load(builtin=False, user_models=(base,))
    body = {"model": "base:latest", "prompt": "Once", "stream": False}
    assert (await gateway.client.post("/api/generate", json=body)).json()["response"] == "Hello there"
    assert gateway.backend.requests[-1].prompt == "Once"
    refused = await gateway.client.post("/api/generate", json={**body, "system": "Be brief."})
    assert "without 'system'" in refused.json()["error"]


async def test_an_empty_text_among_others_is_refused_by_its_place(gateway: Gateway) -> None:
    answer = await gateway.client.post("/api/embed", json={"model": "parrot", "input": ["a", ""]})
    assert answer.json() == {"error": "input[1]: a text must not be empty."}


async def test_tool_calls_come_whole_with_their_arguments(serve: Start) -> None:
    async with serve() as gateway, client(gateway) as asked:
        pieces = [
            {"index": 0, "id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a":'}},
            {"index": 0, "function": {"arguments": "1}"}},
        ]
        deltas = [
            {**chunk(), "choices": [{"index": 0, "delta": {"tool_calls": [piece]}, "finish_reason": None}]}
            for piece in pieces
        ]
        gateway.backend.script = (*deltas, chunk(finish="tool_calls"), usage_chunk())

        def add(a: int) -> int:
            """Add one."""
            return a + 1

        answer = await asked.chat(model="parrot", messages=MESSAGES, tools=[add])
        (called,) = answer.message.tool_calls or ()
        assert (called.function.name, called.function.arguments) == ("add", {"a": 1})
        assert gateway.backend.requests[-1].tools[0].function.name == "add"


async def test_vectors_of_both_endpoints(serve: Start) -> None:
    async with serve() as gateway, client(gateway) as asked:
        many = await asked.embed(model="parrot", input=["a", "b"], dimensions=2)
        assert many.embeddings == [[0.5, -0.25], [0.5, -0.25]]
        assert many.prompt_eval_count == 1
        request: EmbeddingRequest = gateway.backend.requests[-1]
        assert (request.dimensions, (request.model_extra or {})["truncate"]) == (2, True)
        assert (await asked.embeddings(model="parrot", prompt="a")).embedding == [0.5, -0.25]
        assert (await asked.embed(model="parrot", input=[])).embeddings == []
        assert (await asked.embeddings(model="parrot", prompt="")).embedding == []
        assert gateway.pool.loaded == [("parrot", None)] * 2, "no text loads the model"


async def test_the_lists_of_models(serve: Start) -> None:
    async with serve() as gateway, client(gateway) as asked:
        names = [model.model for model in (await asked.list()).models]
        assert names == ["parrot:latest", "auto:latest", "auto:fast", "auto:best", "auto:cheap", "auto:local"]
        shown = await asked.show("parrot:latest")
        assert shown.capabilities == ["completion"]
        assert (shown.modelinfo or {})["unknown.context_length"] == 4096
        assert (await asked.show("auto")).capabilities == ["completion"]
        assert (await gateway.client.post("/api/show", json={"name": "polly"})).status_code == 200
        (loaded,) = (await asked.ps()).models
        assert (loaded.name, loaded.size, loaded.size_vram, loaded.context_length) == (
            "parrot:latest",
            1000,
            0,
            4096,
        )
        assert loaded.expires_at == datetime(9999, 12, 31, tzinfo=UTC), "it is kept for ever"
        with pytest.raises(ResponseError) as unknown:
            await asked.show("nobody")
        assert unknown.value.status_code == 404


async def test_a_loading_model_is_not_among_the_loaded_ones(gateway: Gateway) -> None:
    gateway.pool.view = replace(gateway.pool.view, state=WorkerState.STARTING)
    assert (await gateway.client.get("/api/ps")).json() == {"models": []}


async def test_an_idle_model_says_when_it_leaves(gateway: Gateway) -> None:
    now = gateway.services.clock()
    gateway.pool.view = replace(gateway.pool.view, expires_at=now + 600)
    (loaded,) = (await gateway.client.get("/api/ps")).json()["models"]
    left = datetime.fromisoformat(loaded["expires_at"]) - datetime.now(UTC)
    assert 590 < left.total_seconds() <= 600


async def test_an_empty_request_loads_and_unloads(serve: Start) -> None:
    async with serve() as gateway, client(gateway) as asked:
        loaded = await asked.generate(model="parrot", keep_alive="10m")
        assert (loaded.done, loaded.done_reason, loaded.response) == (True, "load", "")
        assert gateway.pool.loaded == [("parrot", 600.0)]
        unloaded = await asked.chat(model="parrot", messages=[], keep_alive=0)
        assert (unloaded.done_reason, unloaded.message.content) == ("unload", "")
        assert gateway.pool.forced == [False]
        assert (await asked.generate(model="auto")).done_reason == "load"
        with pytest.raises(ResponseError, match="does not exist"):
            await asked.generate(model="nobody")
        with pytest.raises(ResponseError, match="served by another server"):
            await asked.generate(model="cloud/oracle", keep_alive=0)
        assert (await asked.generate(model="cloud/oracle")).done_reason == "load"


@pytest.mark.parametrize("path", ["chat", "generate", "embed", "embeddings"])
async def test_a_request_without_content_unloads_at_every_endpoint(gateway: Gateway, path: str) -> None:
    answer = await gateway.client.post(f"/api/{path}", json={"model": "parrot:latest", "keep_alive": 0})
    assert answer.status_code == 200
    assert (gateway.pool.loaded, gateway.pool.forced) == ([], [False])


@pytest.mark.parametrize("keep_alive", [None, 0])
@pytest.mark.parametrize(
    ("path", "fields", "says"),
    [
        ("chat", {"model": "nobody"}, "does not exist"),
        ("embed", {"model": "nobody"}, "does not exist"),
        ("embeddings", {"model": "nobody"}, "does not exist"),
        ("chat", {"options": {"temperature": "hot"}}, "options.temperature"),
        ("generate", {"options": {"num_ctx": "x"}}, "options.num_ctx"),
        ("generate", {"template": "x"}, "template"),
        ("chat", {"tools": [{"type": "x"}]}, "tools[0]"),
        ("embed", {"input": [""]}, "input[0]"),
    ],
)
async def test_a_request_without_content_is_checked_as_any_other(
    gateway: Gateway, path: str, fields: Json, says: str, keep_alive: int | None
) -> None:
    answer = await gateway.client.post(
        f"/api/{path}", json={"model": "parrot", "keep_alive": keep_alive, **fields}
    )
    assert answer.status_code in (400, 404)
    assert says in answer.json()["error"]
    assert (gateway.pool.loaded, gateway.pool.forced) == ([], [])


async def test_a_load_asks_whether_the_model_can_what_the_endpoint_does(gateway: Gateway) -> None:
    for path, capability in (("chat", Capability.CHAT), ("embed", Capability.EMBED)):
        await gateway.client.post(f"/api/{path}", json={"model": "parrot"})
        assert gateway.dispatcher.facts[-1].capability is capability


async def test_a_load_names_what_it_leaves_out(gateway: Gateway) -> None:
    body = {"model": "parrot", "options": {"num_ctx": 512}, "bogus": 1}
    answer = await gateway.client.post("/api/generate", json=body)
    assert answer.headers["x-roundhouse-dropped"] == "bogus, options.num_ctx"


async def test_every_listed_name_works_at_every_door(gateway: Gateway) -> None:
    listed = [row["model"] for row in (await gateway.client.get("/api/tags")).json()["models"]]
    listed += [row["id"] for row in (await gateway.client.get("/v1/models")).json()["data"]]
    assert {"parrot:latest", "auto:latest", "parrot", "auto"} <= set(listed)
    for name in listed:
        chat = {"model": name, "messages": MESSAGES, "stream": False}
        for path, body in (
            ("/v1/chat/completions", chat),
            ("/api/chat", chat),
            ("/v1/messages", {**chat, "max_tokens": 9}),
            ("/v1/responses", {"model": name, "input": "Hi"}),
            ("/v1/embeddings", {"model": name, "input": "Hi"}),
            ("/api/embed", {"model": name, "input": "Hi"}),
            ("/api/show", {"model": name}),
        ):
            answer = await gateway.client.post(path, json=body)
            assert answer.status_code == 200, (name, path, answer.text)
        assert (await gateway.client.get(f"/v1/models/{name}")).status_code == 200


async def test_a_busy_model_is_unloaded_once_its_calls_have_ended(gateway: Gateway) -> None:
    gateway.pool.view = replace(gateway.pool.view, busy=1)
    answer = await gateway.client.post("/api/generate", json={"model": "parrot", "keep_alive": 0})
    assert answer.json()["done_reason"] == "unload"
    assert (gateway.pool.kept, gateway.pool.forced) == ([("parrot", 0.0)], [])


async def test_an_administrator_says_how_long_a_model_stays_and_another_key_does_not(start: Start) -> None:
    body = {"model": "parrot", "messages": MESSAGES, "keep_alive": "5m", "stream": False}
    async with start(**KEYS) as gateway:
        await gateway.client.post("/api/chat", json=body, headers=ADMIN)
        assert gateway.pool.kept == [("parrot", 300.0)]
        plain = await gateway.client.post("/api/chat", json=body, headers=BEARER)
        assert plain.status_code == 200
        assert gateway.pool.kept == [("parrot", 300.0)]
        assert gateway.dispatcher.left_out[-1] == ("keep_alive",)
        refused = await gateway.client.post(
            "/api/generate", json={"model": "parrot", "keep_alive": 0}, headers=BEARER
        )
        assert refused.status_code == 403
        await gateway.client.post("/api/generate", json={"model": "parrot", "keep_alive": 7}, headers=BEARER)
        assert gateway.pool.loaded == [("parrot", None)]


async def test_errors_are_ollamas_on_its_paths_and_in_its_streams(serve: Start) -> None:
    async with (
        serve(api_keys="any") as gateway,
        client(gateway) as stranger,
        client(gateway, authorization="Bearer any") as asked,
    ):
        with pytest.raises(ResponseError, match="No API key") as refused:
            await stranger.list()
        assert refused.value.status_code == 401
        with pytest.raises(ResponseError, match=r"options\.num_predict") as wrong:
            await asked.chat(model="parrot", messages=MESSAGES, options={"num_predict": "many"})
        assert wrong.value.status_code == 400
        gateway.backend.script = (QueueFull("Full.", retry_after=1),)
        full = await asked.chat(model="parrot", messages=MESSAGES, stream=True)
        with pytest.raises(ResponseError, match="Full") as refused:
            await anext(aiter(full))
        assert refused.value.status_code == 429, "an error before the first line has its status"
        gateway.backend.script = (chunk("Hel"), WorkerFailed("It died."))
        broken = await asked.chat(model="parrot", messages=MESSAGES, stream=True)
        assert (await anext(aiter(broken))).message.content == "Hel"
        with pytest.raises(ResponseError, match=r"It died\."):
            await anext(aiter(broken))
        for method, path in (("GET", "/api/unheard"), ("GET", "/api/chat"), ("POST", "/api/tags")):
            answer = await gateway.client.request(method, path, headers={"authorization": "Bearer any"})
            assert answer.status_code in (404, 405)
            assert isinstance(answer.json()["error"], str)


@pytest.mark.parametrize("path", ["create", "copy", "push", "blobs/sha256:abc"])
async def test_what_is_not_served_says_what_to_do(gateway: Gateway, path: str) -> None:
    answer = await gateway.client.post(f"/api/{path}", json={"model": "parrot"})
    assert answer.status_code == 400
    assert "here" in answer.json()["error"]


async def test_a_body_needs_no_media_type_unless_a_web_page_sent_it(gateway: Gateway) -> None:
    """curl sends JSON as a form, and so may a page of another site, without asking."""
    form = {"content-type": "application/x-www-form-urlencoded"}
    body = b'{"model": "parrot", "prompt": "Hi", "stream": false}'
    for headers in (form, {}):
        answer = await gateway.client.post("/api/generate", content=body, headers=headers)
        assert answer.json()["response"] == "Hello there"
    for origin, status in (("https://evil.example", 403), (str(gateway.client.base_url).rstrip("/"), 415)):
        page = await gateway.client.post("/api/generate", content=body, headers={**form, "origin": origin})
        assert page.status_code == status
    assert (await gateway.client.post("/v1/chat/completions", content=body, headers=form)).status_code == 415


OPEN_WEBUI: tuple[tuple[str, str, Json | None], ...] = (
    ("GET", "/api/version", None),
    ("GET", "/api/tags", None),
    ("GET", "/api/ps", None),
    ("POST", "/api/show", {"model": "parrot:latest", "name": "parrot:latest"}),
    ("POST", "/api/embed", {"model": "parrot:latest", "input": ["a", "b"], "truncate": True}),
    ("POST", "/api/embeddings", {"model": "parrot:latest", "prompt": "a"}),
    ("POST", "/api/generate", {"model": "parrot:latest", "prompt": "Hi", "stream": True, "options": {}}),
    ("POST", "/api/generate", {"model": "parrot:latest", "keep_alive": 0, "prompt": ""}),
    (
        "POST",
        "/api/chat",
        {
            "model": "parrot:latest",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hi", "images": [PNG]},
                {"role": "assistant", "content": "", "tool_calls": [
                    {"index": 0, "id": "call_1", "function": {"name": "add", "arguments": {"a": 1}}}]},
                {"role": "tool", "content": "2", "tool_call_id": "call_1"},
            ],
            "options": {"num_ctx": 2048, "temperature": 0.7, "mirostat": 0, "num_gpu": 1, "stop": ["x"]},
            "stream": True,
            "keep_alive": "5m",
            "think": False,
            "tools": [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}],
        },
    ),
)  # fmt: skip
"""The calls that Open WebUI's ``routers/ollama.py`` makes, with the bodies of its forms."""


@pytest.mark.parametrize(("method", "path", "body"), OPEN_WEBUI, ids=lambda value: str(value)[:20])
async def test_the_calls_of_open_webui_are_answered(
    gateway: Gateway, method: str, path: str, body: Json | None
) -> None:
    headers = {"content-type": "application/json"}
    answer = await gateway.client.request(method, path, json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert "error" not in answer.text


async def test_the_version_is_numbers_that_clients_compare(gateway: Gateway) -> None:
    version = (await gateway.client.get("/api/version")).json()["version"]
    assert tuple(map(int, version.split("."))) >= (0, 12, 11), "the first with all that is served here"


@pytest.mark.parametrize("tokens", [Rate(), Rate(day=9)])
async def test_a_loading_is_a_request_of_its_key(start: Start, tokens: Rate) -> None:
    async with start(**KEYS) as gateway:
        new = await gateway.keys.create(
            "slow", models=("parrot",), limits=KeyLimits(requests=Rate(minute=1), tokens=tokens)
        )
        own = {"authorization": f"Bearer {new.secret}"}
        other = await gateway.client.post("/api/generate", json={"model": "songbird"}, headers=own)
        assert other.status_code == 403
        codes = [
            (await gateway.client.post(path, json={"model": "parrot"}, headers=own)).status_code
            for path in ("/api/generate", "/api/chat", "/api/embed", "/api/embeddings")
        ]
        assert codes == [200, 429, 429, 429]
        assert gateway.pool.loaded == [("parrot", None)]
