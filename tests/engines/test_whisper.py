"""Transcription with a real model: words, prompts, languages, silence, and files that are not audio."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest

from backends.workers.engines.common.audio import wav_header
from catalog.types import Json
from tests.conformance.capability_checks import PASSAGE, SENTENCE, events, spoken
from tests.conformance.worker import Worker, worker_of

pytestmark = pytest.mark.engine


async def _transcribe(whisper: Worker, data: bytes, **fields: Any) -> httpx.Response:
    async with whisper.client() as client:
        return await client.post(
            "/v1/audio/transcriptions", data={"model": "m", **fields}, files={"file": ("a.mp3", data)}
        )


async def _done(whisper: Worker, data: bytes, **fields: Any) -> Json:
    answer = await _transcribe(whisper, data, **fields)
    assert answer.status_code == 200, answer.text
    return events(answer.text)[-1]


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


async def test_speech_after_silence_keeps_its_times(whisper: Worker) -> None:
    from backends.workers.engines.common.audio import decode

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
        ({"language": "de"}, "unsupported_parameter"),
        ({"language": "xx"}, "unsupported_parameter"),
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


async def test_a_body_that_is_no_form_is_415(whisper: Worker) -> None:
    async with whisper.client() as client:
        answer = await client.post("/v1/audio/transcriptions", json={"model": "m"})
    assert answer.status_code == 415
