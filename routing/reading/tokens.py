"""Estimates the number of tokens of a text in any script, without a tokenizer.

The UTF-8 bytes are mapped to classes (in C, by ``bytes.translate``). Single classes, and pairs of them that
byte-pair vocabularies merge (indentation, runs of punctuation, three digits), each have a cost, fitted by least
squares to the counts of real tokenizers on 25 languages, code, JSON, tool lists, logs and tables. The default is
fitted to o200k and cl100k, for other scripts to o200k, which is nearer to the vocabularies since. cl100k has costs
of its own for those, Claude's two generations and SmolLM2 for all. What they
count is in ``tests/routing/reading/token_counts.json``.

The estimate serves routing, reservations of money, and the counting of tokens where no tokenizer is at hand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

_WINDOWS = 16
_WINDOW = 4096  # characters
"""A text longer than ``_WINDOWS * _WINDOW`` characters is sampled in ``_WINDOWS`` evenly spaced windows."""

_CLASSES: dict[bytes, tuple[int, ...]] = {
    b"a": (*range(0x41, 0x5B), *range(0x61, 0x7B)),
    b"0": tuple(range(0x30, 0x3A)),
    b" ": (0x20, 0x09, 0x0D),
    b"n": (0x0A,),
    b".": (*range(0x21, 0x30), *range(0x3A, 0x41), *range(0x5B, 0x61), *range(0x7B, 0x7F)),
    b"l": tuple(range(0xC2, 0xC7)),  # Latin with marks
    b"c": (*range(0xC7, 0xCD), *range(0xD0, 0xD6)),  # Cyrillic
    b"g": (*range(0xCD, 0xD0), *range(0xD6, 0xE0)),  # Greek, Hebrew, Arabic
    b"i": (0xE0,),  # Indic, Thai
    b"v": (0xE1,),  # Vietnamese, Georgian
    b"s": (0xE2, 0xEF),  # symbols, full-width forms
    b"j": (0xE3,),  # kana
    b"k": tuple(range(0xE4, 0xEA)),  # Han
    b"h": tuple(range(0xEA, 0xEF)),  # Hangul
    b"e": tuple(range(0xF0, 0xF8)),  # emoji
}


def _classify() -> bytes:
    table = bytearray(b"-" * 256)
    for name, members in _CLASSES.items():
        for byte in members:
            table[byte] = name[0]
    return bytes(table)


_TABLE = _classify()

Costs = Mapping[bytes, float]
"""Tokens per occurrence of a class, or of classes in a row. Continuation bytes cost nothing. ``+`` is for marked
letters up to a share of all: other Latin languages than English have them, and need more tokens for every word."""
_MARKED_SHARE = 0.015

DEFAULT: Costs = {
    b"a": 0.144, b"a0": 0.931, b"0": 0.863, b"000": -1.747, b" ": 0.343, b"  ": -0.498, b"n": 0.912,
    b".": 1.028, b"..": -1.556, b"l": 1.706, b"+": 2.202, b"c": 0.22, b"g": 0.42, b"i": 0.45, b"v": 0.45,
    b"s": 0.3, b"j": 0.8, b"k": 0.88, b"h": 0.7, b"e": 1.963,
}  # fmt: skip
CL100K: Costs = {
    **DEFAULT, b"l": 1.9, b"+": 3.6, b"c": 0.5, b"g": 0.9, b"i": 1.15, b"v": 1.0, b"j": 1.05, b"k": 1.27,
    b"h": 1.2,
}  # fmt: skip
CLAUDE_3: Costs = {
    b"a": 0.147, b"a0": 0.95, b"0": 0.725, b"000": -1.467, b" ": 0.35, b"  ": -0.508, b"n": 1.642,
    b".": 1.367, b"..": -2.069, b"l": 0.819, b"+": 8.764, b"c": 0.35, b"g": 0.696, b"i": 0.829, b"v": 1.282,
    b"s": 0.9, b"j": 0.76, b"k": 1.143, b"h": 1.217, b"e": 2.552,
}  # fmt: skip
CLAUDE: Costs = {
    b"a": 0.219, b"a0": 1.415, b"0": 0.518, b"000": -1.048, b" ": 0.521, b"  ": -0.757, b"n": 1.733,
    b".": 1.676, b"..": -2.536, b"l": 0.58, b"+": 12.221, b"c": 0.329, b"g": 0.674, b"i": 0.798, b"v": 1.012,
    b"s": 0.9, b"j": 0.76, b"k": 1.114, b"h": 1.14, b"e": 2.552,
}  # fmt: skip
SMOLLM: Costs = {
    b"a": 0.135, b"a0": 0.875, b"0": 1.0, b"000": 0.0, b" ": 0.322, b"  ": -0.468, b"n": 1.213, b".": 1.367,
    b"..": -2.069, b"l": 2.013, b"+": 11.803, b"c": 0.837, b"g": 1.025, b"i": 1.455, b"v": 1.957, b"s": 1.2,
    b"j": 1.678, b"k": 1.759, b"h": 2.655, b"e": 2.748,
}  # fmt: skip
_CL100K = re.compile(r"gpt-3\.?5|gpt-4(?![o.\d])|text-embedding-(?:3|ada)|(?:davinci|babbage)-002")
_OLD_CLAUDE = re.compile(r"claude-(?:instant|2|3)|-4(?:[-.][0-6])?(?:$|[-@:]\d{6}|[@:])")


def costs_of(model: str) -> Costs:
    """The costs for a model, by its name: the vocabularies of these families differ much from the others."""
    name = model.casefold()
    if "claude" in name:
        return CLAUDE_3 if _OLD_CLAUDE.search(name) else CLAUDE
    if _CL100K.search(name):
        return CL100K
    return SMOLLM if "smollm" in name else DEFAULT


class Profile(NamedTuple):
    """Characters of a text by class and its estimated tokens, scaled up if the text was sampled."""

    length: int
    letters: float
    digits: float
    spaces: float
    newlines: float
    symbols: float
    tokens: float


def profile(text: str, costs: Costs = DEFAULT) -> Profile:
    """Count a text's characters by class and estimate its tokens; of a long text, a sample of 64 Ki characters."""
    length = len(text)
    if length <= _WINDOWS * _WINDOW:
        sample, scale = text, 1.0
    else:
        step = (length - _WINDOW) // (_WINDOWS - 1)
        sample = "".join(text[start : start + _WINDOW] for start in range(0, step * _WINDOWS, step))
        scale = length / len(sample)
    classes = sample.encode("utf-8", "surrogatepass").translate(_TABLE)
    count = classes.count
    letters, digits, spaces, newlines, symbols = (
        count(b"a"), count(b"0"), count(b" "), count(b"n"), count(b"."),
    )  # fmt: skip
    tokens = (
        costs[b"a"] * letters + costs[b" "] * spaces + costs[b"n"] * newlines
        + costs[b"0"] * digits + costs[b"."] * symbols
    )  # fmt: skip
    if digits:
        tokens += costs[b"a0"] * count(b"a0") + costs[b"000"] * count(b"000")
    if symbols > 1:
        tokens += costs[b".."] * count(b"..")
    if spaces > 1:
        tokens += costs[b"  "] * count(b"  ")
    others = 0
    if len(classes) > len(sample):
        counts = {name: count(name) for name in _OTHERS}
        others = sum(counts.values())
        tokens += sum([costs[name] * number for name, number in counts.items()])
        tokens += costs[b"+"] * min(counts[b"l"], _MARKED_SHARE * letters)
    return Profile(
        length=length,
        letters=(letters + others) * scale,
        digits=digits * scale,
        spaces=spaces * scale,
        newlines=newlines * scale,
        symbols=symbols * scale,
        tokens=max(0.0, tokens) * scale,
    )


_OTHERS = (b"l", b"c", b"g", b"i", b"v", b"s", b"j", b"k", b"h", b"e")


def estimate_tokens(text: str, costs: Costs = DEFAULT) -> int:
    """Estimated tokens of a text; 0 only for an empty one."""
    return max(1, round(profile(text, costs).tokens)) if text else 0
