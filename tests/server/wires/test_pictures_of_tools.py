"""Pictures that a tool returned, for text models: the session of an agent goes on, and the loss is named."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from catalog.types import Json
from server.app import create_app
from server.settings import Settings
from tests.conformance.features.doors import PICTURE, PNG
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault

PDF = "data:application/pdf;base64,JVBERi0xLjQ="
PAPERS: dict[str, Json] = {
    "/v1/chat/completions": {"type": "file", "file": {"filename": "a.pdf", "file_data": PDF}},
    "/v1/responses": {"type": "input_file", "filename": "a.pdf", "file_data": PDF},
    "/v1/messages": {
        "type": "document",
        "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0xLjQ="},
    },
}
URL = PICTURE
NOTE = "[The tool returned an image, which is left out: this model cannot read it.]"
LOST = "messages.tool.image_url"
CALL = {"id": "t", "type": "function", "function": {"name": "see", "arguments": "{}"}}
IN_CHAT: Json = {"type": "image_url", "image_url": {"url": URL}}
IN_RESPONSE: Json = {"type": "input_image", "image_url": URL}
IN_MESSAGE: Json = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": PNG},
}
TOOL = {"type": "function", "name": "see", "parameters": {"type": "object"}}


def of_chat(*own: Json) -> Json:
    return {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Look."}, *own]},
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "t", "content": [{"type": "text", "text": "Here:"}, IN_CHAT]},
        ],
        "tools": [{"type": "function", "function": {"name": "see", "parameters": {"type": "object"}}}],
    }


def of_response(*own: Json) -> Json:
    return {
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "Look."}, *own]},
            {"type": "function_call", "call_id": "t", "name": "see", "arguments": "{}"},
            {
                "type": "function_call_output",
                "call_id": "t",
                "output": [{"type": "input_text", "text": "Here:"}, IN_RESPONSE],
            },
        ],
        "tools": [TOOL],
    }


def of_message(*own: Json) -> Json:
    result = [{"type": "text", "text": "Here:"}, IN_MESSAGE]
    return {
        "max_tokens": 100,
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Look."}, *own]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "see", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": result}]},
        ],
        "tools": [{"name": "see", "input_schema": {"type": "object"}}],
    }


DOORS = {
    "/v1/chat/completions": (of_chat, IN_CHAT),
    "/v1/responses": (of_response, IN_RESPONSE),
    "/v1/messages": (of_message, IN_MESSAGE),
}


class Stand(NamedTuple):
    blind: FakeOpenAI
    other: FakeOpenAI
    http: httpx.AsyncClient


@pytest.fixture(params=[False], ids=["blind"])
async def stand(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Stand]:
    """``reader`` is a text model; with the parameter True, ``seer`` sees pictures."""
    async with FakeOpenAI() as blind, FakeOpenAI() as other:
        rows = [("reader", "blind", ["chat", "tools"])]
        if request.param:
            rows.append(("seer", "other", ["chat", "tools", "vision", "documents"]))
        settings = Settings.model_validate(
            {
                "data_dir": tmp_path,
                "endpoint": [
                    {"id": name, "protocol": "openai", "base_url": fake.base_url}
                    for name, fake in (("blind", blind), ("other", other))
                ],
                "model": [
                    {
                        "id": name,
                        "capabilities": able,
                        "source": {"kind": "upstream", "endpoint": place, "model": "fake-chat"},
                    }
                    for name, place, able in rows
                ],
            }
        )
        app = create_app(settings)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as http,
        ):
            yield Stand(blind, other, http)


def result_sent(fake: FakeOpenAI) -> Any:
    return next(m["content"] for m in fake.calls[-1].body["messages"] if m["role"] == "tool")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", DOORS)
async def test_a_text_model_goes_on_after_a_tool_returned_a_picture(stand: Stand, path: str, stream: bool) -> None:
    body, _ = DOORS[path]
    answer = await stand.http.post(path, json={"model": "reader", "stream": stream, **body()})
    assert answer.status_code == 200, answer.text
    assert LOST in answer.headers["x-roundhouse-dropped"].split(", ")
    assert [part["text"] for part in result_sent(stand.blind)] == ["Here:", NOTE]
    assert "iVBORw0KGgo" not in str(stand.blind.calls[-1].body)


@pytest.mark.parametrize("path", DOORS)
async def test_a_picture_of_the_users_own_stays_a_clear_400_for_a_text_model(stand: Stand, path: str) -> None:
    body, picture = DOORS[path]
    answer = await stand.http.post(path, json={"model": "reader", **body(picture)})
    assert answer.status_code == 400
    assert "vision" in answer.json()["error"]["message"]
    assert not stand.blind.calls


def with_paper(path: str, *own: Json) -> Json:
    """The request of a door whose tool returned a document in place of a picture."""
    body, picture = DOORS[path]
    replaced: Json = json.loads(json.dumps(body(*own)).replace(json.dumps(picture), json.dumps(PAPERS[path])))
    return replaced


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", DOORS)
async def test_a_text_model_goes_on_after_a_tool_returned_a_document(
    stand: Stand, path: str, stream: bool
) -> None:
    answer = await stand.http.post(path, json={"model": "reader", "stream": stream, **with_paper(path)})
    assert answer.status_code == 200, answer.text
    assert "messages.tool.file" in answer.headers["x-roundhouse-dropped"].split(", ")
    assert "JVBERi0xLjQ" not in str(stand.blind.calls[-1].body)
    assert "The tool returned a document" in str(result_sent(stand.blind))


@pytest.mark.parametrize("stand", [True], indirect=True, ids=["seeing"])
@pytest.mark.parametrize("path", DOORS)
async def test_a_document_of_the_users_own_is_refused_with_the_models_that_read_it(
    stand: Stand, path: str
) -> None:
    answer = await stand.http.post(path, json={"model": "reader", **with_paper(path, PAPERS[path])})
    assert answer.status_code == 400
    assert "lacks documents. These can: 'seer'." in answer.json()["error"]["message"]
    assert not stand.blind.calls


@pytest.mark.parametrize("stand", [True], indirect=True, ids=["seeing"])
@pytest.mark.parametrize("message", ["Unknown part type: file", "unsupported content[].type"])
async def test_a_server_that_refuses_a_tools_document_is_asked_without_it(stand: Stand, message: str) -> None:
    stand.other.script(Fault(status=400, message=message))
    path = "/v1/chat/completions"
    answer = await stand.http.post(path, json={"model": "seer", **with_paper(path)})
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-roundhouse-dropped"] == "messages.tool.file"


async def test_a_strict_request_loses_no_picture(stand: Stand) -> None:
    body = {"model": "reader", "routing": {"strict": True}, **of_chat()}
    assert (await stand.http.post("/v1/chat/completions", json=body)).status_code == 400
    assert not stand.blind.calls


@pytest.mark.parametrize("stand", [True], indirect=True, ids=["seeing"])
async def test_auto_shows_a_tools_picture_to_a_model_that_sees(stand: Stand) -> None:
    answer = await stand.http.post("/v1/chat/completions", json={"model": "auto", **of_chat()})
    assert answer.headers["x-roundhouse-model"] == "seer"
    assert "x-roundhouse-dropped" not in answer.headers
    assert "iVBORw0KGgo" in str(stand.other.calls[-1].body)


async def test_auto_goes_on_with_text_models_if_there_are_no_others(stand: Stand) -> None:
    answer = await stand.http.post("/v1/chat/completions", json={"model": "auto", **of_chat()})
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-roundhouse-dropped"] == LOST
    trace = (await stand.http.get(f"/v1/traces/{answer.headers['x-roundhouse-trace']}")).json()
    assert len(trace["attempts"]) == 1


@pytest.mark.parametrize("stand", [True], indirect=True, ids=["seeing"])
@pytest.mark.parametrize("path", DOORS)
async def test_a_server_that_refuses_a_tools_picture_is_asked_without_it(stand: Stand, path: str) -> None:
    stand.other.script(Fault(status=400, message="This model does not support image input."))
    answer = await stand.http.post(path, json={"model": "seer", **DOORS[path][0]()})
    assert answer.status_code == 200, answer.text
    assert LOST in answer.headers["x-roundhouse-dropped"].split(", ")
    first, second = (str(call.body) for call in stand.other.calls)
    assert "iVBORw0KGgo" in first
    assert NOTE in second
    trace = (await stand.http.get(f"/v1/traces/{answer.headers['x-roundhouse-trace']}")).json()
    assert [attempt["result"] for attempt in trace["attempts"]] == ["cannot", "success"]
