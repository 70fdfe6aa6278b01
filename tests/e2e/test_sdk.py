"""A stock OpenAI SDK, sync, async and streaming, gets real answers from the models that come with Roundhouse."""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import av
import httpx
import numpy as np
import openai
import pytest

from tests.e2e.serving import Served

CHAT = "smollm2-135m-instruct"
QUESTION = "What is the capital of France? Answer in one sentence."
SENTENCE = "The quick brown fox jumps over the lazy dog."


@pytest.fixture
def client(server: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.v1, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def async_client(server: Served) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=server.v1, api_key="none", max_retries=0) as client:
        yield client


def test_chat_answers_the_question(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="auto", messages=[{"role": "user", "content": QUESTION}], temperature=0
    )
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == CHAT
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_says_what_the_plain_answer_says(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(
        model=CHAT, messages=[{"role": "user", "content": QUESTION}], temperature=0, max_tokens=40
    )
    chunks = list(
        client.chat.completions.create(
            model=CHAT,
            messages=[{"role": "user", "content": QUESTION}],
            temperature=0,
            max_tokens=40,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == plain.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert {chunk.model for chunk in chunks} == {CHAT}


async def test_async_stream_without_usage_has_none(async_client: openai.AsyncOpenAI) -> None:
    stream = await async_client.chat.completions.create(
        model="auto:fast", messages=[{"role": "user", "content": "Say hello."}], max_tokens=12, stream=True
    )
    chunks = [chunk async for chunk in stream]
    assert all(chunk.choices for chunk in chunks)
    assert all(chunk.usage is None for chunk in chunks)


def test_stop_text_never_shows_and_ends_the_answer(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=CHAT,
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        stop=["Par", "zzz"],
        stream=True,
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text
    assert "Par" not in text
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_several_choices_have_indices_and_one_end_each(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=CHAT, messages=[{"role": "user", "content": "Hi"}], n=3, max_tokens=8, stream=True, seed=7
        )
    )
    ends = [c.choices[0].index for c in chunks if c.choices and c.choices[0].finish_reason]
    assert sorted(ends) == [0, 1, 2]


def test_a_seed_repeats_itself(client: openai.OpenAI) -> None:
    def say() -> str | None:
        answer = client.chat.completions.create(
            model=CHAT,
            messages=[{"role": "user", "content": "Tell a tale."}],
            seed=11,
            max_tokens=16,
            temperature=1,
        )
        return answer.choices[0].message.content

    assert say() == say()


def test_logprobs_come_with_alternatives(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=CHAT, messages=[{"role": "user", "content": "Hi"}], max_tokens=4, logprobs=True, top_logprobs=3
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content
    assert all(len(token.top_logprobs) == 3 and token.logprob <= 0 for token in logprobs.content)


def test_a_schema_is_kept(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="auto",
        messages=[{"role": "user", "content": "Invent a person."}],
        max_tokens=120,
        response_format={
            "type": "json_schema",
            "json_schema": {
                "name": "person",
                "schema": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string", "maxLength": 20},
                        "age": {"type": "integer", "maximum": 150},
                    },
                    "required": ["name", "age"],
                    "additionalProperties": False,
                },
            },
        },
    )
    import json

    person = json.loads(answer.choices[0].message.content or "")
    assert set(person) == {"name", "age"}
    assert isinstance(person["age"], int)


def test_a_required_tool_is_called_by_a_model_without_a_tool_template(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=CHAT,
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        max_tokens=200,
        temperature=0,
        tools=[
            {
                "type": "function",
                "function": {
                    "name": "get_weather",
                    "parameters": {
                        "type": "object",
                        "properties": {"city": {"type": "string", "maxLength": 30}},
                        "required": ["city"],
                        "additionalProperties": False,
                    },
                },
            }
        ],
        tool_choice="required",
    )
    calls = answer.choices[0].message.tool_calls
    assert calls
    assert calls[0].type == "function"
    assert calls[0].function.name == "get_weather"
    assert "city" in calls[0].function.arguments
    assert answer.choices[0].finish_reason == "tool_calls"


def test_completion_goes_on_from_its_prompt(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model=CHAT, prompt="One, two, three,", max_tokens=8, temperature=0, echo=True
    )
    assert answer.choices[0].text.startswith("One, two, three,")
    assert "four" in answer.choices[0].text
    told = client.completions.create(model=CHAT, prompt="One, two,", max_tokens=4, logprobs=2).choices[0].logprobs
    assert told is not None
    assert told.tokens
    assert told.top_logprobs
    assert len(told.tokens) == len(told.top_logprobs) == len(told.token_logprobs or [])


def test_embeddings_default_to_base64_and_keep_their_order(client: openai.OpenAI, server: Served) -> None:
    texts = ["a cat sat on the mat", "the stock market fell", "a kitten on a rug"]
    answer = client.embeddings.create(model="all-minilm-l6-v2", input=texts)
    vectors = np.array([item.embedding for item in answer.data])
    assert vectors.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[2] > vectors[0] @ vectors[1]
    plain = client.embeddings.create(model="all-minilm-l6-v2", input=texts, encoding_format="float")
    np.testing.assert_allclose([item.embedding for item in plain.data], vectors, atol=1e-6)
    raw = httpx.post(
        f"{server.v1}/embeddings",
        json={"model": "all-minilm-l6-v2", "input": texts[0], "encoding_format": "base64"},
        trust_env=False,
    ).json()["data"][0]["embedding"]
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(raw), "<f4"), vectors[0], atol=1e-6)


