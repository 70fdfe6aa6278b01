"""The interface of text-to-speech libraries, and the choice of a voice for a request."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from backends.voices import KOKORO_VOICES, OPENAI_VOICES, openai_voice, unknown_voice
from backends.workers.engines.common.audio import Samples
from backends.workers.engines.speech.phonemes.words import Piece
from catalog.errors import UnsupportedValue

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
    text: str = "",
    blends: bool = False,
    unread: Mapping[str, str] = NO_VOICES,
) -> Choice:
    """Choose a voice by name and language. A voice of OpenAI or of another provider is replaced by the nearest.

    OpenAI's names mean voices here, so that one is reported only where no voice of its gender is. Where neither a
    voice of this model nor a language is named, a ``text`` in a script that the voice cannot read is spoken by a
    voice that can, if there is one. ``blends`` tells whether a name may mean a mixture of voices. Raises
    UnsupportedParameter for an unknown voice (with ``strict`` also for one that would be replaced and reported),
    and for a language that no voice, or not the named one, speaks.
    """
    if default is None:
        raise UnsupportedValue("This model speaks with voices of recordings alone: name one.", param="voice")
    known = {voice.name.lower(): voice for voice in voices}
    usual = known[default.lower()]
    own = None if name is None else known.get(name.lower()) or _blend(name, known, blends=blends)
    dropped: tuple[str, ...] = ()
    if name is None:
        found = usual
    elif own is not None:
        found = own
    elif name in unread:
        raise UnsupportedValue(
            f"The language of the voice {name!r} is not read here. To read it: {unread[name]}", param="voice"
        )
    else:
        found, exact = _nearest(voices, name, usual, known)
        if not exact and strict:
            raise unknown_voice("This model", name, known)
        dropped = () if exact else ("voice",)
    if language is not None:
        return _speaking(voices, found, language, dropped, free=own is None)
    if own is None:
        found = _reading(voices, found, text)
    return Choice(found, found.languages[0], dropped)


def _speaking(
    voices: Sequence[Voice], found: Voice, language: str, dropped: tuple[str, ...], *, free: bool
) -> Choice:
    """The voice for a language: the one found, or if it is ``free`` to choose another, one of its gender first.

    Raises UnsupportedParameter.
    """
    for voice in (found, *_by_gender(voices, found.gender)) if free else (found,):
        if tag := spoken(voice, language):
            return Choice(voice, tag, dropped)
    languages = _listed(sorted({tag for voice in voices for tag in voice.languages}))
    raise UnsupportedValue(
        f"The voice {found.name!r} does not speak {language!r}; here one can speak {languages}.", param="language"
    )


def _by_gender(voices: Sequence[Voice], gender: str | None) -> list[Voice]:
    return sorted(voices, key=lambda voice: gender is not None and voice.gender != gender)


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
        raise UnsupportedValue("The voices of this model cannot be blended.", param="voice")
    parts: dict[str, float] = {}
    for each in name.split("+"):
        found = _PART.fullmatch(each.strip())
        voice = known.get(found[1].lower()) if found is not None else None
        if found is None or voice is None:
            raise unknown_voice("This model", each.strip(), known)
        parts[voice.name] = parts.get(voice.name, 0.0) + float(found[2] or 1)
    total = sum(parts.values())
    if total <= 0 or len(parts) > MOST_PARTS:
        raise UnsupportedValue(
            f"A blend has at most {MOST_PARTS} voices, and not all of their weights are 0.", param="voice"
        )
    first = known[next(iter(parts)).lower()]
    label = "+".join(f"{part}({weight:g})" for part, weight in parts.items())
    return Voice(
        label, first.languages, first.gender, tuple((part, weight / total) for part, weight in parts.items())
    )


def _nearest(voices: Sequence[Voice], name: str, default: Voice, known: Mapping[str, Voice]) -> tuple[Voice, bool]:
    """The voice that another provider's name means here, and whether the name means no less than it.

    It does if it is OpenAI's and the voice is not of the other gender. Raises UnsupportedParameter for a name that
    no provider has.
    """
    common = openai_voice(name)
    if common is None:
        raise unknown_voice("This model", name, known)
    named = (voice for voice in voices if voice.name.lower().rpartition("_")[2] == common)
    found = next(named, None) or known.get(KOKORO_VOICES[common])
    gender = OPENAI_VOICES[common]
    if found is None:
        same = (voice for voice in (default, *voices) if voice.gender == gender)
        found = default if gender is None else next(same, default)
    alike = gender is None or found.gender in (gender, None)
    return found, alike and name.casefold() in OPENAI_VOICES


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


_SWITCHING, _READING = 1 / 3, 1 / 10
"""The share of a text's letters that one voice must lose so that another speaks, and may not reach at that one."""


def _reading(voices: Sequence[Voice], found: Voice, text: str) -> Voice:
    """The voice for a text: the one found, or if much of the text is in a script that it cannot read, another.

    Of those that read it, the first of the same gender whose language has the fewest scripts: characters without
    kana are Chinese.
    """
    if text.isascii():
        return found
    shares = {tag: _lost(text, tag) for tag in {voice.languages[0] for voice in voices} | {found.languages[0]}}
    if shares[found.languages[0]] < _SWITCHING:
        return found
    able = [
        voice
        for voice in _by_gender(voices, found.gender)
        if voice.languages[0].split("-")[0] in SCRIPTS and shares[voice.languages[0]] < _READING
    ]
    return min(able, key=lambda voice: len(SCRIPTS[voice.languages[0].split("-")[0]]), default=found)


def _lost(text: str, language: str) -> float:
    """The share of a text's letters that a voice of a language cannot read; 0 where its scripts are not known."""
    scripts = SCRIPTS.get(language.split("-")[0])
    letters, foreign = (0, 0) if scripts is None else foreign_letters(text, scripts)
    return foreign / letters if letters else 0.0


def _listed(names: Sequence[str] | dict[str, Voice]) -> str:
    return ", ".join(repr(name) for name in names)
