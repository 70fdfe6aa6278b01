"""GET /v1/admin/recommendations: the models that this machine should run, for administrators."""

from __future__ import annotations

import asyncio
from typing import Literal, NotRequired

from fastapi import APIRouter, Request
from starlette.responses import Response
from typing_extensions import TypedDict

from catalog.errors import ModelNotFound
from server.answers.whole import json_response
from server.edge.contracts import Contract, route
from server.edge.services import runtime_of, services_of
from server.runtime import Runtime
from server.settings import Settings

router = APIRouter(tags=["models"])


class Recommendation(TypedDict):
    """The best model for a capability that fits on this machine; ``model`` is null where none does.

    ``size_bytes`` are to be fetched, ``memory_bytes`` are taken when it is loaded, with the KV cache of
    ``requests_at_once`` requests of ``context`` tokens. ``tokens_per_second`` is estimated from the bandwidth of
    the device's memory. ``downloaded``: it is here already. ``needs_token``: the hub asks for a token.
    """

    capability: str
    model: str | None
    name: NotRequired[str]
    engine: NotRequired[str]
    repository: NotRequired[str]
    quantization: NotRequired[str | None]
    size_bytes: NotRequired[int]
    size_is_exact: NotRequired[bool]
    device: NotRequired[str]
    context: NotRequired[int]
    requests_at_once: NotRequired[int]
    memory_bytes: NotRequired[int]
    tokens_per_second: NotRequired[float | None]
    license: NotRequired[str]
    needs_token: NotRequired[bool]
    pull: NotRequired[str]
    downloaded: NotRequired[bool]


class RecommendationList(TypedDict):
    object: Literal["list"]
    data: list[Recommendation]


@route(router, "GET", "/v1/admin/recommendations", Contract(answers=RecommendationList, admin=True))
async def list_recommendations(request: Request) -> Response:
    """Recommend a model for each capability, as ``roundhouse recommend`` does."""
    settings, runtime = services_of(request).settings, runtime_of(request)
    # In a thread: the first time it reads the catalogue and measures the memory's bandwidth.
    found = await asyncio.to_thread(_recommended, settings, runtime)
    return json_response({"object": "list", "data": found})


def _recommended(settings: Settings, runtime: Runtime) -> list[Recommendation]:
    from server.advising.models import as_json, recommended

    return [
        {"capability": advice.capability.value, "model": None}
        if advice.choice is None
        else {
            "capability": advice.capability.value,
            **as_json(advice.choice),  # type: ignore[typeddict-item]
            "downloaded": _is_here(advice.choice.entry.id, runtime),
        }
        for advice in recommended(settings)
    ]


def _is_here(name: str, runtime: Runtime) -> bool:
    try:
        row = runtime.catalog.resolve(name)
    except ModelNotFound:
        return False
    return row.local and runtime.downloaded(row)
