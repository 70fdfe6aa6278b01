"""The Responses API's ``image_generation`` through a real server, with a strict chat model and an image model."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.providers import endpoint, model, providers
from tests.e2e.serving import Served, eventually, served
from tests.fakes.openai import FakeOpenAI
from tests.fakes.openai_media import png
from tests.fakes.scripted import Scripted
from tests.fakes.server import Call, Fault

TOOL: Any = {"type": "image_generation"}
FOX = 'Call image_generation {"prompt": "a fox", "size": "1024x1024"} then Say "Done."'
WEATHER: Any = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}


@dataclass
class House:
    """A server between a chat model and an image model."""

    server: Served
    client: openai.OpenAI
    talker: Scripted
    painter: FakeOpenAI

    def respond(self, **fields: Any) -> Any:
        return self.client.responses.create(**fields)

    def drawn(self) -> list[Call]:
        return [call for call in self.painter.calls if call.path.endswith("/images/generations")]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder: Path = tmp_path_factory.mktemp("drawing")
    talker, painter = Scripted(), FakeOpenAI()
    with providers(talker, painter):
        rows = (
            endpoint("talks", talker) + endpoint("paints", painter) + endpoint("knows", painter, wire="responses")
        )
        rows += model("talker", "fake-chat", at="talks", capabilities=["chat", "tools"])
        rows += model("painter", "gpt-image-1", at="paints", capabilities=["image"])
        rows += model("native", "fake-chat", at="knows", capabilities=["chat", "tools"])
        (folder / "roundhouse.toml").write_text(rows)
        with (
            served(folder, environment={"ROUNDHOUSE_DATA_DIR": str(folder / "data")}) as running,
            openai.OpenAI(base_url=running.v1, api_key="none", max_retries=0) as client,
        ):
            yield House(running, client, talker, painter)


@pytest.fixture(autouse=True)
def fresh(house: House) -> None:
    house.talker.calls.clear()
    house.talker.refusals.clear()
    house.painter.calls.clear()


def test_a_picture_is_drawn_by_the_image_model_whole_and_streamed(house: House) -> None:
    ask: Any = {"model": "talker", "input": FOX, "tools": [{**TOOL, "partial_images": 1, "quality": "low"}]}
    whole = house.respond(**ask)
    with house.client.responses.stream(**ask) as stream:
        kinds = [event.type for event in stream]
        final: Any = stream.get_final_response()
    assert kinds.count("response.image_generation_call.partial_image") == 1
    for response in (whole, final):
        picture, said = response.output
        assert picture.type == "image_generation_call"
        assert picture.status == "completed"
        assert base64.b64decode(picture.result or "") == png()
        assert said.type == "message"
        assert response.output_text == "Done."
        assert response.usage.total_tokens > 0
    first, second = house.drawn()
    options = {"model": "gpt-image-1", "prompt": "a fox", "size": "1024x1024", "quality": "low"}
    assert first.body == options
    assert second.body == {**options, "stream": True, "partial_images": 1}
    assert not house.talker.refusals
    trace = httpx.get(f"{house.server.v1}/traces/{whole.id.removeprefix('resp_')}").json()
    assert [attempt["model"] for attempt in trace["attempts"]] == ["talker", "painter", "talker"]
    assert (trace["status"], trace["answered_by"]) == ("done", "talker")


def test_the_conversation_goes_on_after_a_picture(house: House) -> None:
    first = house.respond(model="talker", input=FOX, tools=[TOOL])
    second = house.respond(model="talker", input='Say "Good."', tools=[TOOL], previous_response_id=first.id)
    assert second.output_text == "Good."
    assert not house.talker.refusals


def test_a_model_that_must_draw_draws_once(house: House) -> None:
    response = house.respond(model="talker", input=FOX, tools=[TOOL], tool_choice={"type": "image_generation"})
    assert [item.type for item in response.output] == ["image_generation_call", "message"]
    assert len(house.drawn()) == 1


def test_an_image_model_that_refuses_is_told_to_the_chat_model(house: House) -> None:
    house.painter.script(Fault(status=400, message="Your fox is not safe.", code="moderation_blocked"))
    response = house.respond(model="talker", input=FOX, tools=[TOOL])
    picture: Any = response.output[0]
    assert (picture.status, picture.result) == ("failed", None)
    assert response.output_text == "Done."
    result = house.talker.calls[-1].body["messages"][-1]
    assert result["role"] == "tool"
    assert "No picture was drawn" in result["content"]


def test_a_clients_own_function_goes_on_beside_it(house: House) -> None:
    asks = 'Call weather {} Call image_generation {"prompt": "a fox"} Say "Done."'
    ask: Any = {"model": "talker", "tools": [TOOL, WEATHER]}
    first = house.respond(input=asks, **ask)
    (call,) = first.output
    assert call.type == "function_call"
    output: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "Rain."}]
    second = house.respond(input=output, previous_response_id=first.id, **ask)
    assert [item.type for item in second.output] == ["image_generation_call", "message"]
    assert second.output_text == "Done."
    assert not house.talker.refusals


def test_a_provider_that_draws_itself_gets_the_tool_as_it_is(house: House) -> None:
    house.respond(model="native", input="Hi", tools=[TOOL])
    (call,) = house.painter.calls
    assert call.path.endswith("/responses")
    assert call.body["tools"] == [TOOL]


def test_a_client_that_leaves_ends_the_drawing(house: House) -> None:
    house.painter.script(Fault(stall_after=1))
    stream = house.respond(model="talker", input=FOX, tools=[{**TOOL, "partial_images": 2}], stream=True)
    for event in stream:
        if event.type == "response.image_generation_call.partial_image":
            break
    stream.close()
    (call,) = house.drawn()
    assert eventually(call.cancelled.is_set, within=10)
    assert len(house.talker.calls) == 1


def test_a_batch_draws(house: House) -> None:
    line = {"custom_id": "a", "method": "POST", "url": "/v1/responses"}
    body = {"model": "talker", "input": FOX, "tools": [TOOL]}
    data = json.dumps({**line, "body": body}).encode()
    file = house.client.files.create(file=("in.jsonl", data), purpose="batch")
    batch = house.client.batches.create(input_file_id=file.id, endpoint="/v1/responses", completion_window="24h")
    assert eventually(lambda: house.client.batches.retrieve(batch.id).status == "completed", within=30)
    done = house.client.batches.retrieve(batch.id)
    assert done.output_file_id is not None
    answer = json.loads(house.client.files.content(done.output_file_id).text)["response"]["body"]
    assert [item["type"] for item in answer["output"]] == ["image_generation_call", "message"]
