"""The catalogue in force, and its changes: new settings, discovered rows, models that were pulled or removed."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from hashlib import sha256

import orjson
import structlog

from backends.http import HttpClient
from backends.registry import backends, check_protocols
from backends.workers.engines.registry import Engines, builtin_engines, check_engines
from catalog.catalog import Catalog
from catalog.errors import ConfigurationError, ModelNotFound
from catalog.model import Capability, Endpoint, Model, UpstreamSource
from catalog.store.store import Store
from routing.calling.lease import upstream_of
from routing.clock import SystemClock
from routing.reading.intent import is_auto
from routing.reading.stand_ins import StandIns, embeds_by_choice, means_embeddings
from routing.settings import RoutingSettings
from routing.state.factory import create_state
from routing.upstreams.availability import Availability
from routing.upstreams.discovery import Discovery, Listing
from routing.upstreams.provider_keys import KeyPools, SecretResolver
from server.models.rows import NONE_REGISTERED, Registered, RegisteredRows
from server.settings import STATE_FILE, Settings

_SPOKEN = frozenset({Capability.SPEAK, Capability.TRANSCRIBE, Capability.TRANSLATE, Capability.DIARIZE})
DISK_INTERVAL = 5.0
"""Seconds between two looks at the disk for models that were pulled or removed."""


def read_catalog(
    settings: Settings,
    store: Store,
    engines: Engines | None = None,
    registered: Registered | None = NONE_REGISTERED,
) -> Catalog:
    """The built-in rows, those of pulled models, the user's, and those registered while the server ran.

    ``registered`` is ``None`` where these are not known yet. One that is no longer valid is left out, with a
    warning.

    Raises ConfigurationError, which says what to correct, for a wrong row and for a preferred model that is not
    there.
    """
    try:
        engines = engines or builtin_engines(settings.workers.python)
        catalog = _with_usable(settings, store, engines, registered or NONE_REGISTERED)
        check_preferred(settings, catalog, unknown=registered is not None)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{error.message.rstrip('.')}. Correct it in {settings.file or 'the settings'}."
        ) from error
    return catalog


def build_catalog(settings: Settings, store: Store, engines: Engines, registered: Registered) -> Catalog:
    """As :func:`read_catalog`, but raises ConfigurationError, with the field in ``param``, for any wrong row."""
    beside = registered.beside(settings.model, settings.endpoint)
    catalog = Catalog.load(
        user_models=(*settings.model, *beside.tables),
        user_endpoints=(*settings.endpoint, *beside.endpoints.values()),
        pulled=store.rows(),
        completed=partial(_as_served, engines, settings.workers.context),
    )
    check_protocols(catalog.servers, catalog.own)
    check_engines(catalog, engines)
    return catalog


def _with_usable(settings: Settings, store: Store, engines: Engines, registered: Registered) -> Catalog:
    """The catalogue with the registered rows that are valid. Raises ConfigurationError for one of the settings."""
    while True:
        try:
            return build_catalog(settings, store, engines, registered)
        except ConfigurationError as error:
            less = registered.without(error.message)
            if less == registered:
                raise
            log = structlog.get_logger("server.catalog")
            log.warning("registered row is left out", reason=error.message)
            registered = less


def _as_served(engines: Engines, default: int, row: Model) -> Model:
    """The row with the abilities of its engine, and within the context window that its worker has here."""
    row = engines.completed(row)
    window = engines.context(row, default)
    if window is None or window == row.limits.context_window:
        return row
    limits = row.limits
    most = {
        name: min(tokens, window)
        for name in ("max_output_tokens", "max_input_tokens")
        if (tokens := getattr(limits, name)) is not None
    }
    return row.model_copy(update={"limits": limits.model_copy(update={"context_window": window, **most})})


def log_remarks(catalog: Catalog) -> None:
    """Warn of rows of the user's that are valid and perhaps a mistake."""
    for remark in catalog.remarks():
        structlog.get_logger("server.catalog").warning("check the row of a model", reason=remark)


def check_preferred(settings: Settings, catalog: Catalog, *, unknown: bool = True) -> None:
    """Raises the first of :func:`wrong_preferences`."""
    for error in wrong_preferences(settings, catalog, unknown=unknown):
        raise error


