"""Lists the models of running servers and folders, in the background.

Listed models become rows of the catalogue, and rows that are no longer listed are removed. The rows of a server
that refuses connections are removed at once; those of one that answers with errors only after a few scans, as it
may be busy. A source gives :data:`catalog.discovery.MAX_LISTED` rows at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from pydantic import Field

from backends.base import Discover, Timeouts, Upstream
from catalog.discovery import MAX_LISTED, FoundRows, hugging_face_cache, rows_from_folder
from catalog.errors import CapabilityMismatch, RoundhouseError, UpstreamUnreachable
from catalog.model import Endpoint, Model
from catalog.store.file_checks import FileChecks
from catalog.validation.section import Section

MAX_FAILURES = 3
"""Failed scans in a row after which a server's rows are removed."""

UpstreamOf = Callable[[Endpoint], Upstream]
"""An endpoint's address, with a key if it needs one. Raises ModelTemporarilyUnavailable when none is usable."""


class DiscoverySettings(Section):
    """The sources of models besides endpoints with ``discover = true``, and the interval of the scans."""

    interval: float = Field(default=30.0, gt=0, description="seconds between two scans")
    timeout: float = Field(
        default=5.0, gt=0, description="seconds that a server or a folder may take to list its models"
    )
    folders: tuple[Path, ...] = Field(
        default=(), description="folders whose GGUF files become models", examples=[["~/models"]]
    )
    hugging_face_cache: bool = Field(default=False, description="GGUF files in the hub's cache become models too")


@dataclass(frozen=True, slots=True)
class Listing:
    """The models of one source: an endpoint's id, or a folder's path.

    ``rows`` is ``None`` when the earlier rows should stay, and the same object as before for an unchanged list.
    ``error`` is why there are no new rows, ``missing`` which listed models have none.
    """

    source: str
    rows: tuple[Model, ...] | None
    error: str | None = None
    missing: str | None = None


class Discovery:
    """Lists every source once per :meth:`scan`. Callers that scan repeatedly pass the results to :meth:`note`."""

    def __init__(self, settings: DiscoverySettings, backends: Mapping[str, Any], upstream: UpstreamOf) -> None:
        self._settings = settings
        self._backends = backends
        self._upstream = upstream
        self._failures: dict[str, int] = {}
        self._missing: dict[str, str] = {}
        self._known: dict[str, tuple[Model, ...]] = {}
        self._reads: FileChecks[Listing] = FileChecks(settings.timeout)
        self._folders: dict[str, tuple[object, tuple[Model, ...]]] = {}

    @property
    def interval(self) -> float:
        """Seconds between two scans."""
        return self._settings.interval

    @property
    def first_scan_timeout(self) -> float:
        """Seconds in which a scan ends, unless a folder's file system hangs."""
        return self._settings.timeout + 1.0

    def configure(self, settings: DiscoverySettings) -> None:
        """Use other folders and times from the next scan on."""
        self._settings = settings

    def sources(self, servers: Iterable[Endpoint]) -> frozenset[str]:
        """The names of all sources, with these endpoints."""
        return frozenset(server.id for server in servers if server.discover) | {str(f) for f in self._paths()}

    async def scan(self, servers: Iterable[Endpoint]) -> tuple[Listing, ...]:
        """The present models: all servers at once, folders in threads. A failing source does not raise."""
        servers_asked = [self._ask(server) for server in servers if server.discover]
        of_folders = asyncio.create_task(asyncio.to_thread(self._read_all))
        of_servers = await asyncio.gather(*servers_asked)
        return (*of_servers, *await of_folders)

    def _read_all(self) -> tuple[Listing, ...]:
        names = {str(folder): folder for folder in self._paths()}
        found = self._reads.run({name: partial(self._read, folder) for name, folder in names.items()})
        slow = "it was not read in time"
        return tuple(found.get(name) or Listing(name, None, slow) for name in names)

    def note(self, listings: Iterable[Listing]) -> None:
        """Count failures per source; log when a source starts to fail or recovers, and the models left out."""
        for listing in listings:
            self._note(listing)

    def _paths(self) -> tuple[Path, ...]:
        cache = (hugging_face_cache(),) if self._settings.hugging_face_cache else ()
        return tuple(dict.fromkeys(path.expanduser() for path in (*self._settings.folders, *cache)))

    async def _ask(self, server: Endpoint) -> Listing:
        try:
            found = await self._list(server)
            return await asyncio.to_thread(self._listing, server.id, found)
        except UpstreamUnreachable as error:
            return Listing(server.id, (), error.message)
        except (RoundhouseError, TimeoutError) as error:
            reason = error.message if isinstance(error, RoundhouseError) else "it did not list its models in time"
            gone = self._failures.get(server.id, 0) + 1 >= MAX_FAILURES
            return Listing(server.id, () if gone else None, reason)
        except Exception as error:  # the boundary: one server's list must not hide the others'
            gone = self._failures.get(server.id, 0) + 1 >= MAX_FAILURES
            return Listing(server.id, () if gone else None, f"its list cannot be read ({type(error).__name__})")

    def _listing(self, source: str, found: Sequence[Model]) -> Listing:
        """The listing of these rows, at most ``MAX_LISTED`` of them."""
        rows = tuple(found[:MAX_LISTED])
        unusable, left_out = (found.unusable, found.left_out) if isinstance(found, FoundRows) else (0, 0)
        left_out += len(found) - len(rows)
        missing = [f"{left_out} models beyond the first {MAX_LISTED}"] if left_out else []
        missing += [f"{unusable} with names or facts that no model can have"] if unusable else []
        if rows == self._known.get(source):
            rows = self._known[source]
        self._known[source] = rows
        return Listing(source, rows, missing=" and ".join(missing) or None)

    async def _list(self, server: Endpoint) -> Sequence[Model]:
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
            return await backend.list_models(upstream, server)

    def _read(self, folder: Path) -> Listing:
        """The models of a folder. GGUF headers are read again only when its files changed."""
        source = str(folder)
        try:
            if not folder.is_dir():
                return Listing(source, (), "there is no such folder")
            seen = [(path, path.stat()) for path in sorted(folder.rglob("*.gguf")) if path.is_file()]
            signature = tuple((path, stat.st_mtime_ns, stat.st_size) for path, stat in seen)
            known = self._folders.get(source)
            if known is None or known[0] != signature:
                known = self._folders[source] = (signature, tuple(rows_from_folder(folder, _warn)))
            return self._listing(source, known[1])
        except OSError as error:
            return Listing(source, (), error.strerror or type(error).__name__)
        except Exception as error:  # the boundary: one folder's files must not hide the other sources
            return Listing(source, (), f"it cannot be read ({type(error).__name__})")

    def _note(self, listing: Listing) -> None:
        logger = structlog.get_logger("routing.upstreams.discovery")
        if listing.error is None and listing.missing != self._missing.get(listing.source):
            self._missing.pop(listing.source, None)
            if listing.missing is not None:
                self._missing[listing.source] = listing.missing
                logger.warning("listed models left out", source=listing.source, left_out=listing.missing)
        failures = self._failures.get(listing.source, 0)
        if listing.error is not None:
            self._failures[listing.source] = failures + 1
            if failures == 0:
                logger.warning("cannot list models", source=listing.source, reason=listing.error)
        elif self._failures.pop(listing.source, 0):
            logger.info("lists its models again", source=listing.source, models=len(listing.rows or ()))


def _warn(path: Path, reason: str) -> None:
    structlog.get_logger("routing.upstreams.discovery").warning(
        "model file left out", file=str(path), reason=reason
    )
