"""GET /v1/models, and loading and unloading for administrators."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal, NotRequired

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response
from typing_extensions import TypedDict

from backends.registry import wire_of
from backends.wire.common import Finite, Identifier, OwnBody
from backends.workers.pool import WorkerView
from catalog.errors import (
    CapabilityMismatch,
    InvalidRequest,
    ModelTooLarge,
    ModelUnavailable,
    NotFound,
    NotPermitted,
)
from catalog.model import Capability, Model, UpstreamSource
from catalog.types import Json
from routing.facts import Mode, alias_of
from routing.plan import NOT_SET_UP, Block
from server.answers.whole import json_response
from server.callers import ANONYMOUS
from server.edge.bodies import check_query, read_query
from server.edge.callers import caller_of
from server.edge.contracts import Contract, route
from server.edge.disconnect import Guard
from server.edge.errors import speaks_anthropic
from server.edge.services import runtime_of, services_of
from server.library import Library
from server.models.filters import ModelFilter
from server.models.guard import RowGuard
from server.models.loading import check_window, load_options, named_as_given, refused
from server.runtime import Runtime
from server.wires.codex_models import CodexModel, codex_models

router = APIRouter(tags=["models"])


class LoadRequest(OwnBody):
    """``keep_alive`` is how many seconds the model stays loaded without use.

    The other fields hold until the model is unloaded, or loaded with others: ``context`` is in tokens per request,
    ``slots`` are requests at a time, ``kv_cache`` is the number format of the KV cache (``q8_0``),
    ``quantization`` that of the weights where the engine makes it as it loads (``int8``, ``fp8``), ``options``
    are more of the engine's. A model that is loaded otherwise finishes its requests first; ``force`` ends them.
    """

    keep_alive: Annotated[Finite, Field(ge=0, le=31_536_000)] | None = None
    context: Annotated[int, Field(ge=128, le=2**31 - 1)] | None = None
    slots: Annotated[int, Field(ge=1, le=512)] | None = None
    kv_cache: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,32}$")] | None = None
    quantization: Annotated[str, Field(pattern=r"^[\w-]{1,64}$")] | None = None
    options: Annotated[dict[Identifier, Any], Field(max_length=64)] | None = None
    force: bool = False


class UnloadRequest(OwnBody):
    """``force`` ends the running requests: their streams get an error event."""

    force: bool = False


class Unloaded(TypedDict):
    """``unloaded`` is false if the model was not loaded."""

    id: str
    object: Literal["model"]
    unloaded: bool


class DeleteQuery(BaseModel):
    """``files``: delete the files that were pulled. By default only of a model that no row of the user's names."""

    files: bool | None = None


class ModelDeleted(TypedDict):
    """``freed`` counts the bytes of the files that were deleted; ``note`` says what is left, if anything."""

    id: str
    object: Literal["model"]
    deleted: bool
    freed: int
    note: NotRequired[str]


class ModelCard(TypedDict):
    """A model in OpenAI's shape, with this server's own facts beside it; a row of the router has ``mode`` only.

    ``upgrade`` is a better model for the same work that fits on this machine and can be pulled by this name.
    ``downloaded``, ``key_configured`` and ``available`` are three facts: the files are here, a key for the
    endpoint is set, and a request could be answered now (``unavailable_reason`` says why not).
    """

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    router: NotRequired[bool]
    mode: NotRequired[str]
    name: NotRequired[str | None]
    aliases: NotRequired[list[str]]
    family: NotRequired[str | None]
    license: NotRequired[str | None]
    capabilities: NotRequired[list[str]]
    context_window: NotRequired[int | None]
    max_output_tokens: NotRequired[int | None]
    max_input_tokens: NotRequired[int | None]
    dimensions: NotRequired[int | None]
    quantization: NotRequired[str | None]
    parameter_count: NotRequired[int | None]
    voices: NotRequired[list[str]]
    languages: NotRequired[list[str]]
    tags: NotRequired[list[str]]
    local: NotRequired[bool]
    engine: NotRequired[str | None]
    endpoint: NotRequired[str | None]
    wire: NotRequired[str | None]
    device: NotRequired[str | None]
    state: NotRequired[str | None]
    loaded: NotRequired[bool]
    downloaded: NotRequired[bool | None]
    key_configured: NotRequired[bool | None]
    available: NotRequired[bool]
    unavailable_reason: NotRequired[str | None]
    price: NotRequired[Json]
    shutdown_date: NotRequired[str | None]
    successor: NotRequired[str | None]
    parameters: NotRequired[list[str] | None]
    origin: NotRequired[str]
    upgrade: NotRequired[str]
    registered: NotRequired[bool]


