"""Pocket TTS: the real library speaks with voices of recordings, by a small model with random weights."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from backends.workers.engines.common.audio import Samples, decode, encode
from catalog.errors import InvalidRequest, ModelUnavailable
from tests.conformance.worker import Worker, worker
from tests.e2e.serving import served
from tests.fakes.pocket import write_pocket_model

pytest.importorskip("pocket_tts", reason="the extra clone is not installed")
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

SETTINGS = """
[[model]]
id = "parrot"
capabilities = ["speak", "clone"]
engine = "speech"
source = {{ kind = "path", path = "{folder}" }}
options = {{ library = "pocket" }}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pocket")
    write_pocket_model(place)
    return place


@pytest.fixture(scope="module")
def pocket(folder: Path) -> Iterator[Worker]:
    with worker("speech", folder, library="pocket") as running:
        yield running


def recording(pitch: float, *, seconds: float = 2.0) -> bytes:
    """A hum, as a wav."""
    time = np.arange(int(24_000 * seconds)) / 24_000
    hum = (0.3 * np.sin(2 * np.pi * pitch * time)).astype(np.float32)
    return b"".join(encode([hum], audio_format="wav", source_rate=24_000, rate=24_000))


async def speak(pocket: Worker, heard: bytes | None, text: str = "Hello there.", **body: Any) -> httpx.Response:
    sent = {"model": "m", "input": text, "response_format": "pcm", "voice": "voice_1", **body}
    if heard is not None:
        sent["recording"] = base64.b64encode(heard).decode()
    async with pocket.client() as client:
        return await client.post("/v1/audio/speech", json=sent)


def test_each_recording_gives_a_voice_of_its_own_and_always_the_same(folder: Path) -> None:
    from backends.workers.engines.speech.pocket import PocketVoices

    voices = PocketVoices(folder, language="english", threads=1)
    (piece,) = voices.read("Hello there.", language="en")

    def spoken(pitch: float) -> Samples:
        return voices.speak(piece, voices.clone(recording(pitch)), speed=1.0).samples

    low, again, high = spoken(110), spoken(110), spoken(440)
    assert len(low) > 5_000
    assert low == pytest.approx(again, abs=1e-5)
    assert high != pytest.approx(low, abs=5e-5), "random weights hear little of it"


async def test_a_long_text_comes_sentence_by_sentence(pocket: Worker) -> None:
    body = {
        "model": "m", "input": "One. Two. Three. Four. Five.", "response_format": "pcm",
        "recording": base64.b64encode(recording(110)).decode(),
    }  # fmt: skip
    async with pocket.client() as client, client.stream("POST", "/v1/audio/speech", json=body) as answer:
        assert len([piece async for piece in answer.aiter_raw()]) >= 5


@pytest.mark.parametrize("heard", [b"RIFF and no more", recording(110, seconds=0.3)])
async def test_a_recording_that_is_none_is_refused(pocket: Worker, heard: bytes) -> None:
    answer = await speak(pocket, heard)
    assert answer.status_code == 400


async def test_without_a_recording_this_model_has_no_voice(pocket: Worker) -> None:
    answer = await speak(pocket, None, voice=None)
    assert answer.json()["error"]["param"] == "voice"


async def test_another_language_is_refused(pocket: Worker) -> None:
    answer = await speak(pocket, recording(110), language="de")
    assert answer.json()["error"]["param"] == "language"
    assert (await speak(pocket, recording(110), language="en")).status_code == 200


async def test_instructions_are_named_or_with_strict_refused(pocket: Worker) -> None:
    answer = await speak(pocket, recording(110), instructions="whisper")
    assert answer.headers["x-roundhouse-dropped"] == "instructions"
    strict = await speak(pocket, recording(110), instructions="whisper", strict=True)
    assert strict.json()["error"]["code"] == "unsupported_parameter"


def test_a_folder_without_its_files_is_refused(folder: Path, tmp_path: Path) -> None:
    from backends.workers.engines.speech.pocket import PocketVoices

    with pytest.raises(ModelUnavailable, match=r"model\.safetensors"):
        PocketVoices(tmp_path, language="english", threads=1)
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(ModelUnavailable, match="tokenizer"):
        PocketVoices(tmp_path, language="english", threads=1)
    with pytest.raises(ModelUnavailable, match="klingon"):
        PocketVoices(tmp_path, language="klingon", threads=1)


def test_voices_of_recordings_are_kept_within_bounds(folder: Path) -> None:
    from backends.workers.engines.speech import pocket

    voices = pocket.PocketVoices(folder, language="english", threads=1)
    first = voices.clone(recording(100))
    for n in range(pocket._KEPT):
        voices.clone(recording(200 + n))
    assert len(voices._states) == pocket._KEPT
    assert first.name not in voices._states
    with pytest.raises(InvalidRequest):
        voices.clone(recording(100, seconds=0.1))


def test_a_custom_voice_speaks_through_the_server(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "roundhouse.toml").write_text(SETTINGS.format(folder=folder))
    data = {"ROUNDHOUSE_DATA_DIR": str(tmp_path / "data")}
    with (
        served(tmp_path, environment=data) as server,
        openai.OpenAI(base_url=server.v1, api_key="none", max_retries=0) as client,
    ):
        agreed = client.audio.voice_consents.create(
            name="Yes", language="en-US", recording=("yes.wav", recording(110))
        )
        ada = client.audio.voices.create(name="Ada", consent=agreed.id, audio_sample=("a.wav", recording(110)))
        answer = client.audio.speech.with_raw_response.create(
            model="auto", voice={"id": ada.id}, input="Hello there.", response_format="flac"
        )
        assert answer.headers["x-roundhouse-model"] == "parrot"
        assert len(decode(answer.content, rate=24_000, max_seconds=60, check=lambda: None)) > 5_000
        with pytest.raises(openai.BadRequestError, match="clone"):
            client.audio.speech.create(model="hibari", voice={"id": ada.id}, input="Hello.")
        client.audio.voices.delete(ada.id)
        with pytest.raises(openai.OpenAIError):
            client.audio.speech.create(model="parrot", voice={"id": ada.id}, input="Hello.")
