"""Audio in: formats, rates, voice activity, turns, and how complete words sound."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catalog.errors import InvalidRequest
from server.realtime.hearing.completeness import LONGEST_MS, completeness, silence_for
from server.realtime.hearing.ears import Ears, InputBuffer, Listening
from server.realtime.hearing.silero import FRAME, RATE, SileroVad
from server.realtime.hearing.turns import FRAME_MS, PAUSE_MS, TurnChange, TurnDetector, TurnMoment
from server.realtime.sound import AudioForm, Resampler, to_samples, wav
from tests.server.realtime.conversing import quiet, spoken
from tests.server.realtime.silero_weights import convert

PCM, ULAW, ALAW = AudioForm(), AudioForm("audio/pcmu"), AudioForm("audio/pcma")


def frames(audio: bytes, form: AudioForm = PCM) -> Any:
    values = Resampler(form.rate, RATE)(form.decode(audio)) / 32768
    count = len(values) // FRAME
    return values[: count * FRAME].reshape(count, FRAME).astype(np.float32)


def test_the_network_gives_the_probabilities_of_its_onnx_graph() -> None:
    runtime = pytest.importorskip("onnxruntime")
    package = importlib.util.find_spec("faster_whisper")
    if package is None or package.submodule_search_locations is None:
        pytest.skip("faster-whisper, which holds the graph, is not installed")
    graph = Path(package.submodule_search_locations[0]) / "assets" / "silero_vad_v6.onnx"
    session = runtime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    given = frames(spoken("question") + quiet(0.5))
    h = c = np.zeros((1, 1, 128), np.float32)
    context, expected = np.zeros(64, np.float32), []
    for frame in given:
        audio = np.concatenate((context, frame))[None]
        probability, h, c = session.run(None, {"input": audio, "h": h, "c": c})
        expected.append(float(np.ravel(probability)[0]))
        context = frame[-64:]
    assert max(expected) > 0.9
    np.testing.assert_allclose(SileroVad()(given), expected, atol=0.02)
    vad = SileroVad()
    one_by_one = [each for at in range(len(given)) for each in vad(given[at : at + 1])]
    np.testing.assert_allclose(one_by_one, expected, atol=0.02)


def test_the_stored_weights_are_those_of_the_graph() -> None:
    pytest.importorskip("onnx")
    package = importlib.util.find_spec("faster_whisper")
    if package is None or package.submodule_search_locations is None:
        pytest.skip("faster-whisper, which holds the graph, is not installed")
    made = convert(Path(package.submodule_search_locations[0]) / "assets" / "silero_vad_v6.onnx")
    stored = SileroVad()._weights
    assert made.keys() == stored.keys()
    for name, values in made.items():
        np.testing.assert_array_equal(values.astype(np.float16).astype(np.float32), stored[name], err_msg=name)


def test_noise_and_tones_are_no_speech() -> None:
    rng = np.random.default_rng(7)
    noise = (rng.standard_normal(48_000) * 1500).astype("<i2").tobytes()
    tone = (np.sin(np.arange(48_000) * 2 * np.pi * 440 / 24_000) * 8000).astype("<i2").tobytes()
    for audio in (noise, tone, quiet(2)):
        assert max(SileroVad()(frames(audio))) < 0.5


@pytest.mark.parametrize("form", [ULAW, ALAW], ids=["ulaw", "alaw"])
def test_telephone_codes_are_those_of_g711(form: AudioForm) -> None:
    codes = bytes(range(256))
    decoded = form.decode(codes)
    again = form.decode(form.encode(decoded))
    np.testing.assert_array_equal(decoded, again)
    known = (
        {0x00: -32124, 0x80: 32124, 0xFF: 0} if form is ULAW else {0x55: -8, 0xD5: 8, 0x2A: -32256, 0xAA: 32256}
    )
    assert {code: int(decoded[code]) for code in known} == known
    samples = np.arange(-32768, 32768, 11).astype(np.int16)
    magnitude = np.abs(samples.astype(int))
    error = np.abs(form.decode(form.encode(samples)).astype(int) - samples)
    assert np.all(error <= 16 + magnitude / 32 + np.maximum(0, magnitude - 32_124))


@pytest.mark.parametrize(("source", "target"), [(24_000, 16_000), (8_000, 16_000), (24_000, 8_000)])
def test_a_rate_is_changed_the_same_in_pieces_as_in_one(source: int, target: int) -> None:
    time = np.arange(source) / source
    tone = (10_000 * np.sin(2 * np.pi * 440 * time)).astype(np.int16)
    whole = Resampler(source, target)(tone)
    assert len(whole) == target
    piecewise = Resampler(source, target)
    parts = [piecewise(part) for part in np.split(tone, [1, 2, 99, 100, 1001, 5000])]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=0.02)
    middle = whole[target // 10 : -target // 10]
    assert np.sqrt((middle**2).mean()) == pytest.approx(10_000 / np.sqrt(2), rel=0.01)
    if target < source:
        high = (10_000 * np.sin(2 * np.pi * (target * 0.7) * time)).astype(np.int16)
        assert np.abs(Resampler(source, target)(high)[100:-100]).max() < 100


def test_a_wav_file_has_the_samples() -> None:
    samples = to_samples(np.array([0.0, 1.4, -40_000.0, 40_000.0], np.float32))
    assert samples.tolist() == [0, 1, -32768, 32767]
    data = wav(samples, 24_000)
    assert data[:4] == b"RIFF"
    assert data[-8:] == samples.tobytes()


def changes(probabilities: list[float], wait: float = 320.0) -> list[TurnMoment]:
    return list(TurnDetector(threshold=0.5, wait=wait).feed(probabilities, 0.0))


def test_a_turn_begins_with_two_frames_and_ends_with_the_silence() -> None:
    assert changes([0.9, 0.1, 0.9, 0.1]) == []
    assert changes([0.1, 0.9, 0.9, *[0.0] * 10]) == [
        TurnMoment(TurnChange.BEGAN, FRAME_MS),
        TurnMoment(TurnChange.PAUSED, 3 * FRAME_MS + PAUSE_MS),
        TurnMoment(TurnChange.ENDED, 3 * FRAME_MS + 320),
    ]


def test_speech_after_a_pause_is_told_and_one_after_a_breath_is_not() -> None:
    found = changes([0.9, 0.9, *[0.0] * 5, 0.9, 0.0, 0.0, 0.9, *[0.0] * 10])
    assert [moment.change for moment in found] == [
        TurnChange.BEGAN,
        TurnChange.PAUSED,
        TurnChange.WENT_ON,
        TurnChange.PAUSED,
        TurnChange.ENDED,
    ]


def test_a_weak_sound_does_not_begin_a_silence() -> None:
    assert [moment.change for moment in changes([0.9, 0.9, *[0.4] * 20])] == [TurnChange.BEGAN]


async def moments(ears: Ears, audio: bytes, step: int) -> list[TurnMoment]:
    return [moment for at in range(0, len(audio), step) async for moment in ears.hear(audio[at : at + step])]


@pytest.mark.parametrize("step", [480, 4800, 1_000_000])
async def test_turns_do_not_depend_on_the_size_of_the_pieces(step: int) -> None:
    ears = Ears(PCM, longest=60_000)
    ears.listen(Listening(), PCM)
    found = await moments(ears, spoken("question") + quiet(1), step)
    assert [moment.change for moment in found] == [TurnChange.BEGAN, TurnChange.PAUSED, TurnChange.ENDED]
    assert found[0].at == pytest.approx(52, abs=1)
    assert found[2].at == pytest.approx(2144, abs=1)


async def test_what_is_taken_is_the_turn_with_its_padding() -> None:
    ears = Ears(PCM, longest=60_000)
    ears.listen(Listening(prefix=100), PCM)
    audio = quiet(3) + spoken("question") + quiet(1)
    found = await moments(ears, audio, 4800)
    begin, end = found[0].at, found[-1].at
    taken = ears.take(end)
    assert taken == audio[PCM.bytes_of(begin) : PCM.bytes_of(end)]
    assert begin == pytest.approx(3220, abs=33)
    assert ears.buffer.begin == pytest.approx(end, abs=0.1)


async def test_silence_before_a_turn_takes_no_memory() -> None:
    ears = Ears(PCM, longest=60_000)
    ears.listen(Listening(), PCM)
    await moments(ears, quiet(60), 48_000)
    assert ears.buffer.milliseconds < 1100
    assert ears.buffer.end == pytest.approx(60_000)


async def test_a_turn_without_an_end_is_as_long_as_the_buffer() -> None:
    ears = Ears(PCM, longest=2000)
    ears.listen(Listening(), PCM)
    story = spoken("story")
    found = await moments(ears, story[: len(story) // 4 * 2], 4800)
    assert [moment.change for moment in found if moment.change is not TurnChange.PAUSED][:2] == [
        TurnChange.BEGAN,
        TurnChange.ENDED,
    ]


async def test_without_turns_the_buffer_is_bounded() -> None:
    ears = Ears(PCM, longest=1000)
    assert await moments(ears, quiet(0.9), 4800) == []
    with pytest.raises(InvalidRequest):
        await moments(ears, quiet(0.2), 9600)
    ears.clear()
    assert await moments(ears, quiet(0.9), 4800) == []


async def test_another_format_begins_with_an_empty_buffer() -> None:
    ears = Ears(PCM, longest=60_000)
    ears.listen(Listening(), PCM)
    await moments(ears, quiet(1), 4800)
    ears.listen(Listening(), ULAW)
    assert ears.buffer.milliseconds == 0
    assert ears.buffer.begin == pytest.approx(1000)
    found = await moments(ears, spoken("question", "audio/pcmu") + quiet(1, "audio/pcmu"), 800)
    assert [moment.change for moment in found][-1] is TurnChange.ENDED


def test_a_buffer_gives_whole_samples_of_a_time() -> None:
    buffer = InputBuffer(PCM)
    buffer.append(bytes(range(96)))
    assert buffer.end == 2.0
    assert buffer.between(0.5, 1.0) == bytes(range(24, 48))
    buffer.forget(1.0)
    assert buffer.begin == 1.0
    assert buffer.between(0.0, 9.0) == bytes(range(48, 96))


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("What is the capital of France?", 0.9, 1),
        ("Turn on the light.", 0.85, 1),
        ("Thank you", 0.4, 0.6),
        ("I would like to know whether the.", 0, 0.15),
        ("So, um...", 0, 0.15),
        ("First the eggs,", 0, 0.1),
        ("Ich möchte wissen, weil", 0, 0.15),
        ("東京はどこですか？", 0.9, 1),  # noqa: RUF001
        ("", 0.2, 0.4),
    ],
)
def test_words_sound_more_or_less_complete(text: str, low: float, high: float) -> None:
    assert low <= completeness(text) <= high


def test_an_eager_session_waits_less() -> None:
    for text in ("Yes.", "Thank you", "and the"):
        waits = [silence_for(text, eagerness) for eagerness in ("high", "medium", "low")]
        assert waits == sorted(waits)
    assert silence_for("and the", "low") == LONGEST_MS["low"] == 8000
