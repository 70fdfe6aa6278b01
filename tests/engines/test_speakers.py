"""Speakers told apart with the real voice encoder, on voices that are made here."""

from __future__ import annotations

import base64
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from backends.workers.engines.common.audio import Samples, decode, wav_header
from catalog.types import Json
from tests.conformance.capability_checks import events
from tests.conformance.worker import DidNotStart, Worker, worker, worker_of

pytestmark = pytest.mark.engine
GERMAN = Path(__file__).parent / "spoken" / "de.opus"
LINES = (
    "The harbour was quiet when the first boats came home this morning.",
    "Gulls circled above the old stone pier, and nobody else was there.",
    "A baker carried warm bread across the market square before it rained.",
    "Children counted the steps to the lighthouse door, one after the other.",
)


@pytest.fixture(scope="module")
def encoder() -> Iterator[Worker]:
    with worker_of("resemblyzer") as running:
        yield running


@functools.cache
def said(text: str, voice: str) -> Samples:
    """A text in one of hibari's two accents, which are one speaker's, or ``deep``: another one's, 16 kHz."""
    if voice == "deep":
        return deepened(said(text, "heart"))
    from backends.workers.engines.speech.hibari import HibariVoices

    voices = HibariVoices(threads=2)
    speaker = next(each for each in voices.voices if each.name == voice)
    read = voices.read(text, language=speaker.languages[0])
    pieces = [voices.speak(piece, speaker, speed=1.0).samples for piece in read]
    return decode(_wav(np.concatenate(pieces), 24_000), rate=16_000, max_seconds=60, check=lambda: None)


def deepened(samples: Samples, by: float = 0.8) -> Samples:
    """The samples with every frequency times ``by``: the voice of a speaker with a longer throat."""
    places = np.arange(int(len(samples) / by)) * by
    return np.asarray(np.interp(places, np.arange(len(samples)), samples), np.float32)


def _wav(samples: Samples, rate: int = 16_000) -> bytes:
    data = (np.clip(samples, -1, 1) * 32_767).astype("<i2").tobytes()
    return wav_header(rate, len(data)) + data


def dialogue(*voices: str, pause: float = 0.5) -> tuple[bytes, list[float]]:
    """Lines by these voices in turn, and the seconds at which each begins."""
    parts, starts, at = [], [], 0
    for number, voice in enumerate(voices):
        line = said(LINES[number % len(LINES)], voice)
        starts.append(at / 16_000)
        gap = np.zeros(int(pause * 16_000), np.float32)
        parts += [line, gap]
        at += len(line) + len(gap)
    return _wav(np.concatenate(parts)), starts


async def ask(running: Worker, file: bytes, **fields: Any) -> httpx.Response:
    async with running.client() as client:
        return await client.post(
            "/v1/audio/transcriptions", data={"model": "m", **fields}, files={"file": ("a.wav", file)}
        )


async def turns(running: Worker, file: bytes, **fields: Any) -> list[Json]:
    answer = await ask(running, file, **fields)
    assert answer.status_code == 200, answer.text
    found: list[Json] = events(answer.text)[-1]["segments"]
    return found


def speakers(found: list[Json]) -> list[str]:
    """The speakers in their order, each change once."""
    names = [turn["speaker"] for turn in found]
    return [name for place, name in enumerate(names) if place == 0 or names[place - 1] != name]


async def test_two_voices_in_turn_are_two_speakers(encoder: Worker) -> None:
    file, starts = dialogue("heart", "deep", "heart", "deep")
    found = await turns(encoder, file)
    assert speakers(found) == ["A", "B", "A", "B"]
    changes = [
        turn["start"]
        for turn, before in zip(found[1:], found, strict=False)
        if turn["speaker"] != before["speaker"]
    ]
    assert changes == pytest.approx(starts[1:], abs=0.5)


async def test_one_voice_is_one_speaker(encoder: Worker) -> None:
    for voice in ("heart", "deep"):
        file, _ = dialogue(voice, voice, voice, voice)
        assert speakers(await turns(encoder, file)) == ["A"]
    accents, _ = dialogue("heart", "heart-british", "heart", "heart-british")
    assert speakers(await turns(encoder, accents)) == ["A"]


