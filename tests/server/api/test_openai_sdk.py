"""The official SDK, synchronous and asynchronous, against a real server."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from catalog.errors import UpstreamRateLimited, WorkerFailed
from tests.fakes.pictures import encoded, quarters
from tests.server.conftest import Gateway, Start
from tests.server.fakes import chunk

MESSAGES: Any = [{"role": "user", "content": "Hi"}]


@asynccontextmanager
async def sdk(gateway: Gateway) -> AsyncIterator[AsyncOpenAI]:
    """A client of the gateway without retries."""
    async with AsyncOpenAI(base_url=f"{gateway.client.base_url}/v1", api_key="any", max_retries=0) as client:
        yield client


async def test_chat_whole_and_streamed(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        whole = await client.chat.completions.create(model="parrot", messages=MESSAGES)
        assert whole.choices[0].message.content == "Hello there"
        assert whole.usage is not None
        assert whole.usage.total_tokens == 5
        stream = await client.chat.completions.create(
            model="parrot", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        chunks = [item async for item in stream]
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Hello there"
        assert chunks[-1].usage is not None
        assert [c.usage for c in chunks[:-1]] == [None] * (len(chunks) - 1)


async def test_the_synchronous_client(serve: Start) -> None:
    async with serve() as gateway:
        url = str(gateway.client.base_url) + "/v1"

        def use() -> str:
            with OpenAI(base_url=url, api_key="any", max_retries=0) as client:
                stream = client.chat.completions.create(model="parrot", messages=MESSAGES, stream=True)
                return "".join(item.choices[0].delta.content or "" for item in stream)

        assert await asyncio.to_thread(use) == "Hello there"


async def test_an_error_in_the_middle_of_a_stream_raises(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        gateway.backend.script = (chunk("Hel"), WorkerFailed("The worker died."))
        stream = await client.chat.completions.create(model="parrot", messages=MESSAGES, stream=True)
        seen = []
        with pytest.raises(openai.APIError, match="The worker died"):
            async for item in stream:
                seen.append(item.choices[0].delta.content)  # noqa: PERF401
        assert seen == ["Hel"]


async def test_errors_are_the_sdks_own_types(serve: Start) -> None:
    async with serve(api_keys="any") as gateway, sdk(gateway) as client:
        gateway.backend.script = (UpstreamRateLimited("Slow down.", retry_after=7),)
        with pytest.raises(openai.RateLimitError) as limited:
            await client.chat.completions.create(model="parrot", messages=MESSAGES)
        assert limited.value.response.headers["retry-after"] == "7"
        assert limited.value.code == "upstream_rate_limited"
        assert limited.value.request_id
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("nobody")
        with pytest.raises(openai.BadRequestError) as bad:
            await client.chat.completions.create(model="parrot", messages=[])
        assert bad.value.param == "messages"
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(api_key="other").models.list()


async def test_completions_embeddings_and_models(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        done = await client.completions.create(model="parrot", prompt="Once")
        assert done.choices[0].text == "Hello there"
        vectors = await client.embeddings.create(model="parrot", input=["a", "b"])
        assert [v.embedding for v in vectors.data] == [[0.5, -0.25]] * 2
        assert gateway.backend.requests[-1].encoding_format == "base64"
        names = [model.id async for model in client.models.list()]
        assert {"auto", "auto:fast", "parrot"} <= set(names)
        assert (await client.models.retrieve("polly")).id == "parrot"
        assert (await client.models.retrieve("cloud/oracle")).owned_by == "cloud"


async def test_speech_and_transcription(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        spoken = await client.audio.speech.create(
            model="songbird", voice="robin", input="Hi", response_format="wav"
        )
        assert spoken.content == b"RIFFdata"
        assert spoken.response.headers["content-type"] == "audio/wav"
        text = await client.audio.transcriptions.create(model="ears", file=("a.wav", b"RIFF"))
        assert text.text == "Hello there. <Bye>"
        verbose = await client.audio.transcriptions.create(
            model="ears",
            file=("a.wav", b"RIFF"),
            response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
        )
        assert verbose.duration == 3.5
        assert verbose.words is not None
        assert verbose.words[0].word == "Hello"
        stream = await client.audio.transcriptions.create(model="ears", file=("a.wav", b"RIFF"), stream=True)
        kinds = [item.type async for item in stream]
        assert kinds == ["transcript.text.delta", "transcript.text.delta", "transcript.text.done"]
        with pytest.deprecated_call():
            translated = await client.audio.translations.create(model="ears", file=("a.wav", b"RIFF"))
        assert translated.text
        assert gateway.backend.requests[-1].translate is True


async def test_speech_as_events(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        async with client.audio.speech.with_streaming_response.create(
            model="songbird", voice="robin", input="Hi", stream_format="sse"
        ) as answer:
            lines = [line async for line in answer.iter_lines() if line]
        assert lines[0] == 'data: {"type":"speech.audio.delta","audio":"UklGRg=="}'
        assert '"type":"speech.audio.done"' in lines[-1]


async def test_images(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        drawn = await client.images.generate(model="painter", prompt="a bird", n=2)
        assert drawn.data is not None
        assert [base64.b64decode(one.b64_json or "") for one in drawn.data] == [b"pic0", b"pic1"]
        picture = ("a.png", encoded(quarters(8, 6)))
        changed = await client.images.edit(model="painter", image=[picture, picture], prompt="a hat", n=2)
        assert changed.data is not None
        assert len(changed.data) == 2
        stream = await client.images.edit(model="painter", image=picture, prompt="a hat", stream=True)
        assert [event.type async for event in stream] == ["image_edit.completed"]
        with pytest.warns(DeprecationWarning, match="deprecated"):  # OpenAI has retired them
            varied = await client.images.create_variation(model="painter", image=picture, response_format="url")
        assert varied.data is not None
        shown = await gateway.client.get(varied.data[0].url or "")
        assert shown.content == b"pic0"
