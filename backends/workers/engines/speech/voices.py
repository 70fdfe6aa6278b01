"""The interface of text-to-speech libraries, and the choice of a voice for a request."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from backends.voices import OPENAI_VOICES, openai_voice, unknown_voice
from backends.workers.engines.common.audio import Samples
from catalog.errors import UnsupportedParameter


@dataclass(frozen=True, slots=True)
class Voice:
    """A voice; ``languages`` are the BCP 47 tags that it speaks, its native one first."""

    name: str
    languages: tuple[str, ...]
    gender: str | None = None


class Synthesizer(Protocol):
    """A loaded text-to-speech library. ``speeds`` are the lowest and highest speed that it supports."""

    sample_rate: int
    speeds: tuple[float, float]
    voices: Sequence[Voice]

    def sentences(self, text: str, voice: Voice, *, language: str, speed: float) -> Iterator[Samples]:
        """Yield mono samples, a piece per sentence or shorter, each as soon as it is ready. Thread-safe.

        Yields nothing if the text contains nothing to speak. Raises InvalidRequest before the first piece for a
        text that cannot be read, or is too long when read (``reading.check_length``).
        """
        ...


@dataclass(frozen=True, slots=True)
class Choice:
    """The voice and language for a request, and its parameters without effect."""

    voice: Voice
    language: str
    dropped: tuple[str, ...]


def choose(
    voices: Sequence[Voice], *, default: str, name: str | None, language: str | None, strict: bool
) -> Choice:
    """Choose a voice by name and language. A voice of OpenAI or of another provider is replaced by the nearest.

    Raises UnsupportedParameter for an unknown voice (with ``strict`` also for one that would be replaced), and for
    a language that no voice, or not the named one, speaks.
    """
    known = {voice.name.lower(): voice for voice in voices}
    dropped: tuple[str, ...] = ()
    found = known[default.lower()] if name is None else known.get(name.lower())
    if found is None:
        common = None if strict else openai_voice(str(name))
        if common is None:
            raise unknown_voice("This model", str(name), known)
        found = _nearest(voices, common, known[default.lower()])
        dropped = ("voice",)
    if language is None:
        return Choice(found, found.languages[0], dropped)
    if tag := spoken(found, language):
        return Choice(found, tag, dropped)
    if name is None or dropped:
        for other in voices:
            if tag := spoken(other, language):
                return Choice(other, tag, dropped)
    languages = _listed(sorted({tag for voice in voices for tag in voice.languages}))
    raise UnsupportedParameter(
        f"The voice {found.name!r} does not speak {language!r}; here one can speak {languages}.", param="language"
    )


def _nearest(voices: Sequence[Voice], common: str, default: Voice) -> Voice:
    """The voice named after OpenAI's (Kokoro's "af_nova"), else the default or the first that sounds like it."""
    for voice in voices:
        if voice.name.lower().rpartition("_")[2] == common:
            return voice
    gender = OPENAI_VOICES[common]
    same = (voice for voice in (default, *voices) if voice.gender == gender)
    return default if gender is None else next(same, default)


def spoken(voice: Voice, language: str) -> str | None:
    """Return the voice's tag for ``language``: the same, or any accent if only the language is given."""
    asked = language.lower()
    for tag in voice.languages:
        if tag.lower() == asked or tag.lower().split("-")[0] == asked:
            return tag
    return None


SCRIPTS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("en", "es", "fr", "it", "pt"), ("LATIN",)),
    "hi": ("DEVANAGARI", "LATIN"),
    "zh": ("CJK", "IDEOGRAPHIC", "LATIN"),
    "ja": ("CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "HALFWIDTH", "FULLWIDTH", "LATIN"),
}
"""The scripts that a voice of a language reads, as the beginnings of the names of Unicode's characters."""


def foreign_letters(text: str, scripts: tuple[str, ...]) -> tuple[int, int]:
    """Count the letters of ``text``, and those of other scripts than ``scripts``."""
    letters = [character for character in text if character.isalpha()]
    return len(letters), sum(not unicodedata.name(each, "").startswith(scripts) for each in letters)


def _listed(names: Sequence[str] | dict[str, Voice]) -> str:
    return ", ".join(repr(name) for name in names)
