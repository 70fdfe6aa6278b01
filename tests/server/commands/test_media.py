"""Texts in parts, and audio joined again."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import pytest

from catalog.errors import ConfigurationError
from server.commands.media import _new_file, joined_wav, spoken_parts


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One. Two.", ["One. Two."]),
        ("One sentence. Another one.", ["One sentence.", "Another one."]),
        ("no end of a sentence here at all", ["no end of a", "sentence here at", "all"]),
        ("x" * 40, ["x" * 18, "x" * 18, "xxxx"]),
        ("", []),
        ("first line\nsecond line", ["first line", "second line"]),
    ],
)
def test_a_long_text_is_cut_after_sentences_else_after_words(text: str, parts: list[str]) -> None:
    assert list(spoken_parts(text, 18)) == parts


def recording(frames: bytes, rate: int = 24_000) -> bytes:
    made = io.BytesIO()
    with wave.open(made, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(frames)
    return made.getvalue()


def test_recordings_are_joined_into_one_and_not_if_their_rates_differ() -> None:
    with wave.open(io.BytesIO(joined_wav([recording(b"\1\0" * 3), recording(b"\2\0" * 2)]))) as whole:
        assert whole.readframes(10) == b"\1\0" * 3 + b"\2\0" * 2
    with pytest.raises(ConfigurationError, match="sample rates"):
        joined_wav([recording(b"\1\0"), recording(b"\1\0", 16_000)])


def test_a_file_without_a_name_overwrites_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert _new_file("speech", "mp3") == Path("speech.mp3")
    (tmp_path / "speech.mp3").touch()
    (tmp_path / "speech-2.mp3").touch()
    assert _new_file("speech", "mp3") == Path("speech-3.mp3")
