"""Endpoints: a handler, and the contract that says once what it reads and answers.

``/openapi.json`` is made from the contracts (:mod:`server.openapi`), so it cannot say anything else. An endpoint
checks the caller's permission and reads its body and its query before the handler runs::

    @endpoint(router, "POST", "/v1/embeddings", reads=EmbeddingRequest, answers=EmbeddingList, calls_model=True)
    async def create_embeddings(request: Request, body: EmbeddingRequest) -> Response: ...
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from catalog.errors import RoundhouseError
from server.edge.auth import require_admin
from server.edge.bodies import read_json, read_query
from server.edge.routes import DirectRoute, Handler


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """What one endpoint reads and answers.

    ``reads`` is the type of the body: JSON, or the fields of a multipart form if ``form``; ``own_reading`` leaves
    reading it to the handler, and ``optional`` lets it be missing. ``query`` is the type of the query parameters.
    ``answers`` is the type of the JSON answer, ``media`` maps other media types to types, ``streams`` is
    the type of each server-sent event's data. ``admin`` endpoints need an admin key, ``open`` ones need no key.
    ``calls_model`` implies every error of a call, and the headers about the choice. ``raises`` lists errors beyond
    those that the other fields imply.
    """

    reads: type[BaseModel] | None = None
    form: bool = False
    own_reading: bool = False
    optional: bool = False
    query: type[BaseModel] | None = None
    answers: Any = None
    media: Mapping[str, Any] = field(default_factory=dict)
    streams: Any = None
    admin: bool = False
    open: bool = False
    calls_model: bool = False
    raises: tuple[type[RoundhouseError], ...] = ()


class ContractRoute(DirectRoute):
    """A route with a contract. ``contract`` is empty for the aliases of a path, which are not in the schema."""

    contract: Contract


def endpoint(
    router: APIRouter, method: str, path: str, *aliases: str, **contract: Any
) -> Callable[[Callable[..., Awaitable[Response]]], Callable[..., Awaitable[Response]]]:
    """Add a handler at ``path`` and its ``aliases``; ``contract`` holds the fields of :class:`Contract`.

    The handler is given the request, the path's parameters by name, ``query`` and ``body`` if it reads them.
    """
    promised = Contract(**contract)

    def add(handler: Callable[..., Awaitable[Response]]) -> Callable[..., Awaitable[Response]]:
        served = _serve(handler, promised)
        for place in (path, *aliases):
            route = ContractRoute(
                place,
                served,
                methods=[method],
                tags=router.tags,
                operation_id=handler.__name__,
                include_in_schema=place == path,
            )
            route.contract = promised
            router.routes.append(route)
        return handler

    return add


def _serve(handler: Callable[..., Awaitable[Response]], contract: Contract) -> Handler:
    """The handler as a function of the request alone, which reads what the contract says."""
    reads = None if contract.own_reading else contract.reads
    parameters = list(inspect.signature(handler).parameters)
    in_path = [name for name in parameters[1:] if name not in ("body", "query")]

    if reads is not None and not (in_path or contract.query or contract.admin or contract.optional):
        body_type = reads

        async def serve(request: Request) -> Response:
            return await handler(request, await read_json(request, body_type))
    else:

        async def serve(request: Request) -> Response:
            if contract.admin:
                require_admin(request)
            given = {name: request.path_params[name] for name in in_path}
            if contract.query is not None:
                given["query"] = read_query(request, contract.query)
            if reads is not None:
                given["body"] = await read_json(request, reads, optional=contract.optional)
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
