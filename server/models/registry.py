"""Registers, changes and removes rows of the catalogue while the server runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container
from pathlib import Path

import orjson
from pydantic import ValidationError

from backends.workers.engines.registry import Engines
from catalog.catalog import Catalog
from catalog.discovery import row_at
from catalog.errors import ConfigurationError, InvalidRequest, PullError, RoundhouseError
from catalog.model import Model
from catalog.names.ollama import hub_address
from catalog.store.settings import ModelSettings
from catalog.store.store import parse_address
from catalog.types import Json
from server.library import RESERVED
from server.models.guard import RowGuard
from server.models.rows import ENDPOINT, MODEL, Registered, RegisteredRows

_OWN = {"id", "source", "origin", "tags", "provider"}
"""Fields that say where a row comes from, and not what its model is."""


class Registry:
    """The rows that administrators register over HTTP, in force in every gateway that shares the state.

    ``check`` builds the catalogue that some rows would make, ``look`` puts what is stored in force here, and
    ``announce`` has the other gateways look.
    """

    def __init__(
        self,
        rows: RegisteredRows,
        engines: Engines,
        *,
        catalog: Callable[[], Catalog],
        check: Callable[[Registered], Awaitable[Catalog]],
        look: Callable[[], Awaitable[None]],
        announce: Callable[[], Awaitable[None]],
    ) -> None:
        self._rows = rows
        self._engines = engines
        self._catalog = catalog
        self._check = check
        self._look = look
        self._announce = announce
        self._changing = asyncio.Lock()

    def has(self, model_id: str) -> bool:
        """Whether a row of this id was registered."""
        return model_id.lower() in self._rows.current.models

    def guard(self, settings: ModelSettings, *, at_home: bool, folders: tuple[Path, ...] = ()) -> RowGuard:
        """The bounds of a request's rows; see :class:`RowGuard`."""
        registered = self._rows.current.endpoints
        servers = [server for server in self._catalog().servers if server.id.lower() not in registered]
        return RowGuard(settings, self._engines, at_home=at_home, folders=folders, endpoints=servers)

    async def register(
        self, given: Json, endpoint: Json | None, guard: RowGuard, *, settled: Container[str]
    ) -> Model:
        """Register a row, or change one: the fields of ``given`` are merged over it, and ``None`` removes one.

        ``endpoint`` is the server of the model, if that is new. ``settled`` has the lower-case ids of the rows of
        the settings, which only they change. Returns the row in force.

        Raises InvalidRequest with the field in ``param``, and Unavailable for a store that does not answer.
        """
        async with self._changing:
            await self._rows.read()
            now = self._rows.current
            name = given["id"].lower()
            if name in settled:
                raise InvalidRequest(
                    f"'{given['id']}' is a row of the settings file: change it there, and reload it with SIGHUP.",
                    param="id",
                )
            if name.split("/")[0] == RESERVED:
                raise InvalidRequest(f"id: '{RESERVED}' is a path of this API; choose another.", param="id")
            if given.get("origin") is not None:
                raise InvalidRequest("origin: it is set by this server; leave it out.", param="origin")
            table = _merged(now.given(name), _with_source(given, endpoint))
            facts = now.models[name]["facts"] if name in now.models else {}
            if "source" in given and isinstance(table.get("source"), dict):
                await asyncio.to_thread(guard.check_source, table["source"])
                facts = await asyncio.to_thread(_facts, table["source"])
            entry: Json = orjson.loads(orjson.dumps({"given": table, "facts": facts}))
            servers = dict(now.endpoints)
            if endpoint is not None:
                server = self._server(endpoint, now, guard)
                servers[server["id"].lower()] = server
            made = await self._checked(Registered({**now.models, name: entry}, servers))
            row = made.get(name)
            assert row is not None, "the catalogue has each of its rows"
            if row.local:
                _check_local(row)
                await asyncio.to_thread(guard.check_options, row, given.get("options") or ())
            elif row.engine is not None:
                raise InvalidRequest("engine: a model of another server has none; leave it out.", param="engine")
            if endpoint is not None:
                place = endpoint["id"].lower()
                await self._rows.keep(ENDPOINT, place, servers[place])
            await self._rows.keep(MODEL, name, entry)
            await self._publish()
        return self._catalog().get(name) or row

    async def unregister(self, model_id: str) -> bool:
        """Remove a registered row, and its endpoint if that was registered and no other row names it.

        Returns whether there was one. Raises Unavailable.
        """
        async with self._changing:
            await self._rows.read()
            now = self._rows.current
            name = model_id.lower()
            if name not in now.models:
                return False
            await self._rows.drop(MODEL, model_id)
            left = {_endpoint_of(now.given(other)) for other in now.models if other != name}
            used = _endpoint_of(now.given(name))
            if used is not None and used.lower() in now.endpoints and used not in left:
                await self._rows.drop(ENDPOINT, used)
            await self._publish()
        return True

    async def _publish(self) -> None:
        await self._look()
        await self._announce()

    def _server(self, given: Json, now: Registered, guard: RowGuard) -> Json:
        name = given.get("id")
        if not isinstance(name, str) or not name:
            raise InvalidRequest("endpoint.id: this field is needed.", param="endpoint.id")
        known = now.endpoints.get(name.lower())
        if known is None and any(server.id.lower() == name.lower() for server in self._catalog().servers):
            raise InvalidRequest(
                f"endpoint.id: there is an endpoint '{name[:80]}', which only the settings change. Name it in "
                "source.endpoint, or choose another id.",
                param="endpoint.id",
            )
        server = _merged(known or {}, given)
        guard.check_endpoint(server)
        return server

    async def _checked(self, registered: Registered) -> Catalog:
        try:
            return await self._check(registered)
        except ConfigurationError as error:
            _, colon, told = error.message.partition("]] ")
            message = (f"The row {told}" if colon else error.message).rstrip(".") + "."
            raise InvalidRequest(message, param=error.param) from None


