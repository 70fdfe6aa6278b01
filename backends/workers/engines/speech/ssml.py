"""Texts in SSML: pauses, and words that are spelled or replaced. Source: W3C, SSML 1.1, sections 3.1.8 to 3.2.3.

A text is SSML if its first word is the tag ``<speak>``; every other text is spoken as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

from catalog.errors import InvalidRequest

LONGEST_BREAK, LONGEST_BREAKS = 10.0, 60.0
"""Seconds of one pause, and of all pauses of a text."""
_DEEPEST = 32
_STRENGTHS = {"none": 0.0, "x-weak": 0.1, "weak": 0.2, "medium": 0.4, "strong": 0.7, "x-strong": 1.2}
_TIME = re.compile(r"\+?(\d{1,6}(?:\.\d{1,6})?|\.\d{1,6})(ms|s)")
_KNOWN = frozenset({"speak", "p", "s", "break", "say-as", "sub", "lexicon", "metadata", "meta"})
_AS_WRITTEN = frozenset({"cardinal", "number", "date", "time", "currency", "unit", "address", "fraction"})
"""The kinds of words that the readers of texts recognise by themselves."""


@dataclass(frozen=True, slots=True)
class Break:
    """A pause of so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Script:
    """The spoken parts, in order, and the names of the elements that have no effect here; their text is spoken."""

    parts: tuple[str | Break, ...]
    unknown: tuple[str, ...] = ()


def script_of(text: str) -> Script:
    """The parts of a text. Raises InvalidRequest for SSML that is not well formed, or pauses for too long."""
    if re.match(r"\s*(?:<\?xml[^>]*\?>\s*)?<speak[\s>/]", text) is None:
        return Script((text,))
    if "<!" in text:
        raise InvalidRequest("SSML may hold no document type, comments or character data sections.", param="input")
    try:
        root = ElementTree.fromstring(text.strip())  # noqa: S314 - without a document type there are no entities
    except ElementTree.ParseError as error:
        raise InvalidRequest(f"The text is not well-formed SSML: {error}.", param="input") from None
    unknown: list[str] = []
    parts: list[str | Break] = []
    for part in _walk(root, unknown, 0):
        if isinstance(part, str) and parts and isinstance(parts[-1], str):
            parts[-1] += part
        elif part:
            parts.append(part)
    if sum(part.seconds for part in parts if isinstance(part, Break)) > LONGEST_BREAKS:
        raise InvalidRequest(f"The pauses of a text may last {LONGEST_BREAKS:g} seconds in all.", param="input")
    return Script(tuple(parts), tuple(dict.fromkeys(unknown)))


def _walk(element: ElementTree.Element, unknown: list[str], depth: int) -> Iterator[str | Break]:
    if depth > _DEEPEST:
        raise InvalidRequest(f"SSML may be nested {_DEEPEST} levels deep.", param="input")
    name = element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""
    if name not in _KNOWN:
        unknown.append(name)
    if name == "break":
        yield Break(_seconds(element))
    elif name == "sub":
        yield element.get("alias") or "".join(element.itertext())
    elif name == "say-as":
        yield _said(element, unknown)
    elif name not in ("metadata", "meta", "lexicon"):
        paragraph = name in ("p", "s")
        if paragraph:
            yield "\n"
        yield element.text or ""
        for child in element:
            yield from _walk(child, unknown, depth + 1)
            yield child.tail or ""
        if paragraph:
            yield "\n"


def _seconds(element: ElementTree.Element) -> float:
    time = element.get("time")
    if time is None:
        strength = element.get("strength", "medium")
        if strength not in _STRENGTHS:
            raise InvalidRequest(f"A break's strength is one of {', '.join(_STRENGTHS)}.", param="input")
        return _STRENGTHS[strength]
    found = _TIME.fullmatch(time.strip())
    seconds = float(found[1]) * (0.001 if found[2] == "ms" else 1.0) if found is not None else -1.0
    if not 0 <= seconds <= LONGEST_BREAK:
        raise InvalidRequest(
            f"A break's time is such as 500ms or 1.5s, and {LONGEST_BREAK:g}s at most.", param="input"
        )
    return seconds


def _said(element: ElementTree.Element, unknown: list[str]) -> str:
    text = "".join(element.itertext()).strip()
    match element.get("interpret-as", ""):
        case "characters" | "spell-out" | "verbatim":
            return " " + ", ".join(text.replace(" ", "").upper()) + " "
        case "digits" | "telephone":
            groups = re.findall(r"\d+", text)
            return " " + ", ".join(" ".join(group) for group in groups) + " "
        case "ordinal" if text.isdigit():
            return text + _ordinal(int(text))
        case kind:
            if kind not in _AS_WRITTEN:
                unknown.append("say-as")
            return text


def _ordinal(number: int) -> str:
    if number % 100 in (11, 12, 13):
        return "th"
    return {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
