"""Whole answers: what every handler that does not stream has in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import Response

from catalog.errors import StreamBroken
from routing.dispatch import Job
from server.auth import caller_of
from server.disconnect import Guard
from server.services import house_of, services_of

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class Assembler(Protocol[T_contra]):
    """Collects the items of an answer; ``result`` is the whole. Raises StreamBroken when it is not whole."""

    def add(self, item: T_contra) -> None: ...

    def result(self) -> Any: ...


class One:
    """Expects the one object of an answer that does not come in pieces."""

    def __init__(self) -> None:
        self._item: Any = None

    def add(self, item: Any) -> None:
        self._item = item

    def result(self) -> Any:
        if self._item is None:
            raise StreamBroken("The answer ended before it came.")
        return self._item


async def whole(request: Request, job: Job[T], assembler: Assembler[T]) -> tuple[Any, dict[str, str]]:
    """The assembled answer and its headers. The client's leaving closes the upstream at once.

    Raises the job's error, or ClientGone.
    """
    async with (
        Guard(request.receive, services_of(request).in_flight),
        house_of(request).dispatcher.open(job) as answer,
    ):
        async for item in answer:
            assembler.add(item)
        return assembler.result(), answer.headers()


async def answer_json(
    request: Request, job: Job[T], assembler: Assembler[T], shape: Callable[[Any], Any] = lambda value: value
) -> Response:
    """The assembled answer as JSON."""
    value, headers = await whole(request, job, assembler)
    return json_response(shape(value), headers=headers)


def json_response(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON, written by orjson."""
    return Response(orjson.dumps(value), status_code=status, headers=headers, media_type="application/json")


def trace_of(request: Request) -> str:
    """The id under which this request's attempts are recorded."""
    trace: str = request.scope["roundhouse.trace"]
    return trace


def key_of(request: Request) -> str:
    """The id of the caller's key, which queues and spend count by."""
    return caller_of(request).id
