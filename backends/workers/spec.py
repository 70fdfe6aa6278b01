"""What a worker process is told when it starts, and what an engine is inside that process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

from catalog.model import Model


class WorkerSpec(BaseModel):
    """All that a worker knows: one line of JSON on its standard input, so that no key is on a command line.

    ``path`` is the file or folder the engine opens (``None`` for a model inside an installed library).
    ``socket`` is the Unix socket to listen on; requests carry ``Authorization: Bearer api_key``.
    ``context`` is the number of tokens that *one* request may use, prompt and answer together; ``None``
    leaves it to the model. ``slots`` requests arrive at a time, never more than ``slots + extra``.
    ``ready_fd`` is the file descriptor that :class:`Ready` writes one line to.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Model
    engine: str
    module: str
    path: Path | None
    device: str
    socket: Path
    api_key: str = Field(repr=False)
    threads: int = Field(ge=1)
    slots: int = Field(ge=1)
    extra: int = Field(default=0, ge=0)
    context: int | None = None
    ready_fd: int = -1


Ready = Callable[[], None]
"""Called once, from any thread, when the socket answers."""


class Engine(Protocol):
    """The entry of an engine's module: ``backends.workers.engines.<name>.serve``."""

    def __call__(self, spec: WorkerSpec, ready: Ready) -> None:
        """Load the model, listen on ``spec.socket``, call ``ready``, and return when told to stop (SIGTERM).

        Raises whatever went wrong while loading, with a message that names the cause: its last line reaches
        the caller as the reason of :class:`catalog.errors.WorkerFailed`.
        """
        ...
