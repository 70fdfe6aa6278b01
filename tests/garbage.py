"""Finds reference cycles: only the garbage collector frees their objects, and its passes stop the event loop."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_OURS = ("server.", "routing.", "backends.", "catalog.")


@contextmanager
def left_in_cycles() -> Iterator[list[str]]:
    """Names of the project's types and functions that the block leaves in cycles; filled at its end."""
    found: list[str] = []
    gc.collect()
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found += [name for each in gc.garbage if (name := _name(each)).startswith(_OURS)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def _name(each: Any) -> str:
    if isinstance(each, FrameType):
        return f"{each.f_globals.get('__name__', '')}.{each.f_code.co_qualname}"
    return f"{type(each).__module__}.{type(each).__qualname__}"
