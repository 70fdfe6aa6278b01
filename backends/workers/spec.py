"""The spec of a worker process, which it reads as one line of JSON at its start, and an engine's entry point."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

from catalog.model import Capability


class WorkerSpec(BaseModel):
    """One model on one device, served at one address.

    ``path`` is the file or folder that the engine opens (``None`` for a model inside a library). ``options`` are
    the catalogue row's, unchanged; each engine refuses unknown ones. ``slots`` is the number of requests that the
    engine works on concurrently; it receives at most ``extra`` more. ``context`` is in tokens per slot.
    ``socket`` is the path of a Unix socket, or HOST:PORT on a node of a cluster (:func:`split_socket`).
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


def split_socket(socket: str) -> tuple[str, int] | None:
    """Split HOST:PORT, with brackets around an IPv6 address; None for the path of a Unix socket."""
    if socket.startswith("/"):
        return None
    host, _, port = socket.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


Ready = Callable[[], None]
"""A callback for the moment when the socket accepts requests; called once, from any thread."""


class EngineEntryPoint(Protocol):
    """The entry point of an engine's module: ``backends.workers.engines.<name>.serve``."""

    def __call__(self, spec: WorkerSpec, ready: Ready) -> None:
        """Load the model, listen on ``spec.socket``, call ``ready``, and return after SIGTERM.

        The message of an exception raised while loading becomes the reason in
        :class:`catalog.errors.WorkerFailed`, so it should name the cause.
        """
        ...
