"""Kokoro's voices: a generated graph that hums 50 ms per token, and the real model of the starters."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from backends.workers.engines.common.audio import decode
from backends.workers.engines.speech.kokoro import KokoroVoices, ids_of
from backends.workers.engines.speech.voices import SCRIPTS, choose, foreign_letters
from catalog.catalog import Catalog
from catalog.errors import InvalidRequest, ModelUnavailable, PullError, UnsupportedParameter
from catalog.store.kokoro_onnx import GRAPH, ROWS, STYLES, WIDTH, _packed, prepare
from tests.conformance.capability_checks import SENTENCE, events
from tests.conformance.worker import DidNotStart, Worker, worker, worker_of

pytestmark = pytest.mark.engine

SAMPLES_PER_TOKEN = 1200
"""Two of the graph's frames."""


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
        helper.make_node("Shape", ["tokens"], ["shape"]),
        helper.make_node("Expand", ["two", "shape"], ["twos"]),
        helper.make_node("Div", ["twos", "pace"], ["frames"]),
        helper.make_node("Round", ["frames"], ["rounded"]),
        helper.make_node("Clip", ["rounded", "one"], ["lengths"]),
    ]
    numbers = {"two": 2.0, "per_token": float(SAMPLES_PER_TOKEN), "zero": 0.0, "one": 1.0, "pitch": 0.1}
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
    (place / "voices").mkdir()
    for name, loudness in {"af_heart": 0.5, "bm_fable": 0.25, "ef_dora": 0.5, "jf_alpha": 0.5}.items():
        np.full((ROWS, 1, WIDTH), loudness, "<f4").tofile(place / "voices" / f"{name}.bin")
    prepare(place)
    return place


@pytest.fixture(scope="module")
def voices(folder: Path) -> KokoroVoices:
    return KokoroVoices(folder, file=GRAPH, styles=STYLES, threads=1)


@pytest.fixture(scope="module")
def kokoro(folder: Path) -> Iterator[Worker]:
    with worker("speech", folder, library="kokoro", voice="af_heart") as running:
        yield running


def test_the_folder_is_what_the_engine_opens(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [GRAPH, STYLES]


def test_a_graph_that_is_not_kokoros_is_refused(tmp_path: Path) -> None:
    import onnx

    graph = onnx.helper.make_graph([], "nothing", [], [])
    onnx.save(onnx.helper.make_model(graph), str(tmp_path / GRAPH))
    with pytest.raises(PullError, match="not Kokoro's"):
        prepare(tmp_path)


def test_a_voice_of_another_size_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "voices").mkdir()
    np.zeros(100, "<f4").tofile(tmp_path / "voices" / "af_odd.bin")
    with pytest.raises(PullError, match="af_odd"):
        _packed(tmp_path / "voices", tmp_path / STYLES)


def test_a_voice_speaks_sentence_by_sentence(voices: KokoroVoices) -> None:
    heart = voices.voices[0]
    pieces = voices.read("Hello there. How are you?\nFine!", language="en-US")
    spoken = [voices.speak(piece, heart, speed=1.0) for piece in pieces]
    assert len(spoken) == 3
    assert all(each.samples.dtype == np.float32 and len(each.samples) > SAMPLES_PER_TOKEN for each in spoken)
    fast = voices.speak(pieces[0], heart, speed=2.0)
    assert len(fast.samples) < 0.7 * len(spoken[0].samples)
    assert fast.pause == spoken[0].pause / 2 > 0


def test_words_have_the_times_that_the_graph_gives_their_sounds(voices: KokoroVoices) -> None:
    (piece,) = voices.read("Hello there, you.", language="en-US")
    speech = voices.speak(piece, voices.voices[0], speed=1.0)
    assert [word.word for word in speech.words] == ["Hello", "there", "you"]
    hello, there, you = speech.words
    assert hello.start == pytest.approx(SAMPLES_PER_TOKEN / 24_000, abs=0.03), "after the silence in front"
    assert hello.end - hello.start == pytest.approx(0.05 * len(ids_of(piece[0].phonemes)), abs=0.001)
    assert hello.end < there.start < there.end < you.start < you.end <= len(speech.samples) / 24_000


