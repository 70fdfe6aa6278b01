"""Reads the places that an answer names out of its text, by the notation of the model's family.

The text stays as it is. Special tokens that a server leaves out of a text (Qwen2-VL's) may be missing: then a
label is the words before its coordinates.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from backends.grounding.families import Family, Grid, JsonKeys, Notation

LONGEST = 200_000
"""Characters of an answer that are read."""
MOST = 1_000
"""Places of one answer."""
LONGEST_LABEL = 500
_N = r"\s{0,4}+(\d{1,5}(?:\.\d{1,6})?)\s{0,4}+"
_NUMBER = re.compile(r"\d{1,5}(?:\.\d{1,6})?")


class PlaceSpan(NamedTuple):
    """A place as it stands in a text: a box of four numbers or a point of two, x before y, by its ``grid``.

    ``start`` and ``end`` are positions of characters. ``picture`` is a picture's number from 1, where one is told.
    """

    label: str
    numbers: tuple[float, ...]
    grid: Grid
    start: int
    end: int
    picture: int | None = None


def spans_of(text: str, family: Family) -> list[PlaceSpan]:
    """The places in a text, in its order; at most :data:`MOST`, of the first :data:`LONGEST` characters."""
    text = text[:LONGEST]
    found: list[PlaceSpan] = []
    if family.notation is not None:
        found += _taken(_NOTATIONS[family.notation](text, family.grid))
    if family.json is not None:
        found += _taken(json_spans(text, family.json))
    return sorted(found, key=lambda span: span.start)[:MOST]


def _taken(spans: Iterator[PlaceSpan]) -> list[PlaceSpan]:
    return [span for span, _ in zip(spans, range(MOST), strict=False)]


# ---- JSON

_OBJECT = re.compile(r'\{(?:[^{}"]++|"(?:[^"\\]++|\\.)*+")*+\}', re.DOTALL)
EDGES = ("left", "top", "right", "bottom")
_LABELS = ("label", "text_content", "name", "text", "sub_label", "description", "category")


def json_spans(text: str, keys: JsonKeys) -> Iterator[PlaceSpan]:
    """Objects with a box or point under the family's keys, also within an array that is not complete."""
    if keys.box not in text and (keys.point is None or keys.point not in text):
        return
    for match in _OBJECT.finditer(text):
        try:
            held = json.loads(match[0])
        except (ValueError, RecursionError):
            continue
        label = next((held[name] for name in _LABELS if isinstance(held.get(name), str)), "")
        for key, size in ((keys.box, 4), (keys.point, 2)):
            numbers = _numbers(held.get(key), size) if key is not None else None
            if numbers is not None:
                yield PlaceSpan(label[:LONGEST_LABEL], _x_first(numbers, keys.grid), keys.grid, *match.span())


def edge_spans(text: str) -> Iterator[PlaceSpan]:
    """Objects of :data:`EDGES`, in thousandths, as :mod:`backends.grounding.asking` asks for them."""
    for match in _OBJECT.finditer(text[:LONGEST]):
        try:
            held = json.loads(match[0])
        except (ValueError, RecursionError):
            continue
        numbers = _numbers([held.get(name) for name in EDGES], 4)
        if numbers is not None:
            label = held.get("label")
            yield PlaceSpan(
                label[:LONGEST_LABEL] if isinstance(label, str) else "", numbers, Grid(), *match.span()
            )


def _numbers(value: Any, size: int) -> tuple[float, ...] | None:
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = value[0]
    if not isinstance(value, list) or len(value) != size:
        return None
    if any(type(one) not in (int, float) or not abs(one) < 1e6 for one in value):
        return None
    return tuple(float(one) for one in value)


def _x_first(numbers: tuple[float, ...], grid: Grid) -> tuple[float, ...]:
    if not grid.y_first:
        return numbers
    return tuple(numbers[at ^ 1] for at in range(len(numbers)))


# ---- Qwen-VL and Qwen2-VL: a reference, then boxes

