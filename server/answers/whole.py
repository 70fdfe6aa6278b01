"""Whole answers: what every handler that does not stream has in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import Response

from catalog.errors import NotPermitted, StreamBroken
from routing.calling.dispatcher import Answer, Job
from routing.choosing.policy import is_auto
from routing.facts import Facts
from server.edge.auth import caller_of
from server.edge.disconnect import Guard
from server.services import runtime_of, services_of

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


def permitted(request: Request, facts: Facts) -> Facts:
    """The facts with the models that the caller's key is bound to: the router chooses among those alone.

    Raises NotPermitted for another model named outright.
    """
    caller = caller_of(request)
    if caller.key is None or not caller.key.models:
        return facts
    if not is_auto(facts.requested):
        replicas = runtime_of(request).catalog.replicas(facts.requested)
        if not any(caller.allows(row.id) for row in replicas):
            raise NotPermitted(f"This key may not use the model '{replicas[0].id}'.")
    return replace(facts, allowed=caller.key.models)


def open_answer(request: Request, job: Job[T]) -> AbstractAsyncContextManager[Answer[T]]:
    """Hand a job to the dispatcher, within what the caller's key may do and use.

    Raises as :func:`permitted`, and RateLimited when the key's own limits are used up.
    """
    runtime, caller = runtime_of(request), caller_of(request)
    facts = permitted(request, job.facts)
    if caller.key is not None and runtime.keys is not None:
        runtime.keys.check_and_count(caller.key, facts)
    return runtime.dispatcher.open(job if facts is job.facts else replace(job, facts=facts))


async def whole(request: Request, job: Job[T], assembler: Assembler[T]) -> tuple[Any, dict[str, str]]:
    """The assembled answer and its headers. The client's leaving closes the upstream at once.

    Raises the job's error, or ClientGone.
    """
    async with (
        Guard(request, services_of(request).in_flight),
        open_answer(request, job) as answer,
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
    """JSON, written by orjson; arrays of numpy's may be in it."""
    body = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, status_code=status, headers=headers, media_type="application/json")


def trace_of(request: Request) -> str:
    """The id under which this request's attempts are recorded."""
    trace: str = request.scope["roundhouse.trace"]
    return trace


def key_of(request: Request) -> str:
    """The id of the caller's key, which queues and spend count by."""
    return caller_of(request).id