def test_a_blend_is_the_mean_of_its_voices_by_their_weights(voices: KokoroVoices) -> None:
    def loudness(name: str) -> float:
        voice = choose(voices.voices, default="af_heart", name=name, language=None, strict=True, blends=True).voice
        (piece,) = voices.read("Hello.", language="en-US")
        return float(np.abs(voices.speak(piece, voice, speed=1.0).samples).max())

    heart, fable = loudness("af_heart"), loudness("bm_fable")
    assert loudness("af_heart+bm_fable") == pytest.approx((heart + fable) / 2, rel=0.01)
    assert loudness("AF_heart(3)+bm_fable(1)") == pytest.approx((3 * heart + fable) / 4, rel=0.01)


@pytest.mark.parametrize("name", ["af_heart+nobody", "af_heart(0)", "af_heart(0)+bm_fable(0)", "+", "af_heart+"])
def test_a_blend_of_nothing_is_refused(voices: KokoroVoices, name: str) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        choose(voices.voices, default="af_heart", name=name, language=None, strict=False, blends=True)
    assert refused.value.param == "voice"


async def test_the_times_of_words_come_with_the_audio(kokoro: Worker) -> None:
    body = {
        "model": "m",
        "input": "<speak>One two.<break time='2s'/>Three.</speak>",
        "response_format": "wav",
        "timestamp_granularities": ["word"],
        "stream_format": "sse",
    }
    async with kokoro.client() as client:
        answer = await client.post("/v1/audio/speech", json=body)
        refused = await client.post("/v1/audio/speech", json={**body, "timestamp_granularities": ["character"]})
    told = events(answer.text)
    words = [word for event in told for word in event["words"]]
    assert [word["word"] for word in words] == ["One", "two", "Three"]
    assert words[2]["start"] - words[1]["end"] > 2.0
    audio = b"".join(base64.b64decode(event["audio"]) for event in told)
    seconds = len(decode(audio, rate=24_000, max_seconds=60, check=lambda: None)) / 24_000
    assert words[-1]["end"] <= seconds < words[-1]["end"] + 0.3
    assert refused.json()["error"]["param"] == "timestamp_granularities"


async def test_the_elements_of_ssml_without_effect_are_named(kokoro: Worker) -> None:
    body = {"model": "m", "input": "<speak>One <prosody rate='slow'>two</prosody>.</speak>"}
    async with kokoro.client() as client:
        answer = await client.post("/v1/audio/speech", json=body)
        strict = await client.post("/v1/audio/speech", json={**body, "strict": True})
    assert (answer.status_code, answer.headers["x-roundhouse-dropped"]) == (200, "input.prosody")
    assert strict.json()["error"]["param"] == "input"


async def test_the_worker_lists_its_voices_and_speaks_with_each(kokoro: Worker) -> None:
    async with kokoro.client() as client:
        listed = (await client.get("/v1/audio/voices")).json()["data"]
        voices = [voice for voice in listed if voice["id"] != "jf_alpha"]  # an extra reads Japanese
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


def test_a_voice_that_speaks_another_language_is_refused(voices: KokoroVoices) -> None:
    with pytest.raises(UnsupportedParameter):
        choose(voices.voices, default="af_heart", name="bm_fable", language="es", strict=False)
    with pytest.raises(InvalidRequest, match="af_heart"):
        choose(voices.voices, default="af_heart", name="nobody", language=None, strict=False)
    with pytest.raises(InvalidRequest):
        choose(voices.voices, default="af_heart", name="Rachel", language=None, strict=True)
    assert (
        choose(voices.voices, default="af_heart", name="BM_FABLE", language="en", strict=False).language == "en-GB"
    )


