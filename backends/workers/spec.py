"""What the supervisor tells a worker process: the one line of JSON it starts with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

from catalog.model import Capability


class WorkerSpec(BaseModel):
    """One model on one device, served on one Unix socket.

    ``path`` is the file or folder that the engine opens (``None`` for a model inside a library).
    ``options`` are the catalogue row's, as they are; each engine refuses those it does not know.
    ``slots`` is how many requests the engine works on at once, and it is sent at most ``extra`` more;
    ``context`` is in tokens, per slot.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    engine: str
    model_id: str
    path: str | None = None
    options: dict[str, Any] = {}
    device: str = "cpu"
    socket: str
    api_key: str = Field(min_length=1, repr=False)
    threads: int = Field(default=1, ge=1)
    slots: int = Field(default=1, ge=1)
    extra: int = Field(default=0, ge=0)
    context: int | None = Field(default=None, gt=0)
    capabilities: frozenset[Capability] = frozenset()


Ready = Callable[[], None]
"""Called once, from any thread, when the socket answers."""


class EngineEntryPoint(Protocol):
    """The entry of an engine's module: ``backends.workers.engines.<name>.serve``."""

    def __call__(self, spec: WorkerSpec, ready: Ready) -> None:
        """Load the model, listen on ``spec.socket``, call ``ready``, and return when told to stop (SIGTERM).

        Whatever it raises while loading is shown to the caller as the reason of
        :class:`catalog.errors.WorkerFailed`, so the message names the cause.
        """
        ...
