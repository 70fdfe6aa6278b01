"""Collects what is known to be left out of a request only once it is sent, as ``x-roundhouse-dropped`` lists it.

A worker says it in that header: whether its model has a prompt for ``input_type``, or its voice takes
instructions. An upstream of the Responses API says which reasoning it cannot read.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from urllib.parse import unquote

DROPPED = "x-roundhouse-dropped"

_noted: ContextVar[list[str] | None] = ContextVar("dropped_by_worker", default=None)


def collect() -> list[str]:
    """A list that takes the names which are reported to calls of this task, and of tasks that it starts."""
    names: list[str] = []
    _noted.set(names)
    return names


def note(headers: Mapping[str, str]) -> None:
    """Add the names in these headers to the list of the present task, if it has one."""
    listed, names = headers.get(DROPPED), _noted.get()
    if listed and names is not None:
        names.extend(name for name in map(unquote, listed.split(", ")) if name not in names)
