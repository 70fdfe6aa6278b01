"""POST /api/pull and DELETE /api/delete for administrators, and why there is no copying, creating and pushing."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from catalog.catalog import Catalog
from catalog.errors import (
    InvalidRequest,
    PayloadTooLarge,
    PullError,
    RequestTimeout,
    UnsupportedMediaType,
)
from catalog.names.ollama import hub_address, untagged
from server.answers.streams import stream_work
from server.answers.whole import json_response
from server.api.management.models import library_of
from server.edge.contracts import JSON_LINES, Contract, route
from server.edge.disconnect import Guard
from server.edge.services import runtime_of, services_of
from server.wires.ollama.answers import PullLine
from server.wires.ollama.requests import OllamaModelRequest, OllamaPullRequest

router = APIRouter(tags=["ollama"])

_PULL = Contract(
    reads=OllamaPullRequest, answers=PullLine, lines=PullLine, admin=True, any_type=True, raises=(PullError,)
)
_BODY_ERRORS = (RequestTimeout, PayloadTooLarge, UnsupportedMediaType)


@route(router, "POST", "/api/pull", _PULL)
async def ollama_pull(request: Request, body: OllamaPullRequest) -> Response:
    """Pull a model of the catalogue, or one of the hub as ``hf.co/OWNER/REPOSITORY[:QUANTISATION]``.

    The lines tell the progress; the last one has the status ``success``, or an error.
    """
    from server.wires.ollama.pulling import SUCCESS, PullEncoder

    runtime, library = runtime_of(request), library_of(runtime_of(request))
    address = hub_address(body.model)
    what = f"hub:{address}" if address else _wanted(body.model, runtime.catalog)
    await library.check(what)
    if body.stream is not False:
        return await stream_work(request, library.pull(what), PullEncoder(), JSON_LINES)
    async with Guard(request, services_of(request).in_flight), library.pull(what) as events:
        async for _ in events:
            pass
    return json_response(SUCCESS)


@route(
    router,
    "DELETE",
    "/api/delete",
    Contract(reads=OllamaModelRequest, admin=True, any_type=True, raises=_BODY_ERRORS),
)
async def ollama_delete(request: Request, body: OllamaModelRequest) -> Response:
    """Delete the files of a model on this machine. A built-in model can be pulled again."""
    runtime = runtime_of(request)
    row = runtime.catalog.resolve(body.model)
    await library_of(runtime).remove(row)
    return Response(status_code=200)


_ELSEWHERE = {
    "/api/create": "Models are not created here: add a [[model]] row to the settings, or pull one with /api/pull.",
    "/api/copy": "Models are not copied here: a row of the settings gives a model more names with 'aliases'.",
    "/api/push": "Models are not pushed from here: no registry belongs to this server.",
    "/api/blobs/{digest}": "Model files are not uploaded here: pull a model with /api/pull, or name a file in a "
    "[[model]] row of the settings.",
}


def _add_refusal(path: str, reason: str) -> None:
    async def refuse(request: Request) -> Response:
        del request
        raise InvalidRequest(reason)

    refuse.__name__ = f"refuse_{path.split('/')[2]}"
    route(router, "POST", path, Contract(hidden=True))(refuse)


for _path, _reason in _ELSEWHERE.items():
    _add_refusal(_path, _reason)


def _wanted(name: str, catalog: Catalog) -> str:
    return name if catalog.knows(name) else untagged(name)
