"""Collects what is known about an answer only once its request is sent: what is left out, and what to know.

``x-roundhouse-dropped`` lists the first. A worker says it in that header: whether its model has a prompt for
``input_type``, or its voice takes instructions. An upstream of the Responses API says which reasoning it cannot
read. ``x-roundhouse-notice`` has the sentences of the second. The usage of a drawing that came to nothing is
collected, too: no event has it, and it is paid.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from urllib.parse import unquote

from catalog.types import Json

DROPPED = "x-roundhouse-dropped"


@dataclass(slots=True)
class Notes:
    """The names of what is left out, sentences about the answer, and a usage that no event has."""

    dropped: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    usage: Json | None = None


_notes: ContextVar[Notes | None] = ContextVar("notes_of_call", default=None)


def collect() -> Notes:
    """Notes that take what is reported to calls of this task, and of tasks that it starts."""
    notes = Notes()
    _notes.set(notes)
    return notes


def note(headers: Mapping[str, str]) -> None:
    """Add the names in these headers to the notes of the present task, if it has some."""
    listed, notes = headers.get(DROPPED), _notes.get()
    if listed and notes is not None:
        notes.dropped.extend(name for name in map(unquote, listed.split(", ")) if name not in notes.dropped)


def tell(sentence: str) -> None:
    """Add a sentence for the caller to the notes of the present task, if it has some."""
    notes = _notes.get()
    if notes is not None and sentence not in notes.notices:
        notes.notices.append(sentence)


def bill(usage: Json) -> None:
    """Report the usage of a call, of which no event that passes has the last, to the notes of the present task."""
    notes = _notes.get()
    if notes is not None:
        notes.usage = usage