def _merged(over: Json, given: Json) -> Json:
    """A JSON merge patch (RFC 7396) of the top level."""
    return {name: value for name, value in {**over, **given}.items() if value is not None}


def _with_source(given: Json, endpoint: Json | None) -> Json:
    """The table with its source as an object: an address of the hub, or a path, may be written as text.

    Raises InvalidRequest for a text that is neither.
    """
    source = given.get("source")
    if endpoint is not None and isinstance(source, dict) and source.get("kind") == "upstream":
        return {**given, "source": {"endpoint": endpoint.get("id"), **source}}
    if not isinstance(source, str):
        return given
    address = hub_address(source) or (source.removeprefix("hub:") if source.startswith("hub:") else None)
    if address is None:
        if source.startswith(("/", "~")):
            return {**given, "source": {"kind": "path", "path": source}}
        raise InvalidRequest(
            "source: a text is 'hub:OWNER/REPOSITORY[:QUANTISATION]' or an absolute path; an object has a 'kind': "
            "hub, path or upstream.",
            param="source",
        )
    try:
        return {**given, "source": parse_address(address).model_dump(exclude_defaults=True) | {"kind": "hub"}}
    except PullError as error:
        raise InvalidRequest(f"source: {error.message}", param="source") from None


def _facts(source: Json) -> Json:
    """The fields of a row that the local file or folder of its source gives; none for another source.

    Raises InvalidRequest for a path without a model that an engine can run.
    """
    if source.get("kind") != "path" or not isinstance(source.get("path"), str):
        return {}
    path = Path(source["path"]).expanduser()
    if not path.exists():
        raise InvalidRequest(f"source.path: there is no file or folder {path}.", param="source.path")
    try:
        row = row_at(path)
    except (RoundhouseError, ValidationError, OSError) as error:
        told = error.message if isinstance(error, RoundhouseError) else "The model's files cannot be read."
        raise InvalidRequest(f"source.path: {told}", param="source.path") from None
    facts: Json = row.model_dump(mode="json", exclude_unset=True, exclude_none=True, exclude=_OWN)
    return facts


def _check_local(row: Model) -> None:
    """Raises InvalidRequest for a row of this machine without an engine, which no request could use."""
    if row.engine is None:
        raise InvalidRequest(
            "engine: this field is needed for a model of this machine: llamacpp for GGUF, onnx, whisper, speech, "
            "vllm, mlx... A pull (POST /v1/models/pulls) of a repository finds it, and the capabilities.",
            param="engine",
        )


def _endpoint_of(table: Json) -> str | None:
    source = table.get("source")
    endpoint = source.get("endpoint") if isinstance(source, dict) else None
    return endpoint if isinstance(endpoint, str) else None
