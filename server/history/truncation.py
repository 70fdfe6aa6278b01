"""``truncation: "auto"``: the oldest turns of a conversation that does not fit are left out and counted."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from types import TracebackType

import orjson

from backends.wire.chat import ChatRequest, Message
from catalog.errors import ContextLengthExceeded
from catalog.types import Json
from routing.calling.answer import Answer
from routing.calling.job import Job
from server.callers import Caller, Origin
from server.jobs import Opens, chat_job, open_job
from server.runtime import Runtime

TRIES = 16
_FOR_THE_ANSWER = 0.9
"""The share of a context window that the prompt may fill, if the caller does not bound its answer."""
_BLINDLY = 0.75
"""The share of a prompt that is kept where nothing says by how much it is too long."""


class Truncating(AbstractAsyncContextManager[Answer[Json]]):
    """Opens the job of a chat; while it exceeds the context window of every candidate, with fewer turns.

    Entering raises what :func:`server.jobs.open_job` raises; ContextLengthExceeded if the newest turn alone is too
    long.
    """

    def __init__(self, runtime: Runtime, job: Job[Json], caller: Caller, *, origin: Origin) -> None:
        self._runtime = runtime
        self._job = job
        self._caller = caller
        self._origin = origin
        self._opening: AbstractAsyncContextManager[Answer[Json]] | None = None

    async def __aenter__(self) -> Answer[Json]:
        job, tries = self._job, TRIES
        while True:
            opening = open_job(self._runtime, job, self._caller)
            try:
                answer = await opening.__aenter__()
            except ContextLengthExceeded as error:
                shorter = self._shorter(job, error) if tries else None
                if shorter is None:
                    raise
                job, tries = shorter, tries - 1
                continue
            self._opening = opening
            return answer

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._opening is not None
        return await self._opening.__aexit__(kind, error, traceback)

    def _shorter(self, job: Job[Json], error: ContextLengthExceeded) -> Job[Json] | None:
        chat = job.request
        assert isinstance(chat, ChatRequest)
        share = _BLINDLY
        if error.limit and error.requested and error.requested > 0:
            room = max(error.limit / 2, error.limit - (chat.output_limit or 0))
            share = min(0.95, _FOR_THE_ANSWER * room / error.requested)
        kept = newest(chat.messages, share)
        if len(kept) == len(chat.messages):
            return None
        assert isinstance(self._job.request, ChatRequest)
        dropped = len(self._job.request.messages) - len(kept)
        made = chat_job(chat.model_copy(update={"messages": kept}), self._origin)
        left_out = (*self._job.left_out, f"input (oldest {dropped} messages)")
        return replace(made, kept=self._job.kept, left_out=left_out)


def opener(truncation: str | None, origin: Origin) -> Opens[Json]:
    """How the job of a Responses request is opened: with ``truncation: "auto"``, shorter if it must be."""
    return partial(Truncating, origin=origin) if truncation == "auto" else open_job


def newest(messages: list[Message], share: float) -> list[Message]:
    """The instructions at the beginning, and the newest turns that take at most ``share`` of the whole length.

    A turn begins with a message of the user, so that calls of tools stay with their results. At least the oldest
    turn is left out, and the newest one stays.
    """
    first = next((at for at, message in enumerate(messages) if message.role not in ("system", "developer")), 0)
    starts = [at for at in range(first + 1, len(messages)) if messages[at].role == "user"]
    if not starts:
        return messages
    sizes = [len(orjson.dumps(message.model_dump(mode="json", exclude_unset=True))) for message in messages]
    room = share * sum(sizes) - sum(sizes[:first])
    left = sum(sizes[first:])
    passed = first
    for start in starts:
        left -= sum(sizes[passed:start])
        passed = start
        if left <= room:
            break
    return [*messages[:first], *messages[passed:]]
