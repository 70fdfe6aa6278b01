"""The catalogue in force, and its changes: new settings, discovered rows, models that were pulled or removed."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from hashlib import sha256

import orjson

from backends.http import HttpClient
from backends.registry import backends, check_protocols
from catalog.catalog import Catalog
from catalog.model import Endpoint, UpstreamSource
from catalog.store.store import Store
from routing.calling.lease import upstream_of
from routing.clock import SystemClock
from routing.upstreams.availability import Availability
from routing.upstreams.discovery import Discovery, Listing
from routing.upstreams.provider_keys import KeyPools, SecretResolver
from server.settings import Settings

DISK_INTERVAL = 5.0
"""Seconds between two looks at the disk for models that were pulled or removed."""


def read_catalog(settings: Settings, store: Store) -> Catalog:
    """The built-in rows, those of pulled models, and the user's. Raises ConfigurationError."""
    catalog = Catalog.load(user_models=settings.model, user_endpoints=settings.endpoint, pulled=store.rows())
    check_protocols(catalog.servers)
    return catalog


class LiveCatalog:
    """Holds the catalogue in force. ``current`` is an immutable snapshot; a newer one takes its place."""

    def __init__(self, current: Catalog) -> None:
        self.current = current
        self._fingerprints: tuple[Catalog, dict[str, str]] = (current, {})

    def fingerprint(self, model: str) -> str:
        """A digest of the content of a model's row and its endpoint; empty for a model that is not listed."""
        catalog, known = self._fingerprints
        if catalog is not self.current:
            catalog, known = self._fingerprints = (self.current, {})
        if model not in known:
            known[model] = _fingerprint(catalog, model)
        return known[model]

    def snapshot(self) -> Catalog:
        """The catalogue now."""
        return self.current

    def endpoint(self, name: str) -> Endpoint:
        """The endpoint of this name, as it is now. Raises ModelNotFound."""
        return self.current.endpoint(name)


class CatalogUpdates:
    """Puts a newer catalogue in force. Nothing that runs is touched."""

    def __init__(
        self, live: LiveCatalog, store: Store, availability: Availability, keys: KeyPools, discovery: Discovery
    ) -> None:
        self._live = live
        self._store = store
        self._availability = availability
        self._keys = keys
        self._discovery = discovery

    async def reload(self, settings: Settings) -> None:
        """Apply the rows, endpoints and provider keys of new settings. Raises ConfigurationError."""
        fresh = await asyncio.to_thread(read_catalog, settings, self._store)
        self._keys.reload(fresh.servers)
        fresh = merged(replace(fresh, discovered=self._live.current.discovered), self._discovery, ())
        await asyncio.to_thread(self._availability.refresh, tuple(fresh))
        self._live.current = replace(fresh, version=self._live.current.version + 1)

    async def watch_disk(self) -> None:
        """Notice models that are pulled or removed; runs until cancelled."""
        while True:
            await asyncio.sleep(DISK_INTERVAL)
            await asyncio.to_thread(self._availability.refresh, tuple(self._live.current))

    async def discover(self, interval: float) -> None:
        """Ask the servers and folders of the settings every ``interval`` seconds; runs until cancelled."""
        while True:
            found = await self._discovery.scan(self._live.current.servers)
            self._discovery.note(found)
            if merged(self._live.current, self._discovery, found) is not self._live.current:
                await self._publish(found)
            await asyncio.sleep(interval)

    async def _publish(self, found: tuple[Listing, ...]) -> None:
        rows = tuple(merged(self._live.current, self._discovery, found))
        await asyncio.to_thread(self._availability.refresh, rows)
        # Merged anew: a reload may have replaced the catalogue meanwhile.
        self._live.current = merged(self._live.current, self._discovery, found)


def _fingerprint(catalog: Catalog, model: str) -> str:
    row = catalog.get(model)
    if row is None:
        return ""
    content = [row.model_dump()]
    if isinstance(row.source, UpstreamSource):
        content.append(catalog.endpoint(row.source.endpoint).model_dump())
    # Sorted, as the order of a set differs from process to process.
    return sha256(orjson.dumps(content, default=sorted, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]


def merged(catalog: Catalog, discovery: Discovery, found: tuple[Listing, ...]) -> Catalog:
    """The catalogue with newly found rows and without dropped sources; the same object if nothing changed."""
    for each in found:
        if each.rows is not None:
            catalog = catalog.with_discovered(each.source, each.rows)
    for source in catalog.discovered.keys() - discovery.sources(catalog.servers):
        catalog = catalog.with_discovered(source, ())
    return catalog


async def look_once(settings: Settings) -> tuple[Listing, ...]:
    """The rows that a server with these settings would discover now."""
    catalog = read_catalog(settings, Store(settings.data_dir / "models"))
    clock = SystemClock()
    keys = KeyPools(catalog.servers, SecretResolver(os.environ), clock)
    async with HttpClient(settings.backends) as http:
        discovery = Discovery(
            settings.discovery,
            backends(http),
            lambda server: upstream_of(server, "", keys, clock.monotonic(), settings.backends.timeouts())[0],
        )
        return await discovery.scan(catalog.servers)