_QWEN_LABEL = re.compile(r"(?:<\|object_ref_start\|>|<ref>)(.{0,500}?)(?:<\|object_ref_end\|>|</ref>)", re.DOTALL)
_QWEN_BOX = re.compile(
    rf"(?:<\|box_start\|>|<box>)?\s?\({_N},{_N}\)\s?,\s?\({_N},{_N}\)(?:<\|box_end\|>|</box>)?"
    rf"|(?:<\|box_start\|>|<box>|<\|point_start\|>)\({_N},{_N}\)(?:<\|box_end\|>|</box>|<\|point_end\|>)"
)
_ENDS_LABEL = "\n.,;:()<>|"


def _qwen(text: str, grid: Grid) -> Iterator[PlaceSpan]:
    labels = {match.end(): match for match in _QWEN_LABEL.finditer(text)}
    label, last_end = "", 0
    for match in _QWEN_BOX.finditer(text):
        start = match.start()
        named = labels.get(_after_space(text, start, last_end))
        if named is not None:
            label, start = named[1].strip(), named.start()
        elif last_end == 0 or text[last_end:start].strip():
            label, start = _words_before(text, start, last_end)
        last_end = match.end()
        numbers = tuple(float(one) for one in match.groups() if one is not None)
        yield PlaceSpan(label, numbers, grid, start, last_end)


def _after_space(text: str, at: int, floor: int) -> int:
    """The position before the spaces that stand before ``at``."""
    while at > floor and text[at - 1].isspace():
        at -= 1
    return at


def _words_before(text: str, at: int, floor: int) -> tuple[str, int]:
    """The words of the sentence before a position, and where they begin."""
    before = text[max(floor, at - LONGEST_LABEL) : at].rstrip()
    words = before[max(map(before.rfind, _ENDS_LABEL)) + 1 :].strip()
    end = _after_space(text, at, floor)
    return words, end - len(words) if words else at


# ---- InternVL, MiniCPM-V, DeepSeek-VL2: tags around the label and its boxes

_TAGGED = re.compile(
    r"(?:<ref>(?P<a>.{0,500}?)</ref>|<\|ref\|>(?P<b>.{0,500}?)<\|/ref\|>)?\s{0,9}"
    r"(?:<box>(?P<c>[^<]{1,20000})</box>|<\|det\|>(?P<d>[^<]{1,20000})<\|/det\|>)",
    re.DOTALL,
)


def _tagged(text: str, grid: Grid) -> Iterator[PlaceSpan]:
    for match in _TAGGED.finditer(text):
        label = (match["a"] or match["b"] or "").strip()
        numbers = [float(one) for one in _NUMBER.findall(match["c"] or match["d"])]
        if len(numbers) == 2:
            yield PlaceSpan(label, tuple(numbers), grid, *match.span())
        for at in range(0, len(numbers) - 3, 4):
            yield PlaceSpan(label, tuple(numbers[at : at + 4]), grid, *match.span())


# ---- PaliGemma: four bins, then the label; segments may stand between

_LOC = re.compile(r"((?:<loc\d{4}>){4})(?:<seg\d{3}>){0,16}([^;<\n]{0,500})")


def _loc(text: str, grid: Grid) -> Iterator[PlaceSpan]:
    for match in _LOC.finditer(text):
        numbers = tuple(float(one) for one in _NUMBER.findall(match[1]))
        yield PlaceSpan(
            match[2].strip(), _x_first(numbers, grid), grid, match.start(), match.start() + len(match[0].rstrip())
        )


# ---- Florence-2: the label, then four bins a box, or eight a quadrilateral

_LOC_BINS = re.compile(r"(?:<loc_\d{1,3}>){2,4000}+")


def _loc_bins(text: str, grid: Grid) -> Iterator[PlaceSpan]:
    last_end = 0
    for match in _LOC_BINS.finditer(text):
        before = text[max(last_end, match.start() - LONGEST_LABEL) : match.start()]
        label = before[max(map(before.rfind, "\n<>")) + 1 :].strip()
        start = match.start() - len(before) + before.rfind(label) if label else match.start()
        last_end = match.end()
        numbers = [float(one) for one in _NUMBER.findall(match[0])]
        if len(numbers) == 8 and _is_quad(numbers):
            yield PlaceSpan(label, _bounds(numbers), grid, start, match.end())
            continue
        for at in range(0, len(numbers) - 3, 4):
            yield PlaceSpan(label, tuple(numbers[at : at + 4]), grid, start, match.end())


