"""Looks now and then which models running servers and folders have, aside from every request.

What it finds becomes rows of the catalogue, and what is gone leaves it: a server that refuses connections takes
its models along at once; one that answers badly keeps them for a few looks, as it may only be busy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog
from pydantic import BaseModel, ConfigDict, Field

from backends.base import Discover, Timeouts, Upstream
from catalog.discovery import hugging_face_cache, rows_from_folder
from catalog.errors import CapabilityMismatch, RoundhouseError, UpstreamUnreachable
from catalog.model import Endpoint, Model

PATIENCE = 3
"""Looks in a row at which a server may answer badly before its models go."""

UpstreamOf = Callable[[Endpoint], Upstream]
"""An endpoint's address, with a key if it wants one. Raises ModelUnavailable when there is none to use."""


class DiscoverySettings(BaseModel):
    """Where models are looked for besides endpoints with ``discover = true``, and how often."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    interval: float = Field(default=30.0, gt=0, description="seconds between two looks")
    timeout: float = Field(default=5.0, gt=0, description="seconds that a server may take to list its models")
    folders: tuple[Path, ...] = Field(default=(), description="folders whose GGUF files are models, too")
    hugging_face_cache: bool = Field(default=False, description="GGUF files in the hub's cache are models, too")


@dataclass(frozen=True, slots=True)
class Found:
    """What one source has: an endpoint's id, or a folder's path.

    ``rows`` is ``None`` when nothing can be said this time. ``error`` says why there are no (new) rows.
    """

    source: str
    rows: tuple[Model, ...] | None
    error: str | None = None


class Discovery:
    """Asks every source once per :meth:`look`; who looks more than once notes what was found."""

    def __init__(self, settings: DiscoverySettings, backends: Mapping[str, Any], upstream: UpstreamOf) -> None:
        self._settings = settings
        self._backends = backends
        self._upstream = upstream
        self._failures: dict[str, int] = {}
        self._folders: dict[str, tuple[object, tuple[Model, ...]]] = {}

    def sources(self, servers: Iterable[Endpoint]) -> frozenset[str]:
        """The names of everything that is looked at, with these endpoints."""
        return frozenset(server.id for server in servers if server.discover) | {str(f) for f in self._paths()}

    async def look(self, servers: Iterable[Endpoint]) -> tuple[Found, ...]:
        """What there is now: all servers at once, folders in a thread. Raises nothing for a source that fails."""
        asked = [self._ask(server) for server in servers if server.discover]
        read = [asyncio.to_thread(self._read, folder) for folder in self._paths()]
        return tuple(await asyncio.gather(*asked, *read))

    def note(self, found: Iterable[Found]) -> None:
        """Remember who failed; one line in the log when a source begins to fail, and one when it is well again."""
        for each in found:
            self._note(each)

    def _paths(self) -> tuple[Path, ...]:
        cache = (hugging_face_cache(),) if self._settings.hugging_face_cache else ()
        return tuple(dict.fromkeys(path.expanduser() for path in (*self._settings.folders, *cache)))

    async def _ask(self, server: Endpoint) -> Found:
        try:
            rows = await self._list(server)
        except UpstreamUnreachable as error:
            return Found(server.id, (), error.message)
        except (RoundhouseError, TimeoutError) as error:
            told = error.message if isinstance(error, RoundhouseError) else "it did not list its models in time"
            gone = self._failures.get(server.id, 0) + 1 >= PATIENCE
            return Found(server.id, () if gone else None, told)
        return Found(server.id, rows)

    async def _list(self, server: Endpoint) -> tuple[Model, ...]:
        backend = self._backends.get(server.protocol)
        if not isinstance(backend, Discover):
            raise CapabilityMismatch(
                f"An endpoint of protocol '{server.protocol}' cannot be asked for its models."
            )
        limit = self._settings.timeout
        upstream = replace(
            self._upstream(server), timeouts=Timeouts(connect=limit, first_byte=limit, idle=limit, total=limit)
        )
        async with asyncio.timeout(limit):
            return tuple(await backend.list_models(upstream, server))

    def _read(self, folder: Path) -> Found:
        """GGUF headers are read again only when a file came, went or changed."""
        source = str(folder)
        try:
            if not folder.is_dir():
                return Found(source, (), "there is no such folder")
            seen = [(path, path.stat()) for path in sorted(folder.rglob("*.gguf")) if path.is_file()]
        except OSError as error:
            return Found(source, (), error.strerror or type(error).__name__)
        mark = tuple((path, stat.st_mtime_ns, stat.st_size) for path, stat in seen)
        known = self._folders.get(source)
        if known is None or known[0] != mark:
            known = self._folders[source] = (mark, tuple(rows_from_folder(folder)))
        return Found(source, known[1])

    def _note(self, found: Found) -> None:
        logger = structlog.get_logger("routing.upstreams.discovery")
        failures = self._failures.get(found.source, 0)
        if found.error is not None:
            self._failures[found.source] = failures + 1
            if failures == 0:
                logger.warning("cannot list models", source=found.source, reason=found.error)
        elif self._failures.pop(found.source, 0):
            logger.info("lists its models again", source=found.source, models=len(found.rows or ()))
