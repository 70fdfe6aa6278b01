"""The hosted tool ``image_generation``, served by the gateway's own image models, with OpenAI's SDK."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from backends.base import Upstream
from backends.wire.chat import ChatRequest
from backends.wire.images import ImageRequest
from catalog.catalog import Catalog
from catalog.errors import RoundhouseError, Unavailable
from catalog.model import Capability, LibrarySource, Model, UpstreamSource
from catalog.types import Json
from routing.accounts.virtual_keys import KeyInfo
from routing.facts import Workload
from server.answers.rounds import MOST_ROUNDS, added
from server.callers import Caller
from server.runtime import HasCatalog
from server.wires.responses.drawing import can_draw
from tests.server.api.test_openai_sdk import sdk
from tests.server.conftest import Gateway, Start
from tests.server.fakes import CHAT, FakeAnswer, FakeBackend, Script, chunk, usage_chunk

TOOL: Any = {"type": "image_generation"}
OTHER: Any = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}
ASK: Any = {"model": "parrot", "input": "Draw a fox.", "tools": [TOOL]}
ENDPOINTS: tuple[Json, ...] = ({"id": "x", "base_url": "https://cloud.example/v1"},)
TALKS = CHAT.model_copy(update={"capabilities": CHAT.capabilities | {Capability.TOOLS}})
BRUSH = Model(
    id="brush",
    capabilities=frozenset({Capability.IMAGE}),
    source=LibrarySource(module="brush"),
    engine="diffusion",
)


def calls(*named: tuple[str, Json | str], text: str | None = None, finish: str = "tool_calls") -> Script:
    """A round that calls these functions, whose arguments come in two pieces."""
    made: list[Json] = [] if text is None else [chunk(text)]
    for index, (name, arguments) in enumerate(named):
        written = arguments if isinstance(arguments, str) else json.dumps(arguments)
        for at, piece in enumerate((written[:5], written[5:])):
            head = {"id": f"call_{index}", "type": "function"} if at == 0 else {}
            function = {"arguments": piece, **({"name": name} if at == 0 else {})}
            said = chunk()
            said["choices"][0]["delta"] = {"tool_calls": [{"index": index, **head, "function": function}]}
            made.append(said)
    return (*made, chunk(finish=finish), usage_chunk())


FOX = calls(("image_generation", {"prompt": "A fox", "size": "512x512"}))
DONE: Script = (chunk("Here it is."), chunk(finish="stop"), usage_chunk())


class Artist(FakeBackend):
    """Plays one script per chat, the last one again and again; draws, waits or fails as ``canvas`` says."""

    def __init__(self, *scripts: Script) -> None:
        super().__init__()
        self.scripts = list(scripts)
        self.canvas: Sequence[Json | RoundhouseError | asyncio.Event] = (
            {"type": "image_generation.completed", "b64_json": "cGlj", "usage": {"total_tokens": 4}},
        )

    async def chat(self, upstream: Upstream, request: ChatRequest) -> AsyncIterator[Json]:
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        async for item in self._play(request, script):
            yield {**item}

    async def draw(self, upstream: Upstream, request: ImageRequest) -> AsyncIterator[Json]:
        async for item in self._play(request, self.canvas):
            yield {**item}

    @property
    def chats(self) -> list[ChatRequest]:
        return [request for request in self.requests if isinstance(request, ChatRequest)]

    @property
    def pictures(self) -> list[ImageRequest]:
        return [request for request in self.requests if isinstance(request, ImageRequest)]


@asynccontextmanager
async def studio(serve: Start, *scripts: Script, rows: Sequence[Model] = (TALKS, BRUSH)) -> AsyncIterator[Studio]:
    async with serve() as gateway, sdk(gateway) as client:
        yield prepared(gateway, client, Artist(*scripts), rows)


class Studio:
    def __init__(self, gateway: Gateway, client: AsyncOpenAI, artist: Artist) -> None:
        self.gateway, self.client, self.artist = gateway, client, artist

    async def ask(self, **fields: Any) -> Any:
        return await self.client.responses.create(**{**ASK, **fields})


def prepared(gateway: Gateway, client: AsyncOpenAI, artist: Artist, rows: Sequence[Model]) -> Studio:
    runtime = gateway.services.runtime
    assert runtime is not None
    live: HasCatalog = runtime.live
    live.current = Catalog.load(builtin=False, user_models=tuple(rows), user_endpoints=ENDPOINTS)
    gateway.dispatcher.backend = gateway.backend = artist
    return Studio(gateway, client, artist)


def types_of(response: Any) -> list[str]:
    return [item.type for item in response.output]


async def test_a_picture_is_drawn_and_the_model_goes_on(serve: Start) -> None:
    async with studio(serve, calls(("image_generation", {"prompt": "A fox"}), text="Wait."), DONE) as made:
        response = await made.ask(instructions="Be kind.")
        assert types_of(response) == ["message", "image_generation_call", "message"]
        picture = response.output[1]
        assert (picture.status, picture.result, picture.revised_prompt) == ("completed", "cGlj", "A fox")
        assert response.output_text == "Wait.Here it is."
        assert response.status == "completed"
        assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (
            6,
            4,
            10,
        )
        first, second = made.artist.chats
        assert [tool.function.name for tool in first.tools or () if tool.function] == ["image_generation"]
        assert second.tools == first.tools
        assert (second.model, second.tool_choice) == ("parrot", "auto")
        call, result = second.messages[-2:]
        assert (call.role, call.content) == ("assistant", "Wait.")
        assert call.tool_calls is not None
        assert (result.role, result.tool_call_id) == ("tool", call.tool_calls[0].id)
        assert picture.id in str(result.content)
        assert (await made.client.responses.retrieve(response.id)).output[1] == picture


async def test_the_events_are_those_of_the_sdk_in_order(serve: Start) -> None:
    async with studio(serve, FOX, DONE) as made:
        made.artist.canvas = (
            {"type": "image_generation.partial_image", "b64_json": "aGFsZg==", "partial_image_index": 0},
            *made.artist.canvas,
        )
        stream = await made.ask(stream=True, tools=[{**TOOL, "partial_images": 1}])
        events: list[Any] = [event async for event in stream]
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert [event.type.removeprefix("response.") for event in events] == [
            *("created", "in_progress", "output_item.added"),
            *(
                f"image_generation_call.{step}"
                for step in ("in_progress", "generating", "partial_image", "completed")
            ),
            *("output_item.done", "output_item.added", "content_part.added", "output_text.delta"),
            *("output_text.done", "content_part.done", "output_item.done", "completed"),
        ]
        assert type(events[5]).__name__ == "ResponseImageGenCallPartialImageEvent"
        assert (events[5].partial_image_b64, events[5].partial_image_index) == ("aGFsZg==", 0)
        begun, ended = events[2].item, events[7].item
        assert (begun.status, begun.result, ended.status, ended.result) == (
            "in_progress",
            None,
            "completed",
            "cGlj",
        )
        assert {event.item_id for event in events[3:7]} == {begun.id}
        assert {event.output_index for event in events[2:8]} == {0}
        assert events[-1].response.output[0] == ended
        (picture,) = made.artist.pictures
        assert (picture.prompt, picture.size, picture.stream, picture.partial_images) == (
            "A fox",
            "512x512",
            True,
            1,
        )


async def test_the_options_of_the_tool_bind_the_model(serve: Start) -> None:
    options = {
        "size": "256x256",
        "quality": "low",
        "output_format": "webp",
        "background": "auto",
        "model": "brush",
    }
    async with studio(serve, FOX, DONE) as made:
        raw = await made.client.responses.with_raw_response.create(
            **{**ASK, "tools": [{**TOOL, **options, "input_fidelity": "high"}]}
        )
        (picture,) = made.artist.pictures
        assert picture.to_wire() == {
            "model": "brush",
            "prompt": "A fox",
            "size": "256x256",
            "quality": "low",
            "output_format": "webp",
        }
        (function,) = [tool.function for tool in made.artist.chats[0].tools or () if tool.function]
        assert list((function.parameters or {})["properties"]) == ["prompt"]
        assert made.gateway.dispatcher.left_out[0] == ("tools.input_fidelity",)
        assert raw.headers["x-roundhouse-attempts"] == "2"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"prompt": "A fox"}, "The canvas tore."),
        ({"prompt": ""}, "prompt"),
        ({}, "prompt"),
        ({"prompt": "A fox", "size": "huge"}, "size"),
        ("[1]", "not a JSON object"),
        ("{broken", "not a JSON object"),
    ],
)
async def test_a_drawing_that_fails_is_told_to_the_model(serve: Start, arguments: Any, told: str) -> None:
    async with studio(serve, calls(("image_generation", arguments)), DONE) as made:
        made.artist.canvas = (Unavailable("The canvas tore."),)
        response = await made.ask()
        assert (response.status, response.output_text) == ("completed", "Here it is.")
        picture = response.output[0]
        assert (picture.status, picture.result) == ("failed", None)
        assert told in picture.error.message
        call, result = made.artist.chats[1].messages[-2:]
        assert told in str(result.content)
        assert call.tool_calls is not None
        assert call.tool_calls[0].function is not None
        assert isinstance(json.loads(call.tool_calls[0].function.arguments), dict), (
            "providers refuse anything else"
        )
        again = await made.ask(input="Again.", tools=[], previous_response_id=response.id)
        assert again.status == "completed", "a failed picture is left out where the model has no such tool"


async def test_later_turns_tell_the_model_what_it_drew(serve: Start) -> None:
    async with studio(serve, FOX, FOX, DONE) as made:
        first = await made.ask()
        await made.ask(input="Once more.", previous_response_id=first.id)
        told = [(message.role, message.tool_call_id) for message in made.artist.chats[-1].messages]
        ids = [item.id for item in first.output if item.type == "image_generation_call"]
        assert len(ids) == 2
        called: list[Any] = [*(pair for each in ids for pair in (("assistant", None), ("tool", each)))]
        assert told == [("user", None), *called, ("assistant", None), ("user", None)]


async def test_a_call_that_the_client_answers_ends_the_round(serve: Start) -> None:
    both = calls(("weather", {"city": "Oslo"}), ("image_generation", {"prompt": "A fox"}))
    async with studio(serve, both, DONE) as made:
        response = await made.ask(tools=[TOOL, OTHER])
        assert types_of(response) == ["function_call", "image_generation_call"]
        assert response.output[0].arguments == '{"city": "Oslo"}'
        assert response.output[1].result == "cGlj"
        assert len(made.artist.chats) == 1
        output = {"type": "function_call_output", "call_id": response.output[0].call_id, "output": "Rain."}
        after = await made.ask(tools=[TOOL, OTHER], input=[output], previous_response_id=response.id)
        assert after.output_text == "Here it is."


@pytest.mark.parametrize(
    "choice", [TOOL, "required", {"type": "allowed_tools", "mode": "required", "tools": [TOOL]}]
)
async def test_a_choice_of_the_tool_holds_for_the_first_round(serve: Start, choice: Any) -> None:
    async with studio(serve, FOX, DONE) as made:
        response = await made.ask(tool_choice=choice)
        assert types_of(response) == ["image_generation_call", "message"]
        first, second = (chat.to_wire()["tool_choice"] for chat in made.artist.chats)
        named = {"type": "function", "function": {"name": "image_generation"}}
        assert first == (named if choice is TOOL else "required")
        assert second == "auto"


async def test_the_rounds_of_an_answer_are_bounded(serve: Start) -> None:
    async with studio(serve, FOX) as made:
        response = await made.ask()
        assert len(made.artist.chats) == MOST_ROUNDS
        assert len(made.artist.pictures) == MOST_ROUNDS - 1
        assert made.artist.chats[-1].tool_choice == "none"
        assert [item.status for item in response.output] == ["completed"] * (MOST_ROUNDS - 1) + ["failed"]
        assert len({item.id for item in response.output}) == MOST_ROUNDS
        assert response.status == "completed"


async def test_the_callers_limit_of_calls_holds(serve: Start) -> None:
    two = calls(*[("image_generation", {"prompt": name}) for name in ("A fox", "A cat", "A dog")])
    async with studio(serve, two, DONE) as made:
        response = await made.ask(max_tool_calls=2)
        assert types_of(response) == ["image_generation_call"] * 2 + ["message"]
        assert [picture.prompt for picture in made.artist.pictures] == ["A fox", "A cat"]
        assert "limit" in str(made.artist.chats[1].messages[-1].content)
        assert made.artist.chats[1].tool_choice == "none"


async def test_the_bound_of_the_answer_holds_over_all_rounds(serve: Start) -> None:
    async with studio(serve, FOX, DONE) as made:
        await made.ask(max_output_tokens=20)
        assert [chat.output_limit for chat in made.artist.chats] == [20, 18]
    long = (*FOX[:-1], usage_chunk(completion=20))
    async with studio(serve, long, DONE) as made:
        response = await made.ask(max_output_tokens=20)
        assert response.status == "incomplete"
        assert response.incomplete_details.reason == "max_output_tokens"
        assert types_of(response) == ["image_generation_call"]


async def test_a_call_that_was_cut_off_is_not_run(serve: Start) -> None:
    async with studio(serve, calls(("image_generation", '{"pro'), finish="length")) as made:
        response = await made.ask()
        assert (response.status, response.output[0].status) == ("incomplete", "failed")
        assert not made.artist.pictures


async def test_a_clients_function_of_the_same_name_stays_the_clients(serve: Start) -> None:
    mine = {**OTHER, "name": "image_generation"}
    async with studio(serve, calls(("image_generation", {"a": 1}))) as made:
        response = await made.ask(tools=[mine, TOOL])
        assert types_of(response) == ["function_call"]
        assert not made.artist.pictures
        names = [tool.function.name for tool in made.artist.chats[0].tools or () if tool.function]
        assert names[0] == "image_generation"
        assert len(set(names)) == 2


@pytest.mark.parametrize(
    ("rows", "tool"),
    [
        ((TALKS,), TOOL),
        ((CHAT, BRUSH), TOOL),
        ((TALKS, BRUSH), {**TOOL, "model": "gpt-image-1"}),
        ((TALKS, BRUSH), {**TOOL, "action": "edit"}),
        ((TALKS, BRUSH), {**TOOL, "output_format": "bmp"}),
        ((TALKS, BRUSH), {**TOOL, "partial_images": 9}),
    ],
    ids=["no image model", "no tools", "another model", "an edit", "a format", "too many steps"],
)
async def test_without_a_model_that_can_the_tool_is_left_out_and_named(
    serve: Start, rows: tuple[Model, ...], tool: Json
) -> None:
    async with studio(serve, DONE, rows=rows) as made:
        response = await made.ask(tools=[tool])
        assert response.output_text == "Here it is."
        assert made.artist.chats[0].tools is None
        assert made.gateway.dispatcher.left_out == [("tools.image_generation",)]


async def test_a_key_without_an_image_model_cannot_draw(serve: Start) -> None:
    async with studio(serve, DONE) as made:
        runtime = made.gateway.services.runtime
        assert runtime is not None
        for models, able in ((), True), (("parrot",), False), (("parrot", "brush"), True):
            key = KeyInfo(id="k", name="k", hint="rh", digest="0" * 64, created_at=0.0, models=models)
            assert can_draw(TOOL, "parrot", runtime, Caller("k", key=key)) is able


async def test_a_model_that_is_not_set_up_cannot_draw(serve: Start) -> None:
    far = BRUSH.model_copy(update={"id": "far", "source": UpstreamSource(endpoint="x", model="m"), "engine": None})
    async with studio(serve, DONE, rows=(TALKS, far)) as made:
        await made.ask()
        assert made.gateway.dispatcher.left_out == [("tools.image_generation",)]


async def test_what_the_caller_wants_holds_for_the_picture_too(serve: Start) -> None:
    async with studio(serve, FOX, DONE) as made:
        await made.ask(extra_body={"routing": {"workload": "batch", "local_only": True}})
        facts = made.gateway.dispatcher.facts
        assert [each.capability for each in facts] == [Capability.CHAT, Capability.IMAGE, Capability.CHAT]
        assert {(each.intent.workload, each.intent.local_only) for each in facts} == {(Workload.BATCH, True)}
        assert len({each.key for each in facts}) == 1
        assert made.gateway.dispatcher.spent == [0.0, 0.25, 0.5], "limits on cost count all jobs of the request"


async def test_a_client_that_leaves_closes_the_drawing(serve: Start) -> None:
    async with studio(serve, FOX, DONE) as made:
        made.artist.canvas = (
            {"type": "image_generation.partial_image", "b64_json": "aGFsZg==", "partial_image_index": 0},
            asyncio.Event(),
        )
        stream = await made.ask(stream=True, tools=[{**TOOL, "partial_images": 1}])
        async for event in stream:
            if event.type == "response.image_generation_call.generating":
                made.artist.closed.clear()
            if event.type == "response.image_generation_call.partial_image":
                break
        await stream.close()
        async with asyncio.timeout(5):
            await made.artist.closed.wait()
        assert len(made.artist.chats) == 1


async def test_an_error_of_a_later_round_ends_the_stream(serve: Start) -> None:
    async with studio(serve, FOX, (Unavailable("Gone."),)) as made:
        events = [event async for event in await made.ask(stream=True)]
        assert events[-1].type == "response.failed"
        assert events[-1].response.output[0].result == "cGlj"
        made.artist.scripts = [FOX, (Unavailable("Gone."),)]
        with pytest.raises(openai.APIStatusError, match=r"Gone\."):
            await made.ask()


async def test_a_background_response_draws(serve: Start) -> None:
    async with studio(serve, FOX, DONE) as made:
        stream = await made.ask(background=True, stream=True)
        events: list[Any] = [event async for event in stream]
        assert events[-1].type == "response.completed"
        assert types_of(events[-1].response) == ["image_generation_call", "message"]
        assert [event.sequence_number for event in events] == list(range(len(events)))


async def test_chats_without_the_tool_have_no_rounds(serve: Start) -> None:
    async with studio(serve, calls(("image_generation", {"prompt": "A fox"}))) as made:
        response = await made.ask(tools=[OTHER])
        assert types_of(response) == ["function_call"]


def test_counts_are_added_and_the_rest_is_the_newest() -> None:
    one = {"a": 1, "details": {"b": 2, "only": 1}, "x-roundhouse": {"seconds": 1}, "tier": "low"}
    two = {"a": 3, "details": {"b": 4}, "x-roundhouse": {"seconds": 2}, "tier": "high"}
    assert added(one, two) == {
        "a": 4,
        "details": {"b": 6, "only": 1},
        "x-roundhouse": {"seconds": 2},
        "tier": "high",
    }
    assert added(None, one) == one
    assert added(one, None) == one


async def test_what_the_image_model_leaves_out_is_named_and_not_told_as_the_pictures(
    serve: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeAnswer, "dropped", property(lambda _: ("quality",)))
    async with studio(serve, FOX, DONE) as made:
        raw = await made.client.responses.with_raw_response.create(
            **{**ASK, "tools": [{**TOOL, "quality": "high", "background": "opaque"}]}
        )
        assert raw.headers["x-roundhouse-dropped"] == "quality, tools.image_generation.quality"
        item: Any = raw.parse().output[0]
        assert (item.quality, item.background) == (None, "opaque")
