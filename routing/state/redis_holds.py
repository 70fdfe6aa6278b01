"""Decisions that Redis makes, many in one round trip.

A burst of requests asks for money at the same moment. With a connection each, opening them takes longer than a
capped call may wait; so what is asked while a round trip is under way goes together in the next one, on one
connection. Each script runs by itself, atomically, in the order in which it was asked.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redis.asyncio import Redis

MOST = 500
"""Scripts in one round trip."""


TURNS = 25
"""Into so many parts patience is cut."""


async def answered(decision: asyncio.Future[int], patience: float) -> bool:
    """Whether the answer is there within ``patience`` seconds of a loop that is not busy.

    The time is counted in turns: a loop that has a burst of requests to read must not take its own delay for
    the store's, and spend without asking.
    """
    for _ in range(TURNS):
        done, _ = await asyncio.wait((decision,), timeout=patience / TURNS)
        if done:
            return True
    return False


@dataclass(slots=True)
class _Question:
    script: str
    keys: Sequence[str]
    arguments: Sequence[Any]
    answer: asyncio.Future[int]


class Decisions:
    """Asks scripts that answer a number. ``errors`` are what the client raises when Redis is away."""

    def __init__(self, client: Redis, errors: tuple[type[Exception], ...]) -> None:
        self._client = client
        self._errors = errors
        self._questions: deque[_Question] = deque()
        self._asked = asyncio.Event()
        self._task = asyncio.create_task(self._ask_all(), name="state-redis-decisions")

    def ask(self, script: str, keys: Sequence[str], arguments: Sequence[Any]) -> asyncio.Future[int]:
        """The script's answer, or the error of the round trip. A future cancelled in time is never sent."""
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._questions.append(_Question(script, keys, arguments, answer))
        self._asked.set()
        return answer

    async def close(self) -> None:
        """Ask no more; whoever waits is told that nobody will answer."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        for question in self._questions:
            question.answer.cancel()
        self._questions.clear()

    async def _ask_all(self) -> None:
        while True:
            await self._asked.wait()
            batch = [self._questions.popleft() for _ in range(min(MOST, len(self._questions)))]
            if not self._questions:
                self._asked.clear()
            wanted = [question for question in batch if not question.answer.done()]
            if wanted:
                await self._ask(wanted)

    async def _ask(self, questions: list[_Question]) -> None:
        try:
            async with self._client.pipeline(transaction=False) as pipe:
                for question in questions:
                    pipe.eval(question.script, len(question.keys), *question.keys, *question.arguments)
                answers = await pipe.execute(raise_on_error=False)
        except self._errors as error:
            answers = [error] * len(questions)
        for question, answer in zip(questions, answers, strict=True):
            if question.answer.done():
                continue
            if isinstance(answer, BaseException):
                question.answer.set_exception(answer)
            else:
                question.answer.set_result(int(answer))
