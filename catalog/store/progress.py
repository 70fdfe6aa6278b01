"""What a pull tells whoever is watching, so that a terminal can draw a bar and a server can log a line."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Stage(StrEnum):
    """Where a pull is. ``CACHED`` and ``DONE`` are its two possible ends."""

    CACHED = "cached"
    METADATA = "metadata"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    PREPARING = "preparing"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class PullEvent:
    """One step of a pull. ``done`` and ``total`` count bytes of ``file``; ``total`` is ``None`` if unknown."""

    model: str
    stage: Stage
    file: str | None = None
    done: int = 0
    total: int | None = None


class Progress(Protocol):
    """Receives the events of a pull, in order, in the thread that pulls. Raising stops the pull; what is
    already on disk stays for the next one to resume from."""

    def __call__(self, event: PullEvent, /) -> None: ...


def silent(_event: PullEvent, /) -> None:
    """Watches nothing."""
