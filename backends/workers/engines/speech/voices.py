"""What a text-to-speech library is to the speech engine, and which voice a request gets."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from backends.workers.engines.common.audio import Samples
from catalog.errors import InvalidRequest, UnsupportedParameter

OPENAI_VOICES = frozenset({
    "alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer",
    "verse",
})  # fmt: skip
"""Names that a stock client sends; a model without such a voice answers with its own, and says so."""


@dataclass(frozen=True, slots=True)
class Voice:
    """One voice; ``languages`` are BCP 47 tags it speaks, its own first."""

    name: str
    languages: tuple[str, ...]
    gender: str | None = None


class Synthesizer(Protocol):
    """A loaded text-to-speech library. ``speeds`` are the bounds within which it sets its own pace."""

    sample_rate: int
    speeds: tuple[float, float]
    voices: Sequence[Voice]

    def sentences(self, text: str, voice: Voice, *, language: str, speed: float) -> Iterator[Samples]:
        """Mono samples, a piece per sentence (or shorter), each yielded when it is ready; may be called from
        several threads at once. Nothing is yielded for a text in which there is nothing to say."""
        ...


@dataclass(frozen=True, slots=True)
class Choice:
    """The voice and language for a request, and which of its parameters had no effect."""

    voice: Voice
    language: str
    dropped: tuple[str, ...]


def choose(
    voices: Sequence[Voice], *, default: str, name: str | None, language: str | None, strict: bool
) -> Choice:
    """Raises InvalidRequest for a voice that does not exist and UnsupportedParameter for a language nobody
    here speaks; with ``strict`` also where one of OpenAI's voice names would get another voice."""
    known = {voice.name.lower(): voice for voice in voices}
    dropped: tuple[str, ...] = ()
    found = known[default.lower()] if name is None else known.get(name.lower())
    if found is None:
        if str(name).lower() not in OPENAI_VOICES or strict:
            raise InvalidRequest(f"There is no voice {name!r}; there is {_listed(known)}.", param="voice")
        found = known[default.lower()]
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


def spoken(voice: Voice, language: str) -> str | None:
    """The voice's tag for ``language``: the same, or any accent of it when only the language was named."""
    asked = language.lower()
    for tag in voice.languages:
        if tag.lower() == asked or tag.lower().split("-")[0] == asked:
            return tag
    return None


def foreign_letters(text: str) -> tuple[int, int]:
    """How many letters ``text`` has, and how many of them are of another script than the Latin one."""
    letters = [character for character in text if character.isalpha()]
    return len(letters), sum(not unicodedata.name(each, "").startswith("LATIN") for each in letters)


def _listed(names: Sequence[str] | dict[str, Voice]) -> str:
    return ", ".join(repr(name) for name in names)