def test_a_folder_without_its_voices_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes((folder / "model.onnx").read_bytes())
    with pytest.raises(ModelUnavailable, match=r"voices\.bin"):
        KokoroVoices(tmp_path, file="model.onnx", styles="voices.bin", threads=1)
    with pytest.raises(DidNotStart, match=r"voices\.bin"), worker("speech", tmp_path, library="kokoro"):
        pass


async def test_a_script_that_no_voice_reads_is_for_another_model_to_speak(kokoro: Worker) -> None:
    async with kokoro.client() as client:
        body = {"model": "m", "input": "Привет, мир!", "voice": "alloy"}
        refused = (await client.post("/v1/audio/speech", json=body)).json()["error"]
    assert refused["param"] == "input"
    assert refused["code"] == "unsupported_value", (refused, "the router asks another model after this")


async def test_a_text_in_another_script_gets_a_voice_that_reads_it(real: Worker) -> None:
    async with real.client() as client:
        body = {"model": "m", "input": "नमस्ते।", "response_format": "pcm"}
        answer = await client.post("/v1/audio/speech", json=body)
        assert (answer.status_code, answer.headers["x-roundhouse-language"]) == (200, "hi")
        named = await client.post("/v1/audio/speech", json={**body, "voice": "af_heart"})
        assert named.json()["error"]["param"] == "input"


def test_letters_of_another_script_are_counted() -> None:
    assert foreign_letters("Café, naïve! 123", SCRIPTS["fr"]) == (9, 0)
    assert foreign_letters("Hello мир", SCRIPTS["en"]) == (8, 3)
    assert foreign_letters("नमस्ते world", SCRIPTS["hi"])[1] == 0


@pytest.fixture(scope="module")
def real() -> Iterator[Worker]:
    with worker_of("kokoro") as running:
        yield running


async def test_the_starter_is_understood_and_its_words_stand_where_they_are_heard(
    real: Worker, whisper: Worker
) -> None:
    body = {
        "model": "m",
        "input": SENTENCE,
        "response_format": "wav",
        "timestamp_granularities": ["word"],
        "stream_format": "sse",
    }
    async with real.client() as client:
        told = events((await client.post("/v1/audio/speech", json=body)).text)
    audio = b"".join(base64.b64decode(event["audio"]) for event in told)
    words = [word for event in told for word in event["words"]]
    assert " ".join(word["word"] for word in words) == SENTENCE.rstrip(".").replace(",", "")
    async with whisper.client() as client:
        form = {"model": "m", "response_format": "verbose_json", "timestamp_granularities[]": "word"}
        answer = await client.post("/v1/audio/transcriptions", data=form, files={"file": ("a.wav", audio)})
    heard = events(answer.text)[-1]
    assert heard["text"] == SENTENCE
    apart = [abs(said["start"] - word["start"]) for said, word in zip(words, heard["words"], strict=True)]
    assert max(apart) < 0.45, "tiny.en is not exact either"
    assert sum(apart) / len(apart) < 0.2


async def test_the_starter_speaks_every_language_that_it_lists(real: Worker) -> None:
    row = Catalog.builtin().resolve("kokoro")
    async with real.client() as client:
        listed = (await client.get("/v1/audio/voices")).json()["data"]
        spoken = {language.split("-")[0] for voice in listed for language in voice["languages"]}
        without_package = {"zh"} if find_spec("pypinyin") is None else set()
        assert set(row.languages) - spoken == without_package
        for voice, text in (("ef_dora", "Hola, ¿qué tal?"), ("ff_siwis", "Bonjour."), ("hf_alpha", "नमस्ते।")):
            body = {"model": "m", "input": text, "voice": voice, "response_format": "pcm"}
            answer = await client.post("/v1/audio/speech", json=body)
            assert len(answer.content) > 20_000, answer.text
