"""Answers that are made of another one: one with a notice, and the opening of those that go on by themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Protocol

from backends.headers import header_value
from catalog.errors import RoundhouseError
from catalog.types import Json
from routing.calling.answer import Answer

NOTICE = "x-roundhouse-notice"


def with_notice(headers: dict[str, str], sentence: str) -> dict[str, str]:
    """Headers with one more sentence in ``x-roundhouse-notice``."""
    told, before = header_value(sentence), headers.get(NOTICE)
    return {**headers, NOTICE: f"{before}; {told}" if before else told}


class NoticedAnswer(Answer[Json]):
    """An answer with one more sentence in ``x-roundhouse-notice``."""

    def __init__(self, answer: Answer[Json], notice: str) -> None:
        self._answer = answer
        self._notice = notice
        self.trace, self.model = answer.trace, answer.model

    @property
    def spent(self) -> float:
        return self._answer.spent

    @property
    def dropped(self) -> tuple[str, ...]:
        return self._answer.dropped

    def headers(self) -> dict[str, str]:
        return with_notice(self._answer.headers(), self._notice)

    async def resume(self, error: RoundhouseError) -> None:
        await self._answer.resume(error)
        self.model = self._answer.model

    def __aiter__(self) -> AsyncIterator[Json]:
        return aiter(self._answer)


class _Closing(Protocol):
    async def aclose(self) -> None: ...


class Wrapping(AbstractAsyncContextManager[Answer[Json]]):
    """Opens an answer that is made of those of one job after another.

    ``_opening`` opens the job at work, None between two; ``_answer`` is the answer that was given.
    """

    _opening: AbstractAsyncContextManager[Answer[Json]] | None = None
    _answer: _Closing | None = None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._answer is not None
        try:
            await self._answer.aclose()
        finally:
            opening, self._opening = self._opening, None
            ended = None if opening is None else await opening.__aexit__(kind, error, traceback)
        return ended

    async def _end_job(self) -> None:
        opening, self._opening = self._opening, None
        assert opening is not None
        await opening.__aexit__(None, None, None)
