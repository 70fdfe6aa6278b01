"""The fake OpenAI speaks OpenAI's wire: the official SDK, sync and async, reads its answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.shared_params import FunctionDefinition

from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault

WEATHER: FunctionDefinition = {
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": True,
}


@pytest.fixture
async def fake() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI(key="sk-fake") as server:
        yield server


@pytest.fixture
async def client(fake: FakeOpenAI) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=fake.base_url, api_key="sk-fake", max_retries=0) as sdk:
        yield sdk


async def test_a_plain_chat(fake: FakeOpenAI, client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="fake-chat", messages=[{"role": "user", "content": "Hi"}])
    assert answer.choices[0].message.content == fake.reply
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 9


async def test_a_streamed_chat_ends_with_usage(fake: FakeOpenAI, client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="fake-chat",
        messages=[{"role": "user", "content": "Hi"}],
        stream=True,
        stream_options={"include_usage": True},
        n=2,
    )
    texts = {0: "", 1: ""}
    async for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == {0: fake.reply, 1: fake.reply}
    assert chunk.usage is not None
    assert chunk.usage.completion_tokens == 18


async def test_tool_calls_parse_in_the_sdks_own_stream_helper(client: AsyncOpenAI) -> None:
    async with client.chat.completions.stream(
        model="fake-chat",
        messages=[{"role": "user", "content": "Weather?"}],
        tools=[{"type": "function", "function": WEATHER}],
        tool_choice="required",
    ) as stream:
        final = await stream.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert calls is not None
    assert (calls[0].function.name, calls[0].function.arguments) == ("weather", '{"city": "Paris"}')


async def test_logprobs(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="fake-chat",
        messages=[{"role": "user", "content": "Hi"}],
        logprobs=True,
        top_logprobs=2,
        max_completion_tokens=3,
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [(entry.token, len(entry.top_logprobs)) for entry in logprobs.content] == [
        ("The", 2),
        (" quick", 2),
        (" brown", 2),
    ]
    assert answer.choices[0].finish_reason == "length"


async def test_a_refusal_is_a_refusal(fake: FakeOpenAI, client: AsyncOpenAI) -> None:
    fake.script(Fault(refuse=True))
    answer = await client.chat.completions.create(model="fake-chat", messages=[{"role": "user", "content": "Hi"}])
    assert answer.choices[0].message.refusal == "I cannot help with that."
    assert answer.choices[0].message.content is None


async def test_completions_plain_and_streamed(fake: FakeOpenAI, client: AsyncOpenAI) -> None:
    plain = await client.completions.create(model="fake-chat", prompt=["a", "b"], echo=True, logprobs=1)
    assert [choice.text for choice in plain.choices] == [f"a{fake.reply}", f"b{fake.reply}"]
    stream = await client.completions.create(model="fake-chat", prompt="a", stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == fake.reply


async def test_responses_plain_and_streamed(fake: FakeOpenAI, client: AsyncOpenAI) -> None:
    plain = await client.responses.create(model="fake-chat", input="Hi")
    assert plain.output_text == fake.reply
    async with client.responses.stream(model="fake-chat", input="Hi") as stream:
        assert (await stream.get_final_response()).output_text == fake.reply


async def test_embeddings_come_as_base64_by_default(fake: FakeOpenAI, client: AsyncOpenAI) -> None:
    answer = await client.embeddings.create(model="fake-embed", input=["one", "two"], dimensions=16)
    assert [len(row.embedding) for row in answer.data] == [16, 16]
    assert (await fake.call()).body["encoding_format"] == "base64"


async def test_transcription_plain_verbose_and_streamed(client: AsyncOpenAI) -> None:
    audio = ("a.wav", b"RIFF....", "audio/wav")
    plain = await client.audio.transcriptions.create(model="whisper-1", file=audio)
    assert plain.text == "The quick brown fox."
    verbose = await client.audio.transcriptions.create(
        model="whisper-1", file=audio, response_format="verbose_json", timestamp_granularities=["word"]
    )
    assert verbose.words is not None
    assert verbose.words[1].word == "quick"
    stream = await client.audio.transcriptions.create(model="whisper-1", file=audio, stream=True)
    events = [event async for event in stream]
    assert events[-1].type == "transcript.text.done"


async def test_speech_and_images(client: AsyncOpenAI) -> None:
    spoken = await client.audio.speech.create(model="tts-1", voice="alloy", input="Hi", response_format="wav")
    assert spoken.content.startswith(b"RIFF")
    drawn = await client.images.generate(model="gpt-image-1", prompt="a dot", n=2)
    assert drawn.data is not None
    assert len(drawn.data) == 2


async def test_errors_are_the_sdks_typed_errors(fake: FakeOpenAI, client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        await client.chat.completions.create(model="nobody", messages=[{"role": "user", "content": "Hi"}])
    assert missing.value.code == "model_not_found"
    fake.script(Fault(status=429, headers={"Retry-After": "7"}))
    with pytest.raises(openai.RateLimitError) as limited:
        await client.models.list()
    assert limited.value.response.headers["retry-after"] == "7"
    fake.key = "sk-other"
    with pytest.raises(openai.AuthenticationError):
        await client.models.list()


async def test_the_sync_client_streams(fake: FakeOpenAI) -> None:
    def read() -> str:
        with OpenAI(base_url=fake.base_url, api_key="sk-fake", max_retries=0) as sdk:
            stream = sdk.chat.completions.create(
                model="fake-chat", messages=[{"role": "user", "content": "Hi"}], stream=True
            )
            return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    assert await asyncio.to_thread(read) == fake.reply


async def test_a_fault_can_be_asked_for_in_a_header(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.InternalServerError, match="on purpose"):
        await client.models.list(extra_headers={"x-fake-fault": '{"status": 500, "message": "on purpose"}'})
    assert (await client.models.list()).data[0].id == "fake-chat"