def test_an_embedding_that_cannot_be_cut_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="dimensions"):
        client.embeddings.create(model="all-minilm-l6-v2", input="x", dimensions=64)


def test_a_value_that_one_caller_cannot_have_stays_open_to_the_others(client: openai.OpenAI) -> None:
    for _ in range(3):
        with pytest.raises(openai.BadRequestError, match="cannot be cut to 7"):
            client.embeddings.create(model="auto", input="x", dimensions=7)
        with pytest.raises(openai.BadRequestError, match="speak"):
            client.audio.speech.create(model="auto", voice="alloy", input="Hi.", extra_body={"language": "xx"})
    assert len(client.embeddings.create(model="auto", input="x", dimensions=384).data[0].embedding) == 384
    assert client.audio.speech.create(
        model="auto", voice="alloy", input="Hi.", extra_body={"language": "en"}
    ).content


def test_spoken_mp3_is_transcribed_back(client: openai.OpenAI) -> None:
    speech = client.audio.speech.create(model="hibari", voice="alloy", input=SENTENCE, response_format="mp3")
    with av.open(io.BytesIO(speech.content), mode="r") as container:
        stream = container.streams.audio[0]
        assert stream.codec_context.name.startswith("mp3")
        samples = sum(int(frame.samples) for frame in container.decode(stream))
        seconds = samples / stream.codec_context.sample_rate
    assert 1.5 < seconds < 8
    words = client.audio.transcriptions.create(
        model="whisper-tiny.en",
        file=("fox.mp3", speech.content),
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    heard = words.text.lower()
    assert "quick brown fox" in heard
    assert "lazy dog" in heard
    assert words.words
    assert words.segments
    assert abs(words.duration - seconds) < 0.5


async def test_async_transcription_streams_events(async_client: openai.AsyncOpenAI) -> None:
    speech = await async_client.audio.speech.create(
        model="hibari", voice="alloy", input=SENTENCE, response_format="wav"
    )
    stream = await async_client.audio.transcriptions.create(
        model="whisper-tiny.en", file=("fox.wav", speech.content), stream=True
    )
    events = [event async for event in stream]
    assert events[-1].type == "transcript.text.done"
    assert "".join(e.delta for e in events if e.type == "transcript.text.delta").strip() == events[-1].text.strip()


def test_german_is_heard_and_translated_without_a_word_of_what_it_is(
    client: openai.OpenAI, server: Served
) -> None:
    german = (Path(__file__).parents[1] / "engines" / "spoken" / "de.opus").read_bytes()
    heard = client.audio.transcriptions.with_raw_response.create(
        model="auto", file=("de.opus", german), response_format="verbose_json"
    )
    assert heard.headers["x-roundhouse-model"] == "whisper-base"
    told = heard.parse()
    assert (told.language, "Berlin" in told.text) == ("de", True)
    assert 0.5 < told.model_dump()["language_probability"] <= 1
    # The SDK calls this endpoint deprecated, and warns.
    english = httpx.post(f"{server.v1}/audio/translations", files={"file": ("de.opus", german)}, timeout=60)
    assert english.headers["x-roundhouse-model"] == "whisper-base"
    assert "Good morning" in english.json()["text"]


def test_models_are_listed_with_what_they_can(client: openai.OpenAI) -> None:
    models = {model.id: model for model in client.models.list()}
    assert CHAT in models
    assert "chat" in models[CHAT].model_dump()["capabilities"]


def test_an_unknown_model_is_404_with_the_nearest_names(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=CHAT) as caught:
        client.chat.completions.create(model="smollm2-135m-instuct", messages=[{"role": "user", "content": "x"}])
    assert caught.value.code == "model_not_found"


def test_a_chat_model_asked_to_embed_says_which_can(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="all-minilm-l6-v2"):
        client.embeddings.create(model=CHAT, input="x")


def test_a_prompt_that_does_not_fit_is_refused_with_the_numbers(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"\d+ tokens") as caught:
        client.chat.completions.create(model=CHAT, messages=[{"role": "user", "content": "word " * 40_000}])
    assert caught.value.code == "context_length_exceeded"


def test_tokens_round_trip_exactly(server: Served) -> None:
    text = "Grüße, 世界! \N{ROCKET} <|im_start|>\n\ttabs"
    with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as client:
        tokens = client.post("/tokenize", json={"model": CHAT, "content": text}).json()["tokens"]
        back = client.post("/detokenize", json={"model": CHAT, "tokens": tokens}).json()["content"]
    assert back == text