class ModelList(TypedDict):
    """``models`` is there for Codex, which asks with its version and reads nothing else."""

    object: Literal["list"]
    data: list[ModelCard]
    models: NotRequired[list[CodexModel]]


_OF_CLIENTS = ("api-version",)
"""Query parameters that clients add to every call: Azure's SDKs do."""


class ModelsQuery(ModelFilter):
    """``all`` lists the models, too, that this server's set-up lacks something for: a key, an engine, a pull.

    A model needs every member of ``capability`` and of ``tags``. ``max_memory`` bounds the memory of a model of
    this machine (bytes, or such as ``8GB``), ``max_price`` the dollars per million tokens. A model whose figure is
    unknown fails a filter, as do the names of the router. ``client_version`` is Codex's.
    """

    all: bool = False
    client_version: Identifier | None = None


@route(router, "GET", "/v1/models", Contract(query=ModelsQuery, answers=ModelList))
async def list_models(request: Request, query: ModelsQuery) -> Response:
    """List the models that can answer this caller, and the names under which the router chooses.

    With ``anthropic-version`` among the headers it is a page in Anthropic's shape; with ``client_version`` in the
    query it has the ``models`` that Codex reads, too.
    """
    if not speaks_anthropic(request.scope):
        check_query(request, ModelsQuery, _OF_CLIENTS)
    services, runtime = services_of(request), runtime_of(request)
    caller = caller_of(request)
    views = {view.model: view for view in runtime.pool.snapshot().models}
    rows = [row for row in runtime.catalog if caller.allows(row.id, runtime.catalog)]
    data = [] if query.filters else [_router_row(mode, services.created) for mode in Mode]
    for row in query.select(rows):
        block = runtime.unavailable(row)
        if query.all or block is None or block.code not in NOT_SET_UP:
            data.append(describe(row, views.get(row.id), runtime, services.created, block))
    better = await services.upgrades.better(row for row in rows if row.local and runtime.downloaded(row))
    for card in data:
        if card["id"] in better:
            card["upgrade"] = better[card["id"]]
    if speaks_anthropic(request.scope):
        from server.wires.messages.models import ModelPageQuery, page

        return json_response(page(data, read_query(request, ModelPageQuery)))
    listed: ModelList = {"object": "list", "data": data}
    if query.client_version is not None:
        listed["models"] = codex_models(data)
    return json_response(listed)


@route(router, "GET", "/v1/models/{model_id:path}", Contract(answers=ModelCard))
async def get_model(request: Request, model_id: str) -> Response:
    """Describe one model, by id, name or alias, or the stand-in for a name that no usable model has.

    With the header ``anthropic-version`` it is in Anthropic's shape.
    """
    card = _card(request, model_id)
    if speaks_anthropic(request.scope):
        from server.wires.messages.models import model_info

        return json_response(model_info(card))
    return json_response(card)


