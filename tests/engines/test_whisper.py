"""Transcription with a real model: words, prompts, languages, silence, and files that are not audio."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from typing import Any

import av
import httpx
import numpy as np
import pytest

from backends.workers.engines.common.audio import decode, decode_pieces, wav_header
from catalog.errors import PayloadTooLarge
from catalog.types import Json
from tests.conformance.capability_checks import PASSAGE, SENTENCE, events, spoken
from tests.conformance.worker import Worker, worker_of

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def ears(whisper: Worker) -> Iterator[dict[str, Worker]]:
    with worker_of("whisper-base") as base:
        yield {"whisper-tiny.en": whisper, "whisper-base": base}


async def _transcribe(whisper: Worker, data: bytes, **fields: Any) -> httpx.Response:
    async with whisper.client() as client:
        return await client.post(
            "/v1/audio/transcriptions", data={"model": "m", **fields}, files={"file": ("a.mp3", data)}
        )


async def _done(whisper: Worker, data: bytes, **fields: Any) -> Json:
    answer = await _transcribe(whisper, data, **fields)
    assert answer.status_code == 200, answer.text
    return events(answer.text)[-1]


def flac(seconds: int) -> bytes:
    """Silence, compressed to about 200 bytes a second."""
    sink = io.BytesIO()
    with av.open(sink, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=16_000, layout="mono", format="s16")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000 * 60), np.int16), format="s16", layout="mono")
        frame.sample_rate = 16_000
        for _ in range(seconds // 60):
            frame.pts = None
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return sink.getvalue()


def _silence(seconds: int) -> bytes:
    samples = np.zeros(16_000 * seconds, "<i2").tobytes()
    return wav_header(16_000, len(samples)) + samples


async def test_words_have_times_in_order(whisper: Worker) -> None:
    done = await _done(whisper, spoken(), **{"timestamp_granularities[]": ["word", "segment"]})
    words = done["words"]
    assert " ".join(word["word"] for word in words) == SENTENCE
    assert all(word["start"] <= word["end"] for word in words)
    assert [word["start"] for word in words] == sorted(word["start"] for word in words)
    assert words[-1]["end"] <= done["duration"]


async def test_segments_carry_what_verbose_json_needs(whisper: Worker) -> None:
    done = await _done(whisper, spoken(PASSAGE))
    assert "words" not in done
    assert done["language"] == "en"
    assert "".join(segment["text"] for segment in done["segments"]).strip() == done["text"]
    assert [segment["id"] for segment in done["segments"]] == list(range(len(done["segments"])))
    for name in ("seek", "start", "end", "tokens", "temperature", "avg_logprob", "compression_ratio"):
        assert name in done["segments"][0]
    for words in ("harbour was quiet", "repaired clocks", "before the roads were finished"):
        assert words in done["text"].replace("harbor", "harbour")


async def test_a_prompt_steers_the_spelling(whisper: Worker) -> None:
    done = await _done(whisper, spoken(), prompt="quick brown fox lazy dog " * 20)
    assert "quick brown fox jumps over the lazy dog" in done["text"]
    assert done["text"] != SENTENCE, "without the prompt it is this sentence"


async def test_a_prompt_that_is_too_long_is_said_to_be_cut(whisper: Worker) -> None:
    answer = await _transcribe(whisper, spoken(), prompt="fox " * 300)
    assert answer.headers["x-roundhouse-dropped"] == "prompt: all but its end"


async def test_silence_left_out_gives_no_text(whisper: Worker) -> None:
    done = await _done(whisper, _silence(2), vad_filter="true")
    assert (done["text"], done["segments"], done["duration"]) == ("", [], 2.0)


def _noise(seconds: int) -> bytes:
    samples = np.random.default_rng(0).normal(scale=60, size=16_000 * seconds).astype("<i2").tobytes()
    return wav_header(16_000, len(samples)) + samples


@pytest.mark.parametrize("model", ["whisper-tiny.en", "whisper-base"])
@pytest.mark.parametrize(("sound", "seconds"), [(_silence(20), 20.0), (_silence(3), 3.0), (_noise(20), 20.0)])
async def test_what_holds_no_speech_is_no_words_and_no_language_is_guessed(
    ears: dict[str, Worker], model: str, sound: bytes, seconds: float
) -> None:
    done = await _done(ears[model], sound)
    assert (done["text"], done["segments"], done["duration"]) == ("", [], seconds)
    assert done["language"] == ("en" if model == "whisper-tiny.en" else None)
    among = await _done(ears[model], sound, **{"languages[]": ["en"]})
    assert among["text"] == ""


@pytest.mark.parametrize("model", ["whisper-tiny.en", "whisper-base"])
@pytest.mark.parametrize("said", ["Yes.", "No, stop.", "How far is the moon from the earth?"])
async def test_a_few_words_are_heard_once(ears: dict[str, Worker], model: str, said: str) -> None:
    done = await _done(ears[model], spoken(said))
    assert len(done["text"].split()) <= len(said.split()) + 1, "a decoder that finds no end repeats itself"


async def test_silence_around_speech_is_no_words(whisper: Worker) -> None:
    speech = decode(spoken(), rate=16_000, max_seconds=10, check=lambda: None)
    quiet = np.zeros(16_000 * 25, np.float32)
    data = (np.concatenate([quiet, speech, quiet]) * 32_000).astype("<i2").tobytes()
    done = await _done(whisper, wav_header(16_000, len(data)) + data)
    assert done["text"] == SENTENCE
    assert 24.5 < done["segments"][0]["start"] < done["segments"][-1]["end"] < 34


async def test_a_caller_may_have_all_of_it_heard(whisper: Worker) -> None:
    done = await _done(whisper, _silence(20), vad_filter="false")
    assert done["text"], "Whisper by itself writes words for silence"


async def test_speech_after_silence_keeps_its_times(whisper: Worker) -> None:
    speech = decode(spoken(), rate=16_000, max_seconds=10, check=lambda: None)
    samples = np.concatenate([np.zeros(48_000, np.float32), speech])
    data = (samples * 32_000).astype("<i2").tobytes()
    done = await _done(whisper, wav_header(16_000, len(data)) + data, vad_filter="true")
    assert done["segments"][0]["start"] > 2.5


@pytest.mark.parametrize("language", ["en", "EN", "en-GB"])
async def test_the_models_language_may_be_named(whisper: Worker, language: str) -> None:
    assert (await _done(whisper, spoken(), language=language))["text"] == SENTENCE


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"language": "de"}, "unsupported_value"),
        ({"language": "xx"}, "unsupported_value"),
        ({"language": "english please"}, "invalid_request"),
        ({"translate": "true"}, "model_capability_mismatch"),
        ({"temperature": "7"}, "invalid_request"),
        ({"temperature": "nan"}, "invalid_request"),
        ({"response_format": "pdf"}, "invalid_request"),
    ],
)
async def test_what_cannot_be_honoured_is_refused(whisper: Worker, fields: dict[str, str], code: str) -> None:
    answer = await _transcribe(whisper, spoken(), **fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == code


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello" * 1000,
        bytes(range(256)) * 100,
        wav_header(16_000, 0),
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
    ],
    ids=["empty", "text", "bytes", "header", "playlist", "concat"],
)
async def test_what_is_no_audio_is_refused_and_the_worker_lives(whisper: Worker, data: bytes) -> None:
    answer = await _transcribe(whisper, data)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] in {"undecodable_media", "invalid_request"}
    assert (await _done(whisper, spoken()))["text"] == SENTENCE


async def test_audio_over_the_limit_is_413() -> None:
    with worker_of("whisper-tiny.en", max_audio_seconds=2.0) as short:
        answer = await _transcribe(short, spoken())
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "payload_too_large"


async def test_audio_that_says_it_is_over_the_limit_is_413_before_it_is_decoded() -> None:
    with pytest.raises(PayloadTooLarge, match="longer than 500 seconds"):
        decode(flac(600), rate=16_000, max_seconds=500, check=lambda: pytest.fail("a frame was decoded"))


def test_long_audio_is_cut_into_pieces_at_a_quiet_moment_and_nothing_is_lost() -> None:
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, 16_000 * 25).astype(np.float32)
    noise[16_000 * 8 : 16_000 * 9] = 0  # the only quiet second of the first piece
    data = wav_header(16_000, len(noise) * 2) + (noise * 32_767).astype("<i2").tobytes()
    parts = list(decode_pieces(data, rate=16_000, max_seconds=60, check=lambda: None, seconds=10, quiet=4))
    assert [len(part) <= 160_000 for part in parts] == [True] * len(parts)
    assert 8.0 <= len(parts[0]) / 16_000 <= 9.0
    whole = decode(data, rate=16_000, max_seconds=60, check=lambda: None)
    assert np.array_equal(np.concatenate(parts), whole)


async def test_the_pieces_of_long_audio_are_one_transcript_with_times_of_the_whole() -> None:
    said = decode(spoken(), rate=16_000, max_seconds=10, check=lambda: None)
    samples = np.concatenate([said, np.zeros(16_000 * 300, np.float32), said])
    data = (samples * 32_000).astype("<i2").tobytes()
    with worker_of("whisper-tiny.en") as worker:
        long = asyncio.create_task(
            _done(worker, wav_header(16_000, len(data)) + data, vad_filter="true", timestamp_granularities="word")
        )
        await worker.until_active(1, within=20)
        short = await _done(worker, spoken())
        assert not long.done(), "a short file is answered while a long one is transcribed"
        done = await long
    assert short["text"] == SENTENCE
    assert done["text"].count("fox") == 2
    assert [segment["id"] for segment in done["segments"]] == list(range(len(done["segments"])))
    starts = [word["start"] for word in done["words"]]
    assert starts == sorted(starts)
    assert starts[-1] > 300
    assert done["duration"] == pytest.approx(len(samples) / 16_000, abs=0.01)


async def test_a_body_that_is_no_form_is_415(whisper: Worker) -> None:
    async with whisper.client() as client:
        answer = await client.post("/v1/audio/transcriptions", json={"model": "m"})
    assert answer.status_code == 415
