"""Progress events of a pull, for a terminal's progress bar or a server's log."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Stage(StrEnum):
    """The stages of a pull, which ends with ``CACHED``, ``DONE``, or ``SKIPPED`` if it is done without."""

    CACHED = "cached"
    METADATA = "metadata"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    PREPARING = "preparing"
    DONE = "done"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class PullEvent:
    """An event of a pull. ``done`` and ``total`` count bytes of ``file``; ``total`` is ``None`` if unknown.

    ``sha256`` is the digest that a file which is downloaded must have, if it is known; ``reason`` tells why a
    model was skipped.
    """

    model: str
    stage: Stage
    file: str | None = None
    done: int = 0
    total: int | None = None
    sha256: str | None = None
    reason: str | None = None


class Progress(Protocol):
    """Receives the events of a pull, in order, in the pulling thread.

    Raising an exception stops the pull; a later pull resumes from the files on disk.
    """

    def __call__(self, event: PullEvent, /) -> None: ...


def silent(_event: PullEvent, /) -> None:
    """Ignore all events."""
