"""Stored chat completions, with OpenAI's SDK."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from catalog.errors import Unavailable
from tests.server.api.test_openai_sdk import sdk
from tests.server.conftest import Start
from tests.server.history.test_responses import key, runtime_of

ASK: Any = {"model": "parrot", "messages": [{"role": "user", "content": "Hi"}]}


async def test_a_chat_is_kept_if_its_caller_says_so(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        plain = await client.chat.completions.create(**ASK)
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.retrieve(plain.id)
        stored = await client.chat.completions.create(store=True, metadata={"a": "b"}, seed=3, **ASK)
        found = await client.chat.completions.retrieve(stored.id)
        assert (found.id, found.choices, found.usage) == (stored.id, stored.choices, stored.usage)
        assert found.metadata == {"a": "b"}
        messages = await client.chat.completions.messages.list(stored.id)
        assert [(message.role, message.content) for message in messages.data] == [("user", "Hi")]
        changed = await client.chat.completions.update(stored.id, metadata={"c": "d"})
        assert changed.metadata == {"c": "d"}
        assert (await client.chat.completions.delete(stored.id)).deleted
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.retrieve(stored.id)


async def test_a_streamed_chat_is_kept_under_the_id_of_its_chunks(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        stream = await client.chat.completions.create(store=True, stream=True, **ASK)
        (name,) = {chunk.id async for chunk in stream}
        found = await client.chat.completions.retrieve(name)
        assert found.choices[0].message.content == "Hello there"
        assert found.usage is not None


async def test_stored_chats_are_listed_by_model_and_metadata_in_pages(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        names = []
        for n in range(3):
            made = await client.chat.completions.create(store=True, metadata={"n": str(n), "all": "yes"}, **ASK)
            names.append(made.id)

        async def listed(**query: Any) -> list[str]:
            return [item.id async for item in await client.chat.completions.list(**query)]

        assert await listed(limit=2) == names
        assert await listed(order="desc") == names[::-1]
        assert await listed(after=names[0]) == names[1:]
        assert await listed(metadata={"all": "yes", "n": "1"}) == [names[1]]
        assert await listed(model="parrot", metadata={"n": "7"}) == []
        assert await listed(model="swallow") == []


async def test_a_stored_chat_is_not_found_by_another_key(serve: Start) -> None:
    async with serve(api_keys="one,two") as gateway, key(gateway, "one") as mine, key(gateway, "two") as theirs:
        made = await mine.chat.completions.create(store=True, **ASK)
        calls: list[Any] = [
            theirs.chat.completions.retrieve(made.id),
            theirs.chat.completions.update(made.id, metadata={}),
            theirs.chat.completions.delete(made.id),
            theirs.chat.completions.messages.list(made.id),
        ]
        for call in calls:
            with pytest.raises(openai.NotFoundError):
                await call
        assert (await theirs.chat.completions.list()).data == []
        assert (await mine.chat.completions.retrieve(made.id)).id == made.id


async def test_a_chat_that_cannot_be_stored_is_answered(serve: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve() as gateway, sdk(gateway) as client:

        async def fail(*_: Any, **__: Any) -> None:
            raise Unavailable("The disk is full.")

        monkeypatch.setattr(runtime_of(gateway).storage.records, "add", fail)
        raw = await client.chat.completions.with_raw_response.create(store=True, **ASK)
        made = raw.parse()
        assert made.choices[0].message.content == "Hello there"
        assert made.store is False
        assert raw.headers["x-roundhouse-dropped"] == "store"


@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": True}}], ids=["plain", "usage"])
@pytest.mark.parametrize("full", [True, False])
async def test_a_stream_says_with_the_end_of_its_last_choice_that_it_is_not_stored(
    serve: Start, monkeypatch: pytest.MonkeyPatch, options: Any, full: bool
) -> None:
    async with serve() as gateway, sdk(gateway) as client:

        async def fail(*_: Any, **__: Any) -> None:
            raise Unavailable("The disk is full.")

        if full:
            monkeypatch.setattr(runtime_of(gateway).storage.records, "add", fail)
        stream = await client.chat.completions.create(store=True, stream=True, **ASK, **options)
        chunks = [chunk async for chunk in stream]
        told = [chunk for chunk in chunks if chunk.choices]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in told) == "Hello there"
        assert told[-1].choices[0].finish_reason == "stop"
        assert [getattr(chunk, "store", None) for chunk in told] == [None] * (len(told) - 1) + [
            False if full else None
        ]
        assert bool(options) == (chunks[-1].usage is not None)
