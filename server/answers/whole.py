"""Whole answers: the assembled answer of a job, as one JSON document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import Response

from catalog.errors import RoundhouseError, StreamBroken
from routing.calling.answer import Answer
from routing.calling.job import Job
from server.edge.callers import caller_of
from server.edge.disconnect import Guard
from server.edge.services import runtime_of, services_of
from server.jobs import Opens, open_job

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class Assembler(Protocol[T_contra]):
    """Collects the items of an answer; ``result`` is the whole. Raises StreamBroken when it is not whole."""

    def add(self, item: T_contra) -> None: ...

    def result(self) -> Any: ...


class SingleItem:
    """Assembles an answer that is one object."""

    def __init__(self) -> None:
        self._item: Any = None

    def add(self, item: Any) -> None:
        self._item = item

    def result(self) -> Any:
        if self._item is None:
            raise StreamBroken("The upstream ended without sending an answer.")
        return self._item


@dataclass(frozen=True, slots=True)
class Question(Generic[T]):
    """A job, and how its items become one document. ``opens`` opens it, and ``keep`` stores the answer."""

    job: Job[T]
    assembler: Callable[[], Assembler[T]]
    shape: Callable[[Any], Any] = lambda value: value
    opens: Opens[T] = open_job
    keep: Callable[[Any], Awaitable[Any]] | None = None


async def assemble(
    answer: Answer[T],
    assembler: Callable[[], Assembler[T]],
    between: Callable[[], Awaitable[None]] | None = None,
) -> Any:
    """The assembled answer.

    An answer that breaks is begun anew by another candidate, with a new ``assembler()``: the caller has seen none
    of it. ``between()`` is awaited after each item. Raises the job's error.
    """
    while True:
        assembled = assembler()
        try:
            async for item in answer:
                assembled.add(item)
                if between is not None:
                    await between()
            return assembled.result()
        except RoundhouseError as error:
            await answer.resume(error)


async def whole(
    request: Request, job: Job[T], assembler: Callable[[], Assembler[T]], opens: Opens[T] = open_job
) -> tuple[Any, dict[str, str]]:
    """The assembled answer and its headers. If the client leaves, the upstream is closed at once.

    ``opens`` opens the job. Raises as :func:`assemble`, or ClientGone.
    """
    async with (
        Guard(request, services_of(request).in_flight),
        opens(runtime_of(request), job, caller_of(request)) as answer,
    ):
        return await assemble(answer, assembler), answer.headers()


async def answer_json(
    request: Request,
    job: Job[T],
    assembler: Callable[[], Assembler[T]],
    shape: Callable[[Any], Any] = lambda value: value,
) -> Response:
    """The assembled answer as JSON."""
    value, headers = await whole(request, job, assembler)
    return json_response(shape(value), headers=headers)


def json_response(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON, written by orjson; it may contain NumPy arrays."""
    body = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, status_code=status, headers=headers, media_type="application/json")