def wrong_preferences(
    settings: Settings, catalog: Catalog, *, unknown: bool = True
) -> Iterator[ConfigurationError]:
    """An error for each preferred model or stand-in without the capability that it is needed for, and with
    ``unknown`` for each that is not there and cannot be discovered, either.
    """
    for pattern, target in settings.routing.stand_ins.items():
        wrong = _wrong_for_embeddings(pattern, target, catalog)
        if wrong is not None:
            yield ConfigurationError(f"Invalid setting 'routing.stand_ins.\"{pattern}\"': {wrong}")
    for setting, name, useful in _preferred(settings.routing):
        with contextlib.suppress(ModelNotFound):
            model = catalog.resolve(name)
            if not useful & model.capabilities:
                able, wanted = ", ".join(sorted(model.capabilities)), " or ".join(sorted(useful))
                yield ConfigurationError(
                    f"Invalid setting '{setting}': '{model.id}' cannot {wanted}; it can {able}"
                )
    if not unknown or may_discover(settings, catalog):
        return
    for setting, error in unknown_preferred(settings.routing, catalog):
        yield ConfigurationError(f"Invalid setting '{setting}': {error.message}")


def may_discover(settings: Settings, catalog: Catalog) -> bool:
    """Whether models that the catalogue does not have may be found while the server runs."""
    discovery = settings.discovery
    servers = any(server.discover for server in catalog.servers)
    return bool(discovery.folders or discovery.hugging_face_cache or servers)


def unknown_preferred(routing: RoutingSettings, catalog: Catalog) -> list[tuple[str, ModelNotFound]]:
    """The settings that name a model which the catalogue does not have."""
    unknown = []
    for setting, name, _ in _preferred(routing):
        try:
            catalog.resolve(name)
        except ModelNotFound as error:
            unknown.append((setting, error))
    return unknown


def _preferred(routing: RoutingSettings) -> Iterator[tuple[str, str, frozenset[Capability]]]:
    """The settings that name a model, its name, and the capabilities of which it needs one."""
    for capability, name in routing.preferred.items():
        yield f"routing.preferred.{capability}", name, frozenset({capability})
    for name in routing.speech.preferred:
        yield "routing.speech.preferred", name, _SPOKEN
    if routing.judge.model is not None:
        yield "routing.judge.model", routing.judge.model, frozenset({Capability.CHAT})
    for pattern, name in routing.stand_ins.items():
        if not is_auto(name):
            useful = frozenset({Capability.EMBED}) if means_embeddings(pattern) else frozenset(Capability)
            yield f'routing.stand_ins."{pattern}"', name, useful