@route(
    router,
    "DELETE",
    "/v1/models/{model_id:path}",
    Contract(query=DeleteQuery, answers=ModelDeleted, admin=True, raises=(InvalidRequest, ModelUnavailable)),
)
async def delete_model(request: Request, model_id: str, query: DeleteQuery) -> Response:
    """Unregister a model that was registered, with ``files=true`` also deleting its files.

    Of a model that was pulled and that no row of the user's names, the files are deleted; those of a row of the
    settings with ``files=true``. Such a row and a built-in one stay, and the model can be pulled again.
    """
    runtime = runtime_of(request)
    row = runtime.catalog.resolve(model_id)
    library, registry = library_of(runtime), runtime.registry
    registered = registry is not None and registry.has(row.id)
    if not (registered or query.files is not False):
        raise InvalidRequest(
            f"'{row.id}' was not registered, so that only its files can be deleted: leave 'files' out.",
            param="files",
        )
    if not registered and row.origin == "user" and query.files is None and await library.has(row):
        raise InvalidRequest(
            f"'{row.id}' is a row of the settings, which stays: ?files=true deletes its files.", param="files"
        )
    there = not registered or (query.files is True and await library.has(row))
    freed = await library.remove(row) if there else 0
    gone: ModelDeleted = {"id": row.id, "object": "model", "deleted": True, "freed": freed}
    if registry is not None and registered:
        await registry.unregister(row.id)
        if runtime.catalog.get(row.id) != row:
            await runtime.pool.unload(row.id)
        if not there and await library.has(row):
            gone["note"] = (
                "The row is gone; the files stay. Delete them, too, with ?files=true while it is registered."
            )
    elif row.origin != "pulled":
        gone["note"] = f"The files are deleted; the row stays. Pull it again with: roundhouse pull {row.id}"
    return json_response(gone)


def _card(request: Request, model_id: str) -> ModelCard:
    services, runtime = services_of(request), runtime_of(request)
    model_id = runtime.standing(model_id)
    for mode in Mode:
        if alias_of(model_id) == auto_name(mode):
            return _router_row(mode, services.created)
    row = runtime.catalog.resolve(model_id)
    if not caller_of(request).allows(row.id, runtime.catalog):
        raise NotPermitted.of_model(row.id)
    views = {view.model: view for view in runtime.pool.snapshot().models}
    return describe(row, views.get(row.id), runtime, services.created, runtime.unavailable(row))


@route(
    router,
    "POST",
    "/v1/models/{model_id:path}/load",
    Contract(reads=LoadRequest, optional=True, answers=ModelCard, admin=True, calls_model=True),
)
async def load_model(request: Request, model_id: str, body: LoadRequest) -> Response:
    """Load a local model now, perhaps with options of this load; the answer comes when it is ready."""
    runtime = runtime_of(request)
    row = local_row(runtime, model_id)
    options = load_options(
        row,
        context=body.context,
        slots=body.slots,
        kv_cache=body.kv_cache,
        quantization=body.quantization,
        options=body.options,
    )
    if options:
        chosen = row.model_copy(update={"options": {**row.options, **options}})
        guard = row_guard(request)
        if guard is not None:
            with named_as_given(row, kv_cache=body.kv_cache, quantization=body.quantization):
                await asyncio.to_thread(guard.check_options, chosen, options)
        check_window(chosen, row, runtime.catalog.window(row.id))
    async with Guard(request, services_of(request).in_flight):
        on_use = runtime.on_use
        block = runtime.unavailable(row)
        if on_use is not None and on_use.enabled and block is not None and block.code == "not_pulled":
            await on_use.fetch(row.id, caller_of(request))
        try:
            view = await runtime.pool.load(row, keep_alive=body.keep_alive, options=options, force=body.force)
        except ModelTooLarge as error:
            if not options:
                raise
            raise refused(error, options) from None
    return json_response(describe(row, view, runtime, services_of(request).created, runtime.unavailable(row)))


