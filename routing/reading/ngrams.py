"""Hashed features of a prompt: n-grams of characters, words and pairs of words, in a few vectorised passes.

Feature hashing (Weinberger et al., 2009) needs no vocabulary, so it works in every language and its cost does not
depend on the number of features known. The n-grams of characters stand in for a stemmer, and for a tokenizer in
scripts that write no spaces. Hashes are polynomials in 64-bit arithmetic, taken from one prefix sum.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from catalog.index import Ints

_BITS = 17
BUCKETS = 1 << _BITS
HEAD, TAIL = 600, 360
"""Characters that are read at the two ends of a longer text: people put the instruction there."""
_EDGE = 70
"""Characters at each end of the text that count once more, as its opening and its close: there is its verb."""

_U64 = npt.NDArray[np.uint64]
_BASE = 0x9E3779B97F4A7C15 | 1
_LONGEST = HEAD + TAIL + 16
_MASK = (1 << 64) - 1


def _powers(base: int) -> _U64:
    """The powers of ``base`` modulo 2^64, shape (_LONGEST,)."""
    powers, value = [], 1
    for _ in range(_LONGEST):
        powers.append(value)
        value = value * base & _MASK
    return np.array(powers, dtype=np.uint64)


_UP, _DOWN = _powers(_BASE), _powers(pow(_BASE, -1, 1 << 64))
_SALTS = [np.uint64(0xD6E8FEB86659FD93 * (n + 1) & _MASK | 1) for n in range(9)]
_SHIFT = np.uint64(64 - _BITS)


def _separators() -> npt.NDArray[np.bool_]:
    """Whether a character is no part of a word, for all up to U+FFFF."""
    table = np.zeros(1 << 16, dtype=bool)
    for code in range(0x80):
        table[code] = not chr(code).isalnum()
    for first, last in ((0x80, 0xBF), (0x2000, 0x206F), (0x3000, 0x303F), (0xFF00, 0xFF0F), (0xFF1A, 0xFF20)):
        table[first : last + 1] = True
    table[[0x060C, 0x061B, 0x061F, 0x0964]] = True
    return table


_SEPARATORS = _separators()


def ends_of(text: str) -> str:
    """The parts of a text that are read."""
    if len(text) <= HEAD + TAIL:
        return text
    return f"{text[:HEAD]}\n\n{text[-TAIL:]}"


def buckets_of(text: str) -> Ints:
    """The buckets of all features of a text, repeated as often as they occur, shape (features,)."""
    read = f" {ends_of(text)} ".lower().encode("utf-32-le", "surrogatepass")
    codes = np.frombuffer(read, dtype=np.uint32)[:_LONGEST].astype(np.uint64)
    codes[(codes >= 0x30) & (codes <= 0x39)] = 0x30
    found: list[_U64] = []

    # n-grams of two to five characters
    grams = codes * _SALTS[0]
    base = np.uint64(_BASE)
    for n in range(1, 5):
        grams = grams[:-1] * base + codes[n:]
        found.append(grams * _SALTS[n])
        if n > 1:
            found += (grams[:_EDGE] * _SALTS[7], grams[-_EDGE:] * _SALTS[8])

    # words, and pairs of them
    number = len(codes)
    separate = _SEPARATORS[np.minimum(codes, 0xFFFF).astype(np.int64)]
    edges = np.flatnonzero(separate[1:] != separate[:-1]) + 1
    if len(edges) >= 2:
        sums = np.empty(number + 1, dtype=np.uint64)
        sums[0] = 0
        np.cumsum(codes * _UP[:number], out=sums[1:])
        starts, stops = edges[:-1:2], edges[1::2]  # the text begins with a space
        starts = starts[: len(stops)]
        words = (sums[stops] - sums[starts]) * _DOWN[starts]
        found.append(words * _SALTS[5])
        found.append((words[:-1] * base + words[1:]) * _SALTS[6])
    hashes = np.concatenate(found)
    hashes ^= hashes >> np.uint64(29)
    hashes *= _SALTS[0]
    return (hashes >> _SHIFT).astype(np.int64)