def _wrong_for_embeddings(pattern: str, target: str, catalog: Catalog) -> str | None:
    """The error of a stand-in for names of embedding models that is not one model.

    The catalogue knows such names whose form does not tell.
    """
    asked = StandIns({pattern: target})
    names = ((row, name) for row in catalog for name in (row.id, row.name, *row.aliases) if name is not None)
    meant = [row for row, name in names if asked(name) is not None]
    if not (means_embeddings(pattern) or (meant and all(Capability.EMBED in row.capabilities for row in meant))):
        return None
    if is_auto(target):
        return embeds_by_choice(pattern, target)
    rows = catalog.replicas(target) if catalog.knows(target) else ()
    if len(rows) < 2:
        return None
    return f"'{target}' is {' and '.join(row.id for row in rows)}, whose vectors may not compare: name one"


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
        self,
        live: LiveCatalog,
        store: Store,
        engines: Engines,
        availability: Availability,
        keys: KeyPools,
        discovery: Discovery,
        settings: Settings,
        pulled: tuple[Model, ...],
        registered: RegisteredRows,
    ) -> None:
        """``pulled`` are the rows of pulled models that ``live`` was made with, without any registered row."""
        self._live = live
        self._settings = settings
        self._pulled = pulled
        self._engines = engines
        self._store = store
        self._availability = availability
        self._keys = keys
        self._discovery = discovery
        self._registered = registered
        self._in_force = NONE_REGISTERED
        self._looking = asyncio.Lock()
        self._changed = asyncio.Event()
        self.looked = asyncio.Event()
        """Set once every source of models was asked, or did not answer in time."""

    async def start(self) -> None:
        """Read the registered rows. Raises ConfigurationError for a preferred model that is not there."""
        await self._registered.read()
        if self._registered.current != self._in_force:
            await self.reload(self._settings)
        else:
            await asyncio.to_thread(check_preferred, self._settings, self._live.current)

    async def check(self, registered: Registered) -> Catalog:
        """The catalogue that these rows would make. Raises ConfigurationError with the field in ``param``."""
        return await asyncio.to_thread(build_catalog, self._settings, self._store, self._engines, registered)

    async def reload(self, settings: Settings) -> None:
        """Apply the rows, endpoints, provider keys and sources of new settings. Raises ConfigurationError."""
        self._pulled = await asyncio.to_thread(self._store.rows)
        registered = self._registered.current
        fresh = await asyncio.to_thread(read_catalog, settings, self._store, self._engines, registered)
        if settings is not self._settings:
            log_remarks(fresh)
        self._in_force = registered
        self._keys.reload(fresh.servers)
        self._discovery.configure(settings.discovery)
        self._settings = settings
        listed = tuple(Listing(source, rows) for source, rows in self._live.current.listed.items())
        fresh = await asyncio.to_thread(merged, fresh, self._discovery, listed)
        await asyncio.to_thread(self._availability.refresh, tuple(fresh))
        self._live.current = replace(fresh, version=self._live.current.version + 1)
        self._changed.set()

    async def watch_disk(self) -> None:
        """Notice models that are pulled or removed; runs until cancelled."""
        while True:
            await asyncio.sleep(DISK_INTERVAL)
            with _logged("cannot look at the models on disk"):
                await self.look()

    async def look(self) -> None:
        """Notice models that were pulled, registered or removed, also by another process or machine."""
        async with self._looking:  # so that no look returns before the change that another one found is in force
            await self._registered.read()
            registered = self._registered.current != self._in_force
            if registered or await asyncio.to_thread(self._store.rows) != self._pulled:
                await self.reload(self._settings)
            else:
                await asyncio.to_thread(self._availability.refresh, tuple(self._live.current))

    async def discover(self) -> None:
        """Ask the servers and folders of the settings, at intervals and after a reload; runs until cancelled.

        A failure is logged and ends nothing: the next look comes at the next interval.
        """
        asyncio.get_running_loop().call_later(self._discovery.first_scan_timeout, self.looked.set)
        checked: RoutingSettings | None = None
        while True:
            self._changed.clear()
            with _logged("discovery failed"):
                found = await self._discovery.scan(self._live.current.servers)
                self._discovery.note(found)
                await self._publish(found)
                if checked is not self._settings.routing:
                    checked = self._settings.routing
                    for setting, error in unknown_preferred(checked, self._live.current):
                        log = structlog.get_logger("server.catalog")
                        log.warning("preferred model is unknown", setting=setting, reason=error.message)
            self.looked.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._discovery.interval):
                    await self._changed.wait()

    async def _publish(self, found: tuple[Listing, ...]) -> None:
        while True:
            base = self._live.current
            fresh = await asyncio.to_thread(merged, base, self._discovery, found)
            if fresh is not base:
                await asyncio.to_thread(self._availability.refresh, tuple(fresh))
            if self._live.current is base:  # else a reload replaced it meanwhile
                self._live.current = fresh
                return


@contextlib.contextmanager
def _logged(event: str) -> Iterator[None]:
    try:
        yield
    except Exception:  # the boundary: a background task goes on
        structlog.get_logger("server.catalog").exception(event)


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


async def registered_in(settings: Settings) -> Registered:
    """The rows registered while a server ran, read from its state; none where there is no state, or no answer."""
    file = settings.data_dir / STATE_FILE
    if settings.state.url is None and not await asyncio.to_thread(file.exists):
        return NONE_REGISTERED
    state = create_state(settings.state, file)
    try:
        await state.start()
        rows = RegisteredRows(state.records)
        await rows.read()
        return rows.current
    except ConfigurationError as error:
        log = structlog.get_logger("server.catalog")
        log.warning("registered rows cannot be read", reason=error.message)
        return NONE_REGISTERED
    finally:
        await state.close()


async def look_once(settings: Settings) -> tuple[Listing, ...]:
    """The rows that a server with these settings would discover now."""
    catalog = read_catalog(settings, Store(settings.data_dir / "models"), registered=await registered_in(settings))
    clock = SystemClock()
    keys = KeyPools(catalog.servers, SecretResolver(os.environ), clock)
    async with HttpClient(settings.backends) as http:
        discovery = Discovery(
            settings.discovery,
            backends(http),
            lambda server: upstream_of(server, "", keys, clock.monotonic(), settings.backends.timeouts())[0],
        )
        return await discovery.scan(catalog.servers)
