"""Kokoro's voices with the real library and phonemes, and a generated graph that hums 60 ms per token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from backends.workers.engines.common.audio import decode
from backends.workers.engines.speech.kokoro import KokoroVoices
from backends.workers.engines.speech.voices import choose, foreign_letters
from catalog.errors import InvalidRequest, ModelUnavailable, UnsupportedParameter
from tests.conformance.worker import DidNotStart, Worker, worker

pytestmark = pytest.mark.engine

SAMPLES_PER_TOKEN = 1440


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a model with the inputs of a Kokoro export (tokens, style, speed) that hums for tokens / speed."""
    import onnx

    place = tmp_path_factory.mktemp("kokoro")
    helper, kinds = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("Size", ["tokens"], ["count"]),
        helper.make_node("Cast", ["count"], ["count_f"], to=kinds.FLOAT),
        helper.make_node("Mul", ["count_f", "per_token"], ["length"]),
        helper.make_node("ReduceMax", ["speed"], ["pace"], keepdims=0),
        helper.make_node("Div", ["length", "pace"], ["end"]),
        helper.make_node("Range", ["zero", "end", "one"], ["time"]),
        helper.make_node("Mul", ["time", "pitch"], ["phase"]),
        helper.make_node("Sin", ["phase"], ["wave"]),
        helper.make_node("ReduceMean", ["style"], ["loudness"], keepdims=0),
        helper.make_node("Mul", ["wave", "loudness"], ["audio"]),
    ]
    numbers = {"per_token": float(SAMPLES_PER_TOKEN), "zero": 0.0, "one": 1.0, "pitch": 0.1}
    graph = helper.make_graph(
        nodes,
        "hum",
        [
            helper.make_tensor_value_info("tokens", kinds.INT64, [1, "n"]),
            helper.make_tensor_value_info("style", kinds.FLOAT, [1, 256]),
            helper.make_tensor_value_info("speed", kinds.FLOAT, [1]),
        ],
        [helper.make_tensor_value_info("audio", kinds.FLOAT, ["samples"])],
        [helper.make_tensor(name, kinds.FLOAT, [], [value]) for name, value in numbers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(place / "model.onnx"))
    style = np.full((510, 1, 256), 0.5, np.float32)
    with (place / "voices.bin").open("wb") as file:
        np.savez(file, af_heart=style, bm_fable=style * 0.5, ef_dora=style)
    return place


@pytest.fixture(scope="module")
def kokoro(folder: Path) -> Iterator[Worker]:
    with worker("speech", folder, library="kokoro", voice="af_heart") as running:
        yield running


async def test_a_voice_speaks_sentence_by_sentence(folder: Path) -> None:
    voices = KokoroVoices(folder, file="model.onnx", styles="voices.bin")
    heart = voices.voices[0]
    pieces = list(voices.sentences("Hello there. How are you?\nFine!", heart, language="en-US", speed=1.0))
    assert len(pieces) == 3
    assert all(piece.dtype == np.float32 and len(piece) > SAMPLES_PER_TOKEN for piece in pieces)
    (fast,) = voices.sentences("Hello there.", heart, language="en-US", speed=2.0)
    assert len(fast) < 0.7 * len(pieces[0])


async def test_the_worker_lists_its_voices_and_speaks_with_each(kokoro: Worker) -> None:
    async with kokoro.client() as client:
        voices = (await client.get("/v1/audio/voices")).json()["data"]
        assert [(voice["id"], voice["languages"], voice["gender"]) for voice in voices] == [
            ("af_heart", ["en-US"], "female"),
            ("bm_fable", ["en-GB"], "male"),
            ("ef_dora", ["es"], "female"),
        ]
        for voice in voices:
            body = {"model": "m", "input": "Hola. Hello.", "voice": voice["id"], "response_format": "opus"}
            answer = await client.post("/v1/audio/speech", json=body)
            assert answer.status_code == 200, answer.text
            assert len(decode(answer.content, rate=24_000, max_seconds=60, check=lambda: None)) > 10_000


async def test_a_language_chooses_a_voice_that_speaks_it(kokoro: Worker) -> None:
    async with kokoro.client() as client:
        spanish = await client.post("/v1/audio/speech", json={"model": "m", "input": "Hola.", "language": "es"})
        german = await client.post("/v1/audio/speech", json={"model": "m", "input": "Hallo.", "language": "de"})
    assert spanish.headers["x-roundhouse-voice"] == "ef_dora"
    assert german.json()["error"]["param"] == "language"


def test_a_voice_that_speaks_another_language_is_refused(folder: Path) -> None:
    voices = KokoroVoices(folder, file="model.onnx", styles="voices.bin").voices
    with pytest.raises(UnsupportedParameter):
        choose(voices, default="af_heart", name="bm_fable", language="es", strict=False)
    with pytest.raises(InvalidRequest, match="af_heart"):
        choose(voices, default="af_heart", name="nobody", language=None, strict=False)
    with pytest.raises(InvalidRequest):
        choose(voices, default="af_heart", name="alloy", language=None, strict=True)
    assert choose(voices, default="af_heart", name="BM_FABLE", language="en", strict=False).language == "en-GB"


def test_a_folder_without_its_voices_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes((folder / "model.onnx").read_bytes())
    with pytest.raises(ModelUnavailable, match=r"voices\.bin"):
        KokoroVoices(tmp_path, file="model.onnx", styles="voices.bin")
    with pytest.raises(DidNotStart, match=r"voices\.bin"), worker("speech", tmp_path, library="kokoro"):
        pass


def test_letters_of_another_script_are_counted() -> None:
    assert foreign_letters("Café, naïve! 123") == (9, 0)
    assert foreign_letters("Hello мир") == (8, 3)
