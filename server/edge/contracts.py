"""Routes with a contract: what an endpoint reads and answers is said once.

``/openapi.json`` is generated from the contracts (:mod:`server.openapi`), so it cannot say anything else. A route
checks the caller's permission and reads the body and the query before its handler runs::

    @route(router, "POST", "/v1/embeddings", Contract(reads=EmbeddingRequest, answers=EmbeddingList))
    async def create_embeddings(request: Request, body: EmbeddingRequest) -> Response: ...
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from backends.headers import header_list
from catalog.errors import RoundhouseError
from server.edge.auth import require_admin
from server.edge.bodies import check_query, read_json, read_query
from server.edge.callers import with_stand_in
from server.edge.routes import DirectRoute, Handler

JSON_LINES = "application/x-ndjson"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """Request and answer types of a route."""

    reads: type[BaseModel] | None = None
    """The type of the body."""
    form: bool = False
    """The body is a multipart form with these fields, not JSON."""
    json_too: type[BaseModel] | None = None
    """The type of a JSON body that may come in place of the form."""
    own_reading: bool = False
    """The handler reads the body itself."""
    optional: bool = False
    """The body may be missing."""
    query: type[BaseModel] | None = None
    """The type of the query parameters."""
    exact: bool = False
    """A query parameter beyond those of ``query`` is refused; so it is wherever an admin key is needed."""
    answers: Any = None
    """The type of the JSON answer."""
    media: Mapping[str, Any] = field(default_factory=dict)
    """The types of answers in other media types."""
    streams: Any = None
    """The type of each server-sent event's data."""
    lines: Any = None
    """The type of each line of an answer that streams as JSON lines."""
    any_type: bool = False
    """The body is read as JSON whatever its media type says, unless a web page sent it."""
    admin: bool = False
    """An admin key is needed."""
    open: bool = False
    """No key is needed."""
    calls_model: bool = False
    """A model answers: every error of a call may occur, headers describe the choice, and the model that the body
    names may have a stand-in."""
    bare: bool = True
    """It is found without ``/v1`` too."""
    hidden: bool = False
    """The document does not have it: the endpoint only says why it is not served."""
    raises: tuple[type[RoundhouseError], ...] = ()
    """Errors beyond those that the other fields imply."""


class ContractRoute(DirectRoute):
    """A route with a contract."""

    contract: Contract


def route(
    router: APIRouter, method: str, path: str, contract: Contract, *aliases: str
) -> Callable[[Callable[..., Awaitable[Response]]], Callable[..., Awaitable[Response]]]:
    """Add a handler at ``path`` and its ``aliases``, which are not in the schema. GET stands for HEAD too.

    Each is found without ``/v1`` as well, for clients whose base URL lacks it, unless it is an administrator's or
    its contract says otherwise.

    The handler is given the request, the path's parameters by name, and ``query`` and ``body`` if it reads them.
    """

    def add(handler: Callable[..., Awaitable[Response]]) -> Callable[..., Awaitable[Response]]:
        served = _serve(handler, contract)
        places = (path, *aliases)
        if contract.bare and not contract.admin:
            places += tuple(place.removeprefix("/v1") for place in places if place.startswith("/v1/"))
        for place in dict.fromkeys(places):
            added = ContractRoute(
                place,
                served,
                methods=[method, "HEAD"] if method == "GET" else [method],
                tags=router.tags,
                operation_id=handler.__name__,
                include_in_schema=place == path and not contract.hidden,
            )
            added.contract = contract
            router.routes.append(added)
        return handler

    return add


def _naming_unknown(handler: Callable[..., Awaitable[Response]]) -> Callable[..., Awaitable[Response]]:
    """The handler, whose answer names the fields of the body that its type lacks, as a model's answer does."""

    @wraps(handler)
    async def told(request: Request, *body: BaseModel, **given: Any) -> Response:
        response = await handler(request, *body, **given)
        read = body[0] if body else given.get("body")
        unknown = tuple(name for name, value in ((read and read.model_extra) or {}).items() if value is not None)
        if unknown:
            response.headers["x-roundhouse-dropped"] = header_list(unknown)
        return response

    return told


def _serve(handler: Callable[..., Awaitable[Response]], contract: Contract) -> Handler:
    """The handler as a function of the request alone, which reads what the contract says."""
    reads = None if contract.own_reading else contract.reads
    parameters = list(inspect.signature(handler).parameters)
    in_path = [name for name in parameters[1:] if name not in ("body", "query")]

    if reads is not None and not contract.calls_model:
        handler = _naming_unknown(handler)
    exact = contract.exact or contract.admin
    further = contract.query or exact or contract.optional or contract.any_type
    names_model = contract.calls_model and not contract.admin
    if reads is not None and not (in_path or further):
        body_type = reads

        async def serve(request: Request) -> Response:
            body = await read_json(request, body_type)
            return await handler(request, with_stand_in(request, body) if names_model else body)
    else:

        async def serve(request: Request) -> Response:
            if contract.admin:
                require_admin(request)
            if exact:
                check_query(request, contract.query)
            given = {name: request.path_params[name] for name in in_path}
            if contract.query is not None:
                query = read_query(request, contract.query)
                given["query"] = with_stand_in(request, query) if names_model else query
            if reads is not None:
                body = await read_json(request, reads, optional=contract.optional, any_type=contract.any_type)
                given["body"] = with_stand_in(request, body) if names_model else body
            return await handler(request, **given)

    serve.__name__, serve.__doc__ = handler.__name__, handler.__doc__
    # FastAPI reads the path's parameters from the signature.
    serve.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter("request", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Request),
            *(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=str) for name in in_path),
        ]
    )
    return serve
