"""Counts work, so that a test can bound it without a clock: the same on every machine, however busy."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Calls:
    """How many functions were called, in Python and in C."""

    number = 0


@contextmanager
def counted_calls() -> Iterator[Calls]:
    """Counts the calls that this thread makes in the block, those of other tasks of its event loop included."""
    calls = Calls()

    def count(frame: FrameType, event: str, argument: object) -> None:
        if event in ("call", "c_call"):
            calls.number += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        yield calls
    finally:
        sys.setprofile(before)