def _is_quad(numbers: list[float]) -> bool:
    """Whether eight numbers are four corners, clockwise from the top left, rather than two boxes."""
    return numbers[6] < numbers[4] or numbers[2] < numbers[0] or numbers[3] < numbers[1]


def _bounds(numbers: list[float]) -> tuple[float, float, float, float]:
    return min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])


# ---- Kosmos-2: two patches of 32 by 32, the corners of a box

_PHRASE = re.compile(
    r"<phrase>(.{0,500}?)</phrase>\s?<object>((?:<patch_index_\d{4}>|</delimiter_of_multi_objects/>){2,2000})</object>",
    re.DOTALL,
)
_SIDE = 32


def _patches(text: str, grid: Grid) -> Iterator[PlaceSpan]:
    whole = Grid(float(_SIDE))
    del grid
    for match in _PHRASE.finditer(text):
        numbers = [int(one) for one in re.findall(r"\d{4}", match[2])]
        for first, last in zip(numbers[::2], numbers[1::2], strict=False):
            corners = (first % _SIDE, first // _SIDE, last % _SIDE + 1, last // _SIDE + 1)
            yield PlaceSpan(match[1].strip(), tuple(map(float, corners)), whole, *match.span())


# ---- Molmo: points

_POINT = re.compile(r"<points?\s([^<>]{1,60000}?)/?>(?:([^<]{0,500})</points?>)?")
_ATTRIBUTE = re.compile(r'(\w{1,12})\s?=\s?"([^"]{0,50000})"')
_PLACE = re.compile(r"([xy])(\d{0,4})")


def _points(text: str, grid: Grid) -> Iterator[PlaceSpan]:
    for match in _POINT.finditer(text):
        told = dict(_ATTRIBUTE.findall(match[1]))
        label = (told.get("alt") or match[2] or "").strip()[:LONGEST_LABEL]
        if "coords" in told:
            yield from _numbered(told["coords"], label, match.span())
            continue
        xs = {
            place[2]: value
            for name, value in told.items()
            if (place := _PLACE.fullmatch(name)) and place[1] == "x"
        }
        for number, x in xs.items():
            y = told.get(f"y{number}", "")
            if _NUMBER.fullmatch(x.strip()) and _NUMBER.fullmatch(y.strip()):
                yield PlaceSpan(label, (float(x), float(y)), grid, *match.span())


def _numbered(coords: str, label: str, span: tuple[int, int]) -> Iterator[PlaceSpan]:
    """Molmo 2: the number of a picture, then the number of a point, x and y in thousandths for each."""
    for group in re.split(r"[;\t]", coords):
        numbers = [float(one) for one in _NUMBER.findall(group)]
        if len(numbers) % 3 == 1:
            for at in range(1, len(numbers), 3):
                yield PlaceSpan(label, (numbers[at + 1], numbers[at + 2]), Grid(), *span, picture=int(numbers[0]))


# ---- GLM-V and CogVLM: boxes in brackets

_BARE = re.compile(rf"\[\[?{_N},{_N},{_N},{_N}\]?\]?")


def _bare(text: str, grid: Grid) -> Iterator[PlaceSpan]:
    if "bbox_2d" in text:
        return
    label, last_end = "", 0
    for match in _BARE.finditer(text):
        if last_end == 0 or text[last_end : match.start()].strip(" ,\n[]"):
            label, _ = _words_before(text, match.start(), last_end)
        last_end = match.end()
        yield PlaceSpan(label, tuple(map(float, match.groups())), grid, *match.span())


_NOTATIONS: dict[Notation, Callable[[str, Grid], Iterator[PlaceSpan]]] = {
    "qwen": _qwen,
    "tagged": _tagged,
    "loc": _loc,
    "loc_bins": _loc_bins,
    "patches": _patches,
    "points": _points,
    "bare": _bare,
}
