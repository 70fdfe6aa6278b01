"""The surroundings of a session: the running parts, its caller, and its way to the models."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from secrets import token_hex
from typing import Protocol, TypeVar

from pydantic import BaseModel

from catalog.errors import InvalidRequest, NotAuthenticated, RoundhouseError
from catalog.types import Json
from routing.calling.answer import Answer
from routing.calling.job import Job
from routing.reading.intent import read_intent
from server.callers import Caller, Origin
from server.edge.admission import InFlight
from server.jobs import open_job
from server.runtime import Runtime
from server.storage.settings import RealtimeSettings

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


class Outlet(Protocol):
    """Sends events to the client, one whole event at a time, in the order of the calls."""

    async def send(self, event: Json) -> None: ...

    def fail(self, error: BaseException | None) -> None:
        """End the session: one of its tasks failed, or the other side ended it."""
        ...


@dataclass(frozen=True, slots=True)
class SessionContext:
    """``headers`` are those of the handshake, which may state an intent; ``clock`` is monotonic seconds.

    ``on_error`` is called with the code of each error, ``on_reply`` with the seconds from the end of a turn to the
    first sound of its answer.
    """

    runtime: Runtime
    caller: Caller
    headers: Mapping[str, str]
    in_flight: InFlight
    settings: RealtimeSettings
    clock: Callable[[], float]
    on_error: Callable[[str], None]
    on_reply: Callable[[float], None]

    def asked(self, body: M) -> tuple[M, Origin]:
        """A body with the model that stands in for the one it names, and the origin of a job of its own trace.

        Raises NotAuthenticated once the caller's key is revoked or expired, ModelNotFound for a stand-in.
        """
        caller = self.caller
        if caller.key is not None and self.runtime.keys is not None:
            info = self.runtime.keys.holder(caller.id)
            if info is None:
                raise NotAuthenticated("The API key of this session is expired or revoked.")
            caller = replace(caller, key=info)
        body, stand_in = self.runtime.replaced(body)
        return body, Origin(caller, token_hex(16), self.headers, stand_in)

    def within(self, job: Job[T], routing: Json | None, strict: bool | None) -> Job[T]:
        """See :func:`within`."""
        return within(job, routing, strict, self.headers)

    def open(self, job: Job[T], caller: Caller) -> AbstractAsyncContextManager[Answer[T]]:
        """Open a job as a handler does."""
        return self.working(open_job(self.runtime, job, caller))

    def open_idle(self, job: Job[T], caller: Caller) -> AbstractAsyncContextManager[Answer[T]]:
        """Open a job on which no model is at work for most of its time."""
        return open_job(self.runtime, job, caller)

    @asynccontextmanager
    async def working(self, opening: AbstractAsyncContextManager[Answer[T]]) -> AsyncIterator[Answer[T]]:
        """The same opening, which counts among the requests that models work on."""
        work = _Work()
        self.in_flight.begin(work)
        try:
            async with opening as answer:
                yield answer
        finally:
            self.in_flight.works.discard(work)


def within(job: Job[T], routing: Json | None, strict: bool | None, headers: Mapping[str, str]) -> Job[T]:
    """The job of a part of a response, under the session's ``routing`` and ``strict`` as its chat is.

    What these ask of an answer's text is not asked of its sound. Raises InvalidRequest for an unknown intent.
    """
    asked = read_intent(job.facts.requested, routing, headers)
    strict = asked.strict or bool(strict)
    intent = replace(asked, strict=strict, task=None, require=frozenset(), escalate=False, timings=False)
    return replace(job, facts=replace(job.facts, intent=intent))


@asynccontextmanager
async def items_of(answer: Answer[T]) -> AsyncIterator[AsyncIterator[T]]:
    """The items of an answer, closed with the block."""
    items = aiter(answer)
    try:
        yield items
    finally:
        if isinstance(items, AsyncGenerator):
            await items.aclose()


@dataclass(eq=False, slots=True)
class _Work:
    """Work of a session. The session itself is told when the server stops."""

    aborted: RoundhouseError | None = field(default=None)

    def abort(self, error: RoundhouseError) -> None:
        self.aborted = error


def refused(code: str, message: str, *, param: str | None = None) -> InvalidRequest:
    """A refusal with one of the codes of OpenAI's Realtime API, which its clients look for."""
    error = InvalidRequest(message, param=param)
    error.code = code
    return error
