"""Counts work, so that a test can bound it without a clock."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Calls:
    """The number of function calls, of Python and of C functions."""

    number = 0


@contextmanager
def counted_calls() -> Iterator[Calls]:
    """Count the calls of this thread during the block, including those of other tasks of its event loop."""
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