@route(
    router,
    "POST",
    "/v1/models/{model_id:path}/unload",
    Contract(reads=UnloadRequest, optional=True, answers=Unloaded, admin=True, raises=(CapabilityMismatch,)),
)
async def unload_model(request: Request, model_id: str, body: UnloadRequest) -> Response:
    """Wait for a model's requests to end, then stop its worker; with ``force`` they end with an error."""
    runtime = runtime_of(request)
    row = local_row(runtime, model_id)
    was_loaded = await runtime.pool.unload(row.id, force=body.force)
    return json_response({"id": row.id, "object": "model", "unloaded": was_loaded})


def auto_name(mode: Mode) -> str:
    """The name by which a caller asks the router to choose: ``auto``, ``auto:fast``..."""
    return "auto" if mode is Mode.AUTO else f"auto:{mode.value}"


def describe(
    row: Model, view: WorkerView | None, runtime: Runtime, created: int, block: Block | None
) -> ModelCard:
    """The card of a row; ``view`` is its worker, if it has one, and ``block`` says why it cannot answer."""
    local = row.local
    loaded = view is not None and view.state.value in ("ready", "draining")
    return {
        "id": row.id,
        "object": "model",
        "created": created,
        "owned_by": row.provider,
        "name": row.name,
        "aliases": list(row.aliases),
        "family": row.family,
        "license": row.license,
        "capabilities": sorted(capability.value for capability in row.capabilities),
        "context_window": row.limits.context_window,
        "max_output_tokens": row.limits.max_output_tokens,
        "max_input_tokens": row.limits.max_input_tokens,
        "dimensions": row.limits.dimensions,
        "quantization": row.size.quantization,
        "parameter_count": row.size.parameters,
        "voices": list(row.voices),
        "languages": list(row.languages),
        "tags": sorted(row.tags),
        "local": local,
        "engine": row.engine,
        "endpoint": row.source.endpoint if isinstance(row.source, UpstreamSource) else None,
        "wire": wire_of(row, runtime.catalog),
        "device": view.device if view is not None else row.device,
        "state": view.state.value if view is not None else ("stopped" if local else None),
        "loaded": loaded,
        "downloaded": runtime.downloaded(row) if local else None,
        "key_configured": None if local else runtime.has_key(row),
        "available": block is None,
        "unavailable_reason": None if block is None else block.reason,
        "price": row.price.model_dump(),
        "shutdown_date": None if row.ends is None else row.ends.isoformat(),
        "successor": row.successor,
        "parameters": None if row.parameters is None else sorted(row.parameters),
        "origin": row.origin,
        "registered": runtime.registry is not None and runtime.registry.has(row.id),
    }


def _router_row(mode: Mode, created: int) -> ModelCard:
    return {
        "id": auto_name(mode),
        "object": "model",
        "created": created,
        "owned_by": "roundhouse",
        "router": True,
        "mode": mode.value,
    }


def local_row(runtime: Runtime, model_id: str) -> Model:
    """The row of a local model. Raises CapabilityMismatch for another server's, and ModelNotFound."""
    row = runtime.catalog.resolve(model_id)
    if not row.local:
        raise CapabilityMismatch(
            f"'{row.id}' is served by another server; only local models have a worker here.", param="model"
        )
    return row


def row_guard(request: Request) -> RowGuard | None:
    """The bounds of a row from this request; ``None`` where another process has the rows."""
    settings, registry = services_of(request).settings, runtime_of(request).registry
    if registry is None:
        return None
    return registry.guard(
        settings.models,
        at_home=settings.server.loopback and caller_of(request) is ANONYMOUS,
        folders=settings.discovery.folders,
    )


def library_of(runtime: Runtime) -> Library:
    """The models on disk. Raises NotFound where another process has them."""
    if runtime.library is None:
        raise NotFound("This server keeps no models.")
    return runtime.library


def speakers(runtime: Runtime) -> list[Model]:
    """The models that speak."""
    return [row for row in runtime.catalog.models() if Capability.SPEAK in row.capabilities]
