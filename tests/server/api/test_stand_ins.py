"""Names that apps have built in are answered by the models of ``[routing.stand_ins]``, at every door."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest

from backends.wire.chat import ChatRequest
from catalog.errors import ConfigurationError
from routing.reading.stand_ins import StandIns
from server.answers.rounds import ServerCall
from server.callers import ANONYMOUS, Origin
from server.catalog_updates import read_catalog
from server.jobs import chat_job
from server.processes.reload import apply_settings
from server.settings import Settings, load_settings
from server.wires.responses.drawing import ImageTool, can_draw
from tests.fakes.openai import FakeOpenAI
from tests.security.conftest import OpenSite, Site, logs, provider, site

__all__ = ["logs", "provider", "site"]
STAND_INS = {
    "gpt-4o*": "far",
    "gpt-4o-mini": "auto:cheap",
    "davinci": "near",
    "text-embedding-*": "vector",
    "rerank-*": "ranker",
    "zero-shot": "judge",
    "omni-moderation-*": "warden",
    "whisper-1": "ear",
    "tts-1*": "auto",
    "dall-e-?": "brush",
}
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
async def gateway(site: OpenSite) -> AsyncIterator[Site]:
    async with site(routing={"stand_ins": STAND_INS}) as running:
        yield running


DOORS: dict[str, tuple[str, dict[str, Any], str]] = {
    "chat": ("/v1/chat/completions", {"model": "gpt-4o-2024-08-06", "messages": HELLO}, "far"),
    "stream": ("/v1/chat/completions", {"model": "GPT-4o", "messages": HELLO, "stream": True}, "far"),
    "completions": ("/v1/completions", {"model": "davinci", "prompt": "Hello"}, "near"),
    "responses": ("/v1/responses", {"model": "gpt-4o", "input": "Hello"}, "far"),
    "messages": ("/v1/messages", {"model": "gpt-4o", "max_tokens": 9, "messages": HELLO}, "far"),
    "ollama": ("/api/chat", {"model": "gpt-4o:latest", "messages": HELLO, "stream": False}, "far"),
    "embeddings": ("/v1/embeddings", {"model": "text-embedding-3-small", "input": "Hello"}, "vector"),
    "ollama-embed": ("/api/embed", {"model": "text-embedding-ada-002", "input": "Hello"}, "vector"),
    "tei": ("/embed", {"model": "text-embedding-3-large", "inputs": "Hello"}, "vector"),
    "cohere": ("/v2/embed", {"model": "text-embedding-3-large", "texts": ["Hello"]}, "vector"),
    "rerank": ("/v1/rerank", {"model": "rerank-v3.5", "query": "a", "documents": ["b"]}, "ranker"),
    "tei-rerank": ("/rerank", {"model": "rerank-v3.5", "query": "a", "texts": ["b"]}, "ranker"),
    "classify": ("/v1/classify", {"model": "zero-shot", "input": "a", "labels": ["b", "c"]}, "judge"),
    "moderations": ("/v1/moderations", {"model": "omni-moderation-latest", "input": "a"}, "warden"),
    "speech": ("/v1/audio/speech", {"model": "tts-1-hd", "input": "Hello", "voice": "alloy"}, "mouth"),
    "images": ("/v1/images/generations", {"model": "dall-e-3", "prompt": "A fox"}, "brush"),
}


@pytest.mark.parametrize("door", DOORS)
async def test_every_door_answers_by_the_stand_in_and_says_so(gateway: Site, door: str) -> None:
    path, body, real = DOORS[door]
    answer = await gateway.client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-roundhouse-stand-in"] == body["model"]
    assert answer.headers["x-roundhouse-model"] == real
    assert f"stands in for '{body['model']}'" in answer.headers["x-roundhouse-reason"]
    if answer.headers["content-type"].startswith("application/json"):
        told = answer.json()
        assert isinstance(told, list) or told.get("model") != body["model"]


async def test_a_form_names_a_stand_in_too(gateway: Site) -> None:
    form = {"model": "whisper-1"}
    sound = {"file": ("a.wav", b"RIFF", "audio/wav")}
    answer = await gateway.client.post("/v1/audio/transcriptions", data=form, files=sound)
    assert answer.status_code == 200, answer.text
    assert (answer.headers["x-roundhouse-model"], answer.headers["x-roundhouse-stand-in"]) == ("ear", "whisper-1")


@pytest.mark.parametrize("path", ["/props?model=davinci", "/tokenizer_info?model=davinci"])
async def test_a_query_names_a_stand_in_too(site: OpenSite, path: str) -> None:
    async with site() as running:
        unknown = await running.client.get(path)
        assert unknown.json()["error"]["code"] == "model_not_found"
    async with site(routing={"stand_ins": STAND_INS}) as running:
        answer = await running.client.get(path)
        assert answer.json().get("error", {}).get("code") != "model_not_found", answer.text


async def test_the_drawing_tool_of_a_response_names_a_stand_in_too(gateway: Site) -> None:
    tool = {"type": "image_generation", "model": "dall-e-3"}
    origin = Origin(ANONYMOUS, "0" * 32)
    drawing = ImageTool(gateway.runtime, ANONYMOUS, origin, tool, streamed=False)
    chat = chat_job(ChatRequest.model_validate({"model": "far", "messages": HELLO}), origin)
    call = ServerCall(id="call_1", name="draw", number=0, arguments='{"prompt": "A fox"}')
    assert can_draw(tool, "far", gateway.runtime, ANONYMOUS)
    async for _ in drawing.run(call, chat):
        pass
    assert "The picture is drawn" in call.result
    gateway.runtime.stand_ins = StandIns({})
    assert not can_draw(tool, "far", gateway.runtime, ANONYMOUS)


async def test_ollamas_answer_names_the_model_that_answered(gateway: Site) -> None:
    body = {"model": "gpt-4o-mini", "messages": HELLO, "stream": False}
    answer = await gateway.client.post("/api/chat", json=body)
    assert answer.headers["x-roundhouse-stand-in"] == "gpt-4o-mini"
    assert answer.json()["model"] not in ("gpt-4o-mini", "auto:cheap")


async def test_the_trace_and_the_route_name_both(gateway: Site) -> None:
    body = {"model": "gpt-4o", "messages": HELLO}
    answered = await gateway.client.post("/v1/chat/completions", json=body)
    trace = (await gateway.client.get(f"/v1/traces/{answered.headers['x-roundhouse-trace']}")).json()
    route = (await gateway.client.post("/v1/route", json=body)).json()
    for told in (trace["request"], route["request"]):
        assert (told["stands_for"], told["requested"]) == ("gpt-4o", "far")
    assert route["model"] == "far"


async def test_one_model_is_described_under_the_name_and_the_list_has_real_models_only(gateway: Site) -> None:
    card = (await gateway.client.get("/v1/models/gpt-4o")).json()
    assert card["id"] == "far"
    assert (await gateway.client.get("/v1/models/gpt-4o-mini")).json()["id"] == "auto:cheap"
    listed = {row["id"] for row in (await gateway.client.get("/v1/models")).json()["data"]}
    assert not listed & {"gpt-4o", "gpt-4o-mini", "davinci", "whisper-1"}
    shown = await gateway.client.post("/api/show", json={"model": "gpt-4o"})
    assert shown.status_code == 200, shown.text


async def test_a_model_that_is_set_up_under_the_name_goes_before_its_stand_in(site: OpenSite) -> None:
    names = {"far": "near", "near": "far", "gpt-4o": "near"}
    async with site(routing={"stand_ins": names}) as running:
        for name, real in {"far": "far", "near": "near", "gpt-4o": "near"}.items():
            answer = await running.client.post("/v1/chat/completions", json={"model": name, "messages": HELLO})
            assert answer.headers["x-roundhouse-model"] == real
            assert ("x-roundhouse-stand-in" in answer.headers) == (name == "gpt-4o")


async def test_a_key_needs_the_real_model(site: OpenSite) -> None:
    async with site(admin_keys="an-admin-key", routing={"stand_ins": STAND_INS}) as running:
        assert running.runtime.keys is not None
        bound = await running.runtime.keys.create("bound", models=("near", "gpt-4o*"))
        headers = {"authorization": f"Bearer {bound.secret}"}

        async def asked(model: str) -> httpx.Response:
            body = {"model": model, "messages": HELLO}
            return await running.client.post("/v1/chat/completions", json=body, headers=headers)

        assert (await asked("gpt-4o")).status_code == 403
        assert (await running.client.get("/v1/models/gpt-4o", headers=headers)).status_code == 403
        chosen = await asked("gpt-4o-mini")
        assert (chosen.status_code, chosen.headers["x-roundhouse-model"]) == (200, "near")


async def test_without_stand_ins_an_unknown_name_is_unknown(site: OpenSite) -> None:
    async with site() as running:
        answer = await running.client.post("/v1/chat/completions", json={"model": "gpt-4o-x", "messages": HELLO})
        assert answer.json()["error"]["code"] == "model_not_found"


async def test_embeddings_are_refused_where_the_router_would_choose_their_model(site: OpenSite) -> None:
    async with site(routing={"stand_ins": {"*": "auto"}}) as running:
        answer = await running.client.post("/v1/embeddings", json={"model": "some-vectors", "input": "a"})
        assert answer.status_code == 400
        assert "vectors of two models do not compare" in answer.json()["error"]["message"]
        chat = await running.client.post("/v1/chat/completions", json={"model": "any-name", "messages": HELLO})
        assert chat.status_code == 200


async def test_a_stand_in_that_is_gone_is_named_in_the_error(site: OpenSite) -> None:
    async with site() as running:
        running.runtime.stand_ins = StandIns({"gpt-4o": "lost"})
        answer = await running.client.post("/v1/chat/completions", json={"model": "gpt-4o", "messages": HELLO})
        assert answer.status_code == 404
        assert "'gpt-4o' stands for 'lost' here" in answer.json()["error"]["message"]


async def test_lines_of_a_batch_have_stand_ins(gateway: Site, provider: FakeOpenAI) -> None:
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions"}
    rows = [{**line, "body": {"model": "gpt-4o", "messages": HELLO}}]
    file = {"file": ("in.jsonl", b"\n".join(orjson.dumps(row) for row in rows))}
    uploaded = await gateway.client.post("/v1/files", data={"purpose": "batch"}, files=file)
    body = {
        "input_file_id": uploaded.json()["id"],
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    batch = (await gateway.client.post("/v1/batches", json=body)).json()
    while batch["status"] in ("validating", "in_progress", "finalizing"):
        batch = (await gateway.client.get(f"/v1/batches/{batch['id']}")).json()
    assert batch["status"] == "completed", batch
    results = (await gateway.client.get(f"/v1/files/{batch['output_file_id']}/content")).text
    assert orjson.loads(results)["response"]["body"]["model"] == "far"
    assert provider.calls[-1].body["model"] == "fake-chat"


def test_the_nearest_pattern_is_meant() -> None:
    found = StandIns({"gpt-*": "a", "gpt-4o*": "b", "gpt-4o-mini": "c"})
    names = ("gpt-3", "GPT-4o-x", "gpt-4o-mini", "gpt-4o-mini:latest")
    assert [target for name in names for _, target in [found(name) or ("", "")]] == ["a", "b", "c", "c"]
    assert found("llama") is None
    assert StandIns({"*": "a"})("auto:best") is None
    assert not StandIns({})


@pytest.mark.parametrize(
    ("pattern", "target", "why"),
    [
        ("auto:fast", "far", "the router's own name"),
        ("gpt-4o", "auto:smart", "not a routing mode"),
        ("gpt-4o", "llama*", "is a pattern"),
        ("gpt-4o", "", "must not be empty"),
        ("text-embedding-*", "auto", "name one embedding model"),
    ],
)
def test_a_stand_in_that_cannot_be_is_refused_when_the_settings_are_read(
    pattern: str, target: str, why: str
) -> None:
    with pytest.raises(ConfigurationError, match=why):
        load_settings(routing={"stand_ins": {pattern: target}})


def vectors(row: str, **fields: Any) -> dict[str, Any]:
    source = {"kind": "upstream", "endpoint": "cloud", "model": row}
    return {"id": row, "capabilities": ["embed"], "source": source, **fields}


@pytest.mark.parametrize(
    ("stand_ins", "why"),
    [
        ({"text-embedding-*": "twins"}, "vectors may not compare"),
        ({"text-embedding-*": "chat"}, "it can chat"),
        ({"voyage-*": "auto"}, "name one embedding model"),
        ({"gpt-4o": "nothing-like-it"}, "does not exist"),
    ],
)
def test_a_stand_in_that_the_catalogue_rules_out_keeps_the_server_from_starting(
    stand_ins: dict[str, str], why: str, tmp_path: Any
) -> None:
    from catalog.store.store import Store

    settings = Settings.model_validate(
        {
            "data_dir": tmp_path,
            "endpoint": [{"id": "cloud", "base_url": "https://cloud.example/v1"}],
            "model": [
                vectors("one", name="twins"),
                vectors("two", name="twins"),
                vectors("voyage-9"),
                {**vectors("chat"), "capabilities": ["chat"]},
            ],
            "routing": {"stand_ins": stand_ins},
        }
    )
    with pytest.raises(ConfigurationError, match=why):
        read_catalog(settings, Store(tmp_path / "models"))


async def test_a_reload_changes_the_stand_ins(gateway: Site) -> None:
    routing = gateway.settings.routing.model_copy(update={"stand_ins": {"gpt-4o": "near"}})
    changed = gateway.settings.model_copy(update={"routing": routing})
    assert await apply_settings(gateway.services, changed) == ["routing.stand_ins"]
    answer = await gateway.client.post("/v1/chat/completions", json={"model": "gpt-4o", "messages": HELLO})
    assert answer.headers["x-roundhouse-model"] == "near"
    assert (await gateway.client.get("/v1/models/davinci")).status_code == 404
