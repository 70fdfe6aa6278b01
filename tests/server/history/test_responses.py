"""Stored responses, with OpenAI's SDK: kept, gone on from, listed, deleted, and of no other key."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from backends.wire.chat import ChatRequest
from catalog.errors import Unavailable
from catalog.types import Json
from routing.state.records import Record
from server.callers import ANONYMOUS
from server.history.context import RESPONSE, items_of
from server.history.items import as_items
from server.runtime import Runtime
from tests.server.api.test_openai_sdk import sdk
from tests.server.conftest import Gateway, Start
from tests.server.fakes import chunk, usage_chunk

ASK: Any = {"model": "parrot"}


def said(gateway: Gateway, at: int = -1) -> list[tuple[str, str]]:
    """The roles and texts of a chat that the model was sent."""
    request = gateway.backend.requests[at]
    assert isinstance(request, ChatRequest)
    return [(message.role, text_of(message.content)) for message in request.messages]


def text_of(content: Any) -> Any:
    return content if isinstance(content, str) or content is None else "".join(part.text or "" for part in content)


def runtime_of(gateway: Gateway) -> Runtime:
    runtime = gateway.services.runtime
    assert runtime is not None
    return runtime


def key(gateway: Gateway, name: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{gateway.client.base_url}/v1", api_key=name, max_retries=0)


async def test_a_response_is_kept_and_gone_on_from(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        first = await client.responses.create(input="One", instructions="Be brief.", metadata={"a": "b"}, **ASK)
        assert first.store is True
        again = await client.responses.retrieve(first.id)
        assert again == first
        second = await client.responses.create(input="Two", previous_response_id=first.id, **ASK)
        assert second.previous_response_id == first.id
        assert said(gateway) == [("user", "One"), ("assistant", "Hello there"), ("user", "Two")]
        third = await client.responses.create(
            input=[{"role": "user", "content": "Three"}], previous_response_id=second.id, stream=True, **ASK
        )
        ended = [event async for event in third][-1]
        assert ended.type == "response.completed"
        assert said(gateway)[-2:] == [("assistant", "Hello there"), ("user", "Three")]
        kept = await client.responses.retrieve(ended.response.id)
        assert (kept.status, kept.previous_response_id) == ("completed", second.id)
        listed = await client.responses.input_items.list(kept.id, order="asc", limit=2)
        texts = [text_of(item.content) async for item in listed]  # type: ignore[union-attr]
        assert texts == ["One", "Hello there", "Two", "Hello there", "Three"]


async def test_a_response_is_not_kept_if_its_caller_or_the_settings_say_so(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        response = await client.responses.create(input="Hi", store=False, **ASK)
        assert response.store is False
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(response.id)
        storage = runtime_of(gateway).storage
        storage.configure(storage.settings.model_copy(update={"store": "asked"}))
        assert (await client.responses.create(input="Hi", **ASK)).store is False
        assert (await client.responses.create(input="Hi", store=True, **ASK)).store is True
        storage.configure(storage.settings.model_copy(update={"store": "never"}))
        assert (await client.responses.create(input="Hi", **ASK)).store is False


async def test_another_key_finds_nothing(serve: Start) -> None:
    async with (
        serve(api_keys="one,two") as gateway,
        key(gateway, "one") as mine,
        key(gateway, "two") as theirs,
    ):
        response = await mine.responses.create(input="Hi", **ASK)
        conversation = await mine.conversations.create(items=[{"role": "user", "content": "Hi"}])
        calls: list[Any] = [
            theirs.responses.retrieve(response.id),
            theirs.responses.delete(response.id),
            theirs.responses.cancel(response.id),
            theirs.responses.input_items.list(response.id),
            theirs.conversations.retrieve(conversation.id),
            theirs.conversations.delete(conversation.id),
            theirs.conversations.items.list(conversation.id),
            theirs.responses.create(input="Hi", conversation=conversation.id, **ASK),
        ]
        for call in calls:
            with pytest.raises(openai.NotFoundError):
                await call
        with pytest.raises(openai.BadRequestError) as refused:
            await theirs.responses.create(input="Hi", previous_response_id=response.id, **ASK)
        assert refused.value.code == "previous_response_not_found"
        assert (await mine.responses.retrieve(response.id)).id == response.id


async def test_a_chain_with_a_gap_a_cycle_or_too_many_links_is_refused(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        first = await client.responses.create(input="One", **ASK)
        second = await client.responses.create(input="Two", previous_response_id=first.id, **ASK)
        await client.responses.delete(first.id)

        async def refused(previous: str) -> openai.BadRequestError:
            with pytest.raises(openai.BadRequestError) as caught:
                await client.responses.create(input="Hi", previous_response_id=previous, **ASK)
            assert caught.value.param == "previous_response_id"
            return caught.value

        assert (await refused(second.id)).code == "previous_response_not_found"
        assert (await refused("resp_" + "0" * 32)).code == "previous_response_not_found"
        records = runtime_of(gateway).storage.records

        def link(name: str, previous: str | None) -> Record:
            response: Json = {"id": name, "output": [], "previous_response_id": previous}
            return Record(RESPONSE, name, {"response": response, "input": []}, owner="anonymous")

        await records.add([link("resp_a", "resp_b"), link("resp_b", "resp_a")])
        assert "cycle" in (await refused("resp_a")).message
        await records.add([link(f"resp_{n}", f"resp_{n - 1}" if n else None) for n in range(1001)])
        assert "1,000" in (await refused("resp_1000")).message
        await client.responses.create(input="Hi", previous_response_id="resp_999", **ASK)


async def test_an_answer_that_cannot_be_stored_comes_and_says_so(
    serve: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve() as gateway, sdk(gateway) as client:

        async def fail(*_: Any, **__: Any) -> None:
            raise Unavailable("The disk is full.")

        monkeypatch.setattr(runtime_of(gateway).storage.records, "add", fail)
        whole = await client.responses.create(input="Hi", **ASK)
        assert (whole.store, whole.output_text) == (False, "Hello there")
        stream = await client.responses.create(input="Hi", stream=True, **ASK)
        ended = [event async for event in stream][-1]
        assert ended.type == "response.completed"
        assert ended.response.store is False


async def test_a_finished_response_is_replayed_in_the_events_of_its_stream(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
        thought = {"index": 0, "delta": {"reasoning_content": "Hm."}, "finish_reason": None}
        called = {"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}
        head = chunk("x")
        gateway.backend.script = (
            {**head, "choices": [thought]},
            *map(chunk, ("Hel", "lo", " you")),
            {**head, "choices": [called]},
            chunk(finish="tool_calls"),
            usage_chunk(),
        )
        tool: Any = {"type": "function", "name": "look", "parameters": {"type": "object"}}
        stream = await client.responses.create(input="Hi", stream=True, tools=[tool], **ASK)
        live = [event async for event in stream]
        assert live[-1].type == "response.completed"
        name = live[-1].response.id
        replay = [event async for event in await client.responses.retrieve(name, stream=True)]
        assert replay == live
        assert [event.sequence_number for event in replay] == list(range(len(replay)))
        for seen in live:
            rest = await client.responses.retrieve(name, stream=True, starting_after=seen.sequence_number)
            assert [event async for event in rest] == live[seen.sequence_number + 1 :]


async def test_a_response_that_was_not_streamed_has_the_same_events_each_time(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        made = await client.responses.create(input="Hi", **ASK)
        whole = [event async for event in await client.responses.retrieve(made.id, stream=True)]
        assert [event.sequence_number for event in whole] == list(range(len(whole)))
        assert whole[-1].type == "response.completed"
        rest = await client.responses.retrieve(made.id, stream=True, starting_after=3)
        assert [event async for event in rest] == whole[4:]


async def test_a_stream_that_is_too_long_to_be_recorded_is_replayed_whole_and_not_resumed(
    serve: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        monkeypatch.setattr("server.history.recording.MOST_BYTES", 100)
        live = [event async for event in await client.responses.create(input="Hi", stream=True, **ASK)]
        assert live[-1].type == "response.completed"
        name = live[-1].response.id
        replay = [event async for event in await client.responses.retrieve(name, stream=True)]
        assert replay[-1].type == "response.completed"
        assert replay[-1].response == live[-1].response
        with pytest.raises(openai.BadRequestError, match="background"):
            await client.responses.retrieve(name, stream=True, starting_after=3)


async def test_items_are_referred_to_by_their_ids(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        first = await client.responses.create(input="One", **ASK)
        items: Any = [{"type": "item_reference", "id": first.output[0].id}, {"role": "user", "content": "Two"}]
        await client.responses.create(input=items, **ASK)
        assert said(gateway) == [("assistant", "Hello there"), ("user", "Two")]
        await client.responses.delete(first.id)
        with pytest.raises(openai.BadRequestError, match="not found"):
            await client.responses.create(input=items, **ASK)
        second = await client.responses.create(input="Two", **ASK)
        with pytest.raises(openai.BadRequestError, match="Duplicate item"):
            await client.responses.create(
                input=[second.output[0].model_dump()],
                previous_response_id=second.id,
                **ASK,
            )


async def test_a_conversation_collects_what_is_said_in_it(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        conversation = await client.conversations.create(
            items=[{"role": "user", "content": "One"}], metadata={"a": "b"}
        )
        first = await client.responses.create(input="Two", conversation=conversation.id, **ASK)
        assert first.conversation is not None
        assert first.conversation.id == conversation.id
        stream = await client.responses.create(
            input="Three", conversation={"id": conversation.id}, stream=True, **ASK
        )
        assert [event async for event in stream][-1].type == "response.completed"
        assert said(gateway) == [
            *(("user", "One"), ("user", "Two"), ("assistant", "Hello there"), ("user", "Three")),
        ]
        page = await client.conversations.items.list(conversation.id, order="asc", limit=2)
        items = [item async for item in page]
        assert [text_of(item.content) for item in items] == [  # type: ignore[union-attr]
            *("One", "Two", "Hello there", "Three", "Hello there"),
        ]
        newest = await client.conversations.items.list(conversation.id)
        assert newest.data[0].id == items[-1].id
        one = await client.conversations.items.retrieve(str(items[0].id), conversation_id=conversation.id)
        assert one.id == items[0].id
        await client.conversations.items.delete(str(items[0].id), conversation_id=conversation.id)
        with pytest.raises(openai.NotFoundError):
            await client.conversations.items.retrieve(str(items[0].id), conversation_id=conversation.id)
        changed = await client.conversations.update(conversation.id, metadata={"c": "d"})
        assert changed.metadata == {"c": "d"}
        assert (await client.conversations.delete(conversation.id)).deleted
        with pytest.raises(openai.NotFoundError):
            await client.responses.create(input="Hi", conversation=conversation.id, **ASK)
        assert (await client.responses.retrieve(first.id)).id == first.id


async def test_items_of_a_conversation_are_checked(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        conversation = await client.conversations.create()
        item: Any = {"type": "message", "role": "user", "content": "Hi", "id": "msg_1"}
        made = await client.conversations.items.create(conversation.id, items=[item])
        assert made.data[0].id == "msg_1"
        many: Any = [{"role": "user", "content": "x"}] * 21
        reference: Any = [{"type": "item_reference", "id": "a"}]
        judge: Any = [{"role": "judge", "content": "Hi"}]
        odd: Any = [{"type": ["x"]}]
        for items in ([item], many, reference, judge, odd, []):
            with pytest.raises(openai.BadRequestError):
                await client.conversations.items.create(conversation.id, items=items)


async def test_a_conversation_of_ten_thousand_items_is_answered(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        conversation = await client.conversations.create()
        storage = runtime_of(gateway).storage
        texts = [{"role": "user", "content": str(n)} for n in range(10_000)]
        records = items_of(storage, conversation.id, as_items(texts, "0" * 32), ANONYMOUS)
        for at in range(0, len(records), 500):
            await storage.keep(*records[at : at + 500])
        await client.responses.create(input="Last", conversation=conversation.id, **ASK)
        assert len(said(gateway)) == 10_001
        assert said(gateway)[-1] == ("user", "Last")


async def test_a_conversation_is_compacted_for_its_own_key(serve: Start) -> None:
    async with (
        serve(api_keys="one,two") as gateway,
        key(gateway, "one") as mine,
        key(gateway, "two") as theirs,
    ):
        first = await mine.responses.create(input="One", **ASK)
        compact = await mine.responses.compact(
            model="parrot", previous_response_id=first.id, input="Two", extra_body={"max_output_tokens": 60}
        )
        assert gateway.backend.requests[-1].max_completion_tokens == 60
        assert [item.type for item in compact.output] == ["message", "message", "compaction"]
        assert said(gateway)[:3] == [("user", "One"), ("assistant", "Hello there"), ("user", "Two")]
        items: Any = [item.model_dump(exclude_none=True, warnings=False) for item in compact.output]
        after = await mine.responses.create(input=[*items, {"role": "user", "content": "Three"}], **ASK)
        texts = [text for _, text in said(gateway)]
        assert texts[0] == "One"
        assert "Hello there" in texts[2]
        assert texts[3] == "Three"
        await mine.responses.create(input="Four", previous_response_id=after.id, **ASK)
        assert [text for _, text in said(gateway)][-1] == "Four"
        with pytest.raises(openai.BadRequestError, match="compaction"):
            await theirs.responses.create(input=items, **ASK)
        items[-1]["encrypted_content"] = items[-1]["encrypted_content"][:-8] + "AAAAAAA="
        with pytest.raises(openai.BadRequestError, match="compaction"):
            await mine.responses.create(input=items, **ASK)


async def test_a_compaction_names_the_items_that_it_leaves_out_and_keeps_to_strict(serve: Start) -> None:
    async with serve() as gateway, key(gateway, "any") as client:
        items: Any = [{"role": "user", "content": "One"}, {"type": "odd_call", "id": "x"}]
        await client.responses.compact(model="parrot", input=items, extra_body={"routing": {"strict": True}})
        assert gateway.dispatcher.left_out[-1] == ("input.odd_call",)
        assert gateway.dispatcher.facts[-1].intent.strict


async def test_the_tokens_of_an_input_are_counted_with_what_came_before(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        first = await client.responses.create(input="One " * 100, **ASK)
        alone = await client.responses.input_tokens.count(model="parrot", input="Two")
        after = await client.responses.input_tokens.count(
            model="parrot", input="Two", previous_response_id=first.id
        )
        assert alone.object == "response.input_tokens"
        assert after.input_tokens > alone.input_tokens + 50


async def test_logprobs_are_shown_where_they_are_asked_for(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        told = {"token": "Hello", "logprob": -0.5, "bytes": None, "top_logprobs": []}
        first = chunk("Hello")
        first["choices"][0]["logprobs"] = {"content": [told]}
        gateway.backend.script = (first, chunk(finish="stop"), usage_chunk())
        name = "message.output_text.logprobs"
        made = await client.responses.create(input="Hi", include=[name], **ASK)  # type: ignore[list-item]

        async def shown(**query: Any) -> int:
            response: Any = await client.responses.retrieve(made.id, **query)
            return len(response.output[0].content[0].logprobs)

        assert await shown() == 0
        assert await shown(include=["reasoning.encrypted_content", name]) == 1
        with pytest.raises(openai.BadRequestError, match="cannot be included"):
            await shown(include=["secrets"])


async def test_a_conversation_without_an_id_and_an_item_of_an_odd_type_are_refused(serve: Start) -> None:
    async with serve() as gateway:
        odd: list[Any] = [{"conversation": {}}, {"conversation": ""}, {"input": [{"type": ["x"]}]}]
        for fields in odd:
            asked = {"model": "parrot", "input": "Hi", **fields}
            answer = await gateway.client.post("/v1/responses", json=asked)
            assert answer.status_code == 400, answer.text


@pytest.mark.parametrize("kind", [[], {}, 5])
@pytest.mark.parametrize("path", ["responses", "responses/input_tokens", "responses/compact"])
async def test_an_item_whose_type_is_no_text_is_refused_by_its_place(serve: Start, path: str, kind: Any) -> None:
    async with serve() as gateway:
        items = [{"role": "user", "content": "Hi"}, {"type": kind}]
        answer = await gateway.client.post(f"/v1/{path}", json={"model": "parrot", "input": items})
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"] == "input[1].type"
