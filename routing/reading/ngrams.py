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
_INSTRUCTION, _MATERIAL = 300, 60
"""Characters that an instruction has at most, and its material at least."""
_SEARCHED = _INSTRUCTION + 20
_OPENING, _CLOSE = 240, 120
"""Characters at the two ends of the material that are read: it says little of what is to be done with it."""
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


def parts_of(text: str) -> tuple[str, str] | None:
    """The instruction, and the ends of the material that are read, of a short paragraph and a long rest.

    The instruction is the shorter of the first and the last paragraph. No more than their ends are searched.
    """
    head, tail = text[:_SEARCHED], text[-_SEARCHED:]
    mark = "\n\n" if "\n\n" in head or "\n\n" in tail else "\n"
    first, last = head.find(mark), tail.rfind(mark)
    opening = head[:first].strip() if first >= 0 else ""
    close = tail[last:].strip() if last >= 0 else ""
    if opening and (not close or len(opening) <= len(close)):
        instruction, start, stop = opening, first + len(mark), len(text)
    elif close:
        instruction, start, stop = close, 0, len(text) - len(tail) + last
    else:
        return None
    if len(instruction) > _INSTRUCTION or stop - start < max(_MATERIAL, 2 * len(instruction)):
        return None
    if stop - start <= _OPENING + _CLOSE:
        return instruction, text[start:stop].strip()
    return instruction, f"{text[start : start + _OPENING].lstrip()}\n\n{text[stop - _CLOSE : stop].rstrip()}"


def ends_of(text: str) -> str:
    """The parts of a text that are read: of an instruction with its material the instruction first."""
    parts = parts_of(text)
    if parts is not None:
        return "\n\n".join(parts)
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