async def test_a_third_voice_is_a_third_speaker(encoder: Worker) -> None:
    other = decode(GERMAN.read_bytes(), rate=16_000, max_seconds=60, check=lambda: None)
    gap = np.zeros(8_000, np.float32)
    parts = [said(LINES[0], "heart"), gap, other, gap, said(LINES[1], "deep"), gap, other]
    assert speakers(await turns(encoder, _wav(np.concatenate(parts)))) == ["A", "B", "C", "B"]


async def test_a_known_speaker_has_a_name(encoder: Worker) -> None:
    file, _ = dialogue("heart", "deep", "heart")
    sample = base64.b64encode(_wav(said(LINES[3], "deep"))).decode()
    fields = {
        "known_speaker_names[]": "Agent",
        "known_speaker_references[]": f"data:audio/wav;base64,{sample}",
    }
    assert speakers(await turns(encoder, file, **fields)) == ["A", "Agent", "A"]


async def test_the_number_of_speakers_may_be_known(encoder: Worker) -> None:
    file, _ = dialogue("heart", "deep", "heart", "deep")
    assert set(speakers(await turns(encoder, file, num_speakers="1"))) == {"A"}
    assert set(speakers(await turns(encoder, file, num_speakers="2"))) == {"A", "B"}


async def test_silence_has_no_speakers(encoder: Worker) -> None:
    assert await turns(encoder, _wav(np.zeros(48_000, np.float32))) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"num_speakers": "0"},
        {"num_speakers": "many"},
        {"known_speaker_names[]": "Agent"},
        {"known_speaker_names[]": "Agent", "known_speaker_references[]": "data:audio/wav;base64,!!"},
        {"known_speaker_names[]": "Agent", "known_speaker_references[]": "data:audio/wav;base64,"},
        {"known_speaker_names[]": "Agent", "known_speaker_references[]": base64.b64encode(b"no audio").decode()},
    ],
)
async def test_what_cannot_be_is_refused_and_the_worker_lives(encoder: Worker, fields: dict[str, str]) -> None:
    file, _ = dialogue("heart")
    answer = await ask(encoder, file, **fields)
    assert answer.status_code == 400, answer.text
    assert speakers(await turns(encoder, file)) == ["A"]


def _encoder_of_bands(folder: Path) -> Path:
    """A network of WeSpeaker's inputs and outputs: the mean and spread of the loudness of eight bands."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    bands = np.kron(np.eye(8, dtype=np.float32), np.ones((10, 1), np.float32) / 10)
    nodes = [
        helper.make_node("MatMul", ["feats", "bands"], ["loud"]),
        helper.make_node("Abs", ["loud"], ["sizes"]),
        helper.make_node("ReduceMean", ["sizes"], ["embs"], axes=[1], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "bands",
        [helper.make_tensor_value_info("feats", TensorProto.FLOAT, ["batch", "frames", 80])],
        [helper.make_tensor_value_info("embs", TensorProto.FLOAT, ["batch", 8])],
        [numpy_helper.from_array(bands, "bands")],
    )
    folder.mkdir()
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(made, str(folder / "voices.onnx"))
    return folder


async def test_a_network_that_reads_kaldis_features_runs_as_well(tmp_path: Path) -> None:
    folder = _encoder_of_bands(tmp_path / "bands")
    time = np.arange(32_000) / 16_000
    with worker("speakers", folder, file="voices.onnx", features="fbank", alike=0.5) as running:
        file, _ = dialogue("heart", "deep")
        found = await turns(running, file, num_speakers="2")
        assert {turn["speaker"] for turn in found} == {"A", "B"}
        tone = (0.3 * np.sin(2 * np.pi * 300 * time)).astype(np.float32)
        assert await turns(running, _wav(tone)) == [], "a tone is no voice"


def test_a_file_that_is_no_network_is_refused_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(DidNotStart, match="cannot run"), worker("speakers", tmp_path):
        pass
