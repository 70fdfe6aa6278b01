"""Asks one line of a batch: as its endpoint would, as batch workload, and again where waiting helps."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from secrets import token_hex
from types import MappingProxyType
from typing import Any

from catalog.errors import (
    BudgetExceeded,
    NotAuthenticated,
    NotFound,
    QueueFull,
    RateLimited,
    RoundhouseError,
    Unavailable,
    UpstreamError,
    UpstreamQuotaExceeded,
    UpstreamRateLimited,
)
from catalog.types import Json
from routing.facts import Workload
from server.answers.whole import assemble
from server.batches.lines import Door
from server.batches.waits import LINES, Waits
from server.callers import Caller, Origin
from server.runtime import Runtime

TRIES = 6
"""Attempts at a line that an upstream fails. A limit of rate, or an account that is used up, is waited for until
the batch expires."""
LONGEST_WAIT = 60.0
ACCOUNT_WAIT = 300.0
"""Seconds between two tries of a line while the provider's account is used up."""
_NOTED = 3
"""Failed attempts at a line after which the batch says that it waits: few pass by themselves in a moment."""
_AS_BATCH = MappingProxyType({"x-roundhouse-workload": Workload.BATCH.value})


class Asker:
    """Asks the lines of one batch, for the key that made it."""

    def __init__(
        self,
        runtime: Runtime,
        owner: str,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        waits: Waits | None = None,
        between: Callable[[], Callable[[], Awaitable[None]]] | None = None,
    ) -> None:
        """``between()`` makes a function to await after each piece of a line's answer."""
        self._runtime = runtime
        self._owner = owner
        self._sleep = sleep
        self._waits = waits
        self._between = between

    async def ask(self, door: Door, body: Any) -> tuple[str, Json]:
        """The trace of a line and its answer. Raises the error that its endpoint would answer with."""
        tries = 0
        while True:
            try:
                answer = await self.ask_once(door, body)
            except RoundhouseError as error:
                tries += 1
                if not passes(error, tries):
                    raise
                rest, longest = rest_after(error, tries), LONGEST_WAIT
                if isinstance(error, UpstreamQuotaExceeded):
                    longest = ACCOUNT_WAIT
                if self._waits is not None and (tries >= _NOTED or longest == ACCOUNT_WAIT):
                    await self._waits.begin(LINES, error)
            else:
                if self._waits is not None:
                    await self._waits.end(LINES)
                return answer
            await self._sleep(min(longest, rest) * random.uniform(1.0, 1.25))  # noqa: S311 - spreads the tries

    async def ask_once(self, door: Door, body: Any) -> tuple[str, Json]:
        """As :meth:`ask`, without another try."""
        caller = caller_of_owner(self._runtime, self._owner)
        body, stand_in = self._runtime.replaced(body)
        origin = Origin(caller, token_hex(16), _AS_BATCH, stand_in)
        question = await door.ask(body, origin, self._runtime)
        facts = question.job.facts  # a line's own 'routing' does not make it urgent
        intent = replace(facts.intent, workload=Workload.BATCH)
        job = replace(question.job, facts=replace(facts, intent=intent))
        async with question.opens(self._runtime, job, caller) as answer:
            between = None if self._between is None else self._between()
            value = question.shape(await assemble(answer, question.assembler, between))
        if question.keep is not None:
            await question.keep(value)
        return job.trace, value


def caller_of_owner(runtime: Runtime, owner: str) -> Caller:
    """The caller that a record belongs to, as its key is now.

    Raises NotAuthenticated for a virtual key that was revoked or has expired.
    """
    if runtime.keys is None or not owner.startswith("key-"):
        return Caller(owner)
    try:
        info = runtime.keys.get(owner)
    except NotFound:
        info = None
    ended = info is None or info.revoked_at is not None
    if ended or (info is not None and info.expires_at is not None and info.expires_at <= runtime.storage.now()):
        raise NotAuthenticated("The API key that asked for this was revoked or has expired.")
    return Caller(owner, key=info)


def rest_after(error: RoundhouseError, tries: int) -> float:
    """Seconds until work in the background is asked for again, after so many tries."""
    usual = error.retry_after if error.retry_after is not None else error.usual_retry_after or 1.0
    return max(usual, 2.0 ** min(tries, 6) / 4)


def passes(error: RoundhouseError, tries: int) -> bool:
    """Whether an error may be gone when work in the background is asked for again."""
    if isinstance(error, BudgetExceeded):
        return False
    if isinstance(error, QueueFull | UpstreamRateLimited):
        return True
    if isinstance(error, RateLimited):
        return error.retry_after is not None
    return isinstance(error, Unavailable | UpstreamError) and error.retryable and tries < TRIES
