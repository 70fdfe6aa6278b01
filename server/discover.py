"""Keeps the catalogue's discovered rows as the servers and folders have them now."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

from backends.http import HttpClient
from backends.registry import backends
from catalog.catalog import Catalog
from catalog.store.store import Store
from routing.calling.lease import upstream_of
from routing.clock import SystemClock
from routing.upstreams.discovery import Discovery, Listing
from routing.upstreams.provider_keys import KeyPools, SecretResolver
from server.settings import Settings


def merged(catalog: Catalog, discovery: Discovery, found: tuple[Listing, ...]) -> Catalog:
    """The catalogue with what was found, without sources that are looked at no more; itself if nothing changed."""
    for each in found:
        if each.rows is not None:
            catalog = catalog.with_discovered(each.source, each.rows)
    for source in catalog.discovered.keys() - discovery.sources(catalog.servers):
        catalog = catalog.with_discovered(source, ())
    return catalog


async def keep_discovering(
    discovery: Discovery,
    interval: float,
    *,
    current: Callable[[], Catalog],
    publish: Callable[[tuple[Listing, ...]], Awaitable[None]],
) -> None:
    """Look, publish what changed, wait; for ever. ``publish`` is called only when something changed."""
    while True:
        found = await discovery.scan(current().servers)
        discovery.note(found)
        if merged(current(), discovery, found) is not current():
            await publish(found)
        await asyncio.sleep(interval)


async def look_once(settings: Settings) -> tuple[Listing, ...]:
    """What a server with these settings would find now."""
    store = Store(settings.data_dir / "models")
    catalog = Catalog.load(user_models=settings.model, user_endpoints=settings.endpoint, pulled=store.rows())
    clock = SystemClock()
    keys = KeyPools(catalog.servers, SecretResolver(os.environ), clock)
    async with HttpClient(settings.backends) as http:
        discovery = Discovery(
            settings.discovery,
            backends(http),
            lambda server: upstream_of(server, "", keys, clock.monotonic(), settings.backends.timeouts())[0],
        )
        return await discovery.scan(catalog.servers)
