"""The engine of ONNX recognisers, on a network that is made here: it hears high and low tones.

The graph has the inputs and outputs of a NeMo CTC model; the package's own features and decoding run before and
after it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from backends.workers.engines.common.audio import Samples, wav_header
from backends.workers.engines.speakers.voices import fbank_features
from catalog.types import Json
from tests.conformance.capability_checks import events
from tests.conformance.worker import DidNotStart, Worker, worker

pytestmark = pytest.mark.engine
pytest.importorskip("onnx_asr", reason="it comes with the extra 'speech'")
VOCABULARY = ("▁Low", "▁high", ".", "<blk>")
CHANNELS, STRIDE = 80, 8


def make_tones(folder: Path) -> Path:
    """A model that writes "Low" for a low tone, "high" for a high one, and nothing for silence."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    low, high = np.zeros(CHANNELS, np.float32), np.zeros(CHANNELS, np.float32)
    low[3:8], high[60:70] = 0.2, 0.1
    weights: dict[str, np.ndarray] = {
        "kernel": np.stack([low, high])[:, :, None].repeat(STRIDE, axis=2) / STRIDE,
        "rest": np.array([-9.0, 0.8], np.float32)[None, :, None],
    }
    nodes = [
        helper.make_node("Conv", ["audio_signal", "kernel"], ["tones"], strides=[STRIDE], auto_pad="SAME_UPPER"),
        helper.make_node("Mul", ["tones", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "rest"], ["others"]),
        helper.make_node("Concat", ["tones", "others"], ["scores"], axis=1),
        helper.make_node("Transpose", ["scores"], ["ordered"], perm=[0, 2, 1]),
        helper.make_node("LogSoftmax", ["ordered"], ["logprobs"], axis=-1),
    ]
    weights["zero"] = np.zeros(1, np.float32)
    graph = helper.make_graph(
        nodes,
        "tones",
        [
            helper.make_tensor_value_info("audio_signal", TensorProto.FLOAT, ["batch", CHANNELS, "frames"]),
            helper.make_tensor_value_info("length", TensorProto.INT64, ["batch"]),
        ],
        [helper.make_tensor_value_info("logprobs", TensorProto.FLOAT, ["batch", "steps", len(VOCABULARY)])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    folder.mkdir(exist_ok=True)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(made, str(folder / "model.onnx"))
    lines = (f"{token} {number}" for number, token in enumerate(VOCABULARY))
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "config.json").write_text(
        json.dumps({"model_type": "nemo-conformer-ctc", "features_size": CHANNELS})
    )
    return folder


@pytest.fixture(scope="module")
def ear(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    folder = make_tones(tmp_path_factory.mktemp("asr") / "tones")
    with worker("onnx-asr", folder, model="nemo-conformer-ctc") as running:
        yield running


def tones(*pitches: float, seconds: float = 0.5, pause: float = 0.5) -> Samples:
    """Tones of these Hz, each followed by silence; 0 Hz is silence."""
    time = np.arange(int(seconds * 16_000)) / 16_000
    silence = np.zeros(int(pause * 16_000), np.float32)
    parts = [part for pitch in pitches for part in (0.5 * np.sin(2 * np.pi * pitch * time), silence)]
    return np.concatenate(parts).astype(np.float32)


def wav(samples: Samples) -> bytes:
    data = (samples * 32_767).astype("<i2").tobytes()
    return wav_header(16_000, len(data)) + data


LOW, HIGH = 260.0, 4600.0


async def ask(worker: Worker, samples: Samples, path: str = "transcriptions", **fields: Any) -> httpx.Response:
    async with worker.client() as client:
        return await client.post(
            f"/v1/audio/{path}", data={"model": "m", **fields}, files={"file": ("a.wav", wav(samples))}
        )


async def done(worker: Worker, samples: Samples, **fields: Any) -> Json:
    answer = await ask(worker, samples, **fields)
    assert answer.status_code == 200, answer.text
    found: Json = events(answer.text)[-1]
    return found


async def test_what_is_heard_is_written_with_the_times_of_words(ear: Worker) -> None:
    told = await done(ear, tones(LOW, HIGH, HIGH, LOW), **{"timestamp_granularities[]": ["word", "segment"]})
    assert told["text"] == "Low high high Low"
    assert told["duration"] == pytest.approx(4.0)
    starts = [word["start"] for word in told["words"]]
    assert starts == pytest.approx([0, 1, 2, 3], abs=0.25)
    assert all(word["start"] < word["end"] for word in told["words"])


async def test_a_pause_ends_a_segment(ear: Worker) -> None:
    told = await done(ear, np.concatenate([tones(LOW, HIGH), np.zeros(32_000, np.float32), tones(HIGH)]))
    assert [segment["text"].strip() for segment in told["segments"]] == ["Low high", "high"]
    assert "".join(segment["text"] for segment in told["segments"]).strip() == told["text"]
    assert told["segments"][1]["start"] == pytest.approx(4.0, abs=0.3)
    assert [segment["id"] for segment in told["segments"]] == [0, 1]


async def test_silence_is_no_text(ear: Worker) -> None:
    told = await done(ear, np.zeros(48_000, np.float32) + 1e-4)
    assert (told["text"], told["segments"]) == ("", [])


async def test_long_audio_is_one_transcript_whose_text_comes_before_the_end(ear: Worker) -> None:
    answer = await ask(ear, tones(*[LOW, HIGH] * 30), **{"timestamp_granularities[]": "word"})
    *deltas, told = events(answer.text)
    assert told["text"] == " ".join(["Low", "high"] * 30)
    assert "".join(event["delta"] for event in deltas) == told["text"]
    starts = [word["start"] for word in told["words"]]
    assert starts == pytest.approx(list(range(60)), abs=0.3)
    first = next(event for event in deltas if event["delta"])
    assert first["progress"]["seconds"] < 15
    assert first["progress"]["of"] == pytest.approx(60)


async def test_what_it_has_no_use_for_is_named(ear: Worker) -> None:
    answer = await ask(ear, tones(LOW), language="en", prompt="tones", **{"keywords[]": "Low"})
    assert set(answer.headers["x-roundhouse-dropped"].split(", ")) == {"language", "prompt", "keywords"}


def test_the_features_of_speakers_are_those_of_the_packages_wespeaker() -> None:
    from onnx_asr.preprocessors.numpy_preprocessor import KaldiPreprocessorNumpy

    samples = np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32)
    (theirs,), _ = KaldiPreprocessorNumpy("wespeaker")(samples[None], np.array([len(samples)]))
    assert np.allclose(fbank_features(samples), theirs - theirs.mean(axis=0), atol=2e-3)


async def test_a_translation_is_refused(ear: Worker) -> None:
    answer = await ask(ear, tones(LOW), "translations")
    assert answer.json()["error"]["code"] == "model_capability_mismatch"


async def test_what_is_no_audio_is_refused_and_the_worker_lives(ear: Worker) -> None:
    async with ear.client() as client:
        answer = await client.post(
            "/v1/audio/transcriptions", data={"model": "m"}, files={"file": ("a.wav", b"hello" * 100)}
        )
    assert answer.json()["error"]["code"] == "undecodable_media"
    assert (await done(ear, tones(LOW, HIGH)))["text"] == "Low high"


def test_a_folder_without_its_graph_is_refused_with_a_reason(tmp_path: Path) -> None:
    (make_tones(tmp_path / "tones") / "model.onnx").unlink()
    with (
        pytest.raises(DidNotStart, match=r"model\.onnx"),
        worker("onnx-asr", tmp_path / "tones", model="nemo-conformer-ctc"),
    ):
        pass
