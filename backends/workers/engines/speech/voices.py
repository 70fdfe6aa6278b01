"""The interface of text-to-speech libraries, and the choice of a voice for a request."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from backends.voices import OPENAI_VOICES, openai_voice, unknown_voice
from backends.workers.engines.common.audio import Samples
from backends.workers.engines.speech.phonemes.words import Piece
from catalog.errors import UnsupportedParameter

NO_VOICES: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Voice:
    """A voice; ``languages`` are the BCP 47 tags that it speaks, its native one first.

    ``parts`` are the voices that it is a blend of, each with its share; the shares add up to 1.
    """

    name: str
    languages: tuple[str, ...]
    gender: str | None = None
    parts: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TimedWord:
    """A word and when it is spoken, in seconds from the beginning of its piece."""

    word: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Speech:
    """A piece of speech: mono samples, the seconds of silence that should follow before the next piece, and the
    times of the words if the model tells them.
    """

    samples: Samples
    pause: float = 0.0
    words: tuple[TimedWord, ...] = ()


class Synthesizer(Protocol):
    """A loaded text-to-speech library. Its methods are thread-safe.

    ``speeds`` are the lowest and highest speed that it supports. ``blends`` tells whether voices can be mixed,
    ``timed`` whether it knows when words are spoken. ``unread`` are voices that it has, by name, with the way to
    make it read their language.
    """

    sample_rate: int
    speeds: tuple[float, float]
    voices: Sequence[Voice]
    blends: bool
    timed: bool
    unread: Mapping[str, str]

    def read(self, text: str, *, language: str) -> Sequence[Piece]:
        """Read a text in pieces of a sentence or less, none if it holds nothing to speak.

        Raises InvalidRequest for a text that cannot be read, or is too long when read (``reading.check_length``).
        """
        ...

    def speak(self, piece: Piece, voice: Voice, *, speed: float) -> Speech:
        """Speak a piece. The same piece always gives the same samples."""
        ...


@runtime_checkable
class Cloner(Protocol):
    """A synthesizer that speaks with the voice of a recording, in one ``language`` (BCP 47)."""

    language: str

    def clone(self, recording: bytes) -> Voice:
        """The voice of a recording, in any audio container; it is not one of ``voices``. Thread-safe.

        Raises UndecodableMedia, PayloadTooLarge, InvalidRequest for one that is too short.
        """
        ...


@dataclass(frozen=True, slots=True)
class Choice:
    """The voice and language for a request, and its parameters without effect."""

    voice: Voice
    language: str
    dropped: tuple[str, ...]


def choose(
    voices: Sequence[Voice],
    *,
    default: str | None,
    name: str | None,
    language: str | None,
    strict: bool,
    blends: bool = False,
    unread: Mapping[str, str] = NO_VOICES,
) -> Choice:
    """Choose a voice by name and language. A voice of OpenAI or of another provider is replaced by the nearest.

    ``blends`` tells whether a name may mean a mixture of voices. Raises UnsupportedParameter for an unknown voice
    (with ``strict`` also for one that would be replaced), and for a language that no voice, or not the named one,
    speaks.
    """
    if default is None:
        raise UnsupportedParameter("This model speaks with voices of recordings alone: name one.", param="voice")
    known = {voice.name.lower(): voice for voice in voices}
    dropped: tuple[str, ...] = ()
    found = (
        known[default.lower()] if name is None else known.get(name.lower()) or _blend(name, known, blends=blends)
    )
    if found is None and name is not None and name in unread:
        raise UnsupportedParameter(
            f"The language of the voice {name!r} is not read here. To read it: {unread[name]}", param="voice"
        )
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


MOST_PARTS = 8
_PART = re.compile(r"([\w-]+)(?:\((\d{1,3}(?:\.\d{1,3})?)\))?")


def _blend(name: str, known: Mapping[str, Voice], *, blends: bool) -> Voice | None:
    """The mixture that a name such as ``af_bella+af_sky`` or ``af_bella(2)+af_sky(1)`` means, None for no mixture.

    It speaks the languages of its first part. Raises UnsupportedParameter for parts that do not exist, or cannot
    be mixed.
    """
    if "+" not in name:
        return None
    if not blends:
        raise UnsupportedParameter("The voices of this model cannot be blended.", param="voice")
    parts: dict[str, float] = {}
    for each in name.split("+"):
        found = _PART.fullmatch(each.strip())
        voice = known.get(found[1].lower()) if found is not None else None
        if found is None or voice is None:
            raise unknown_voice("This model", each.strip(), known)
        parts[voice.name] = parts.get(voice.name, 0.0) + float(found[2] or 1)
    total = sum(parts.values())
    if total <= 0 or len(parts) > MOST_PARTS:
        raise UnsupportedParameter(
            f"A blend has at most {MOST_PARTS} voices, and not all of their weights are 0.", param="voice"
        )
    first = known[next(iter(parts)).lower()]
    label = "+".join(f"{part}({weight:g})" for part, weight in parts.items())
    return Voice(
        label, first.languages, first.gender, tuple((part, weight / total) for part, weight in parts.items())
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
