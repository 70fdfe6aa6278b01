"""Lease, call, fall back, record: the one place where a plan becomes calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from backends.base import Upstream
from catalog.model import Model
from routing.facts import Facts
from routing.plan import Plan

T = TypeVar("T")
Call = Callable[[Any, Upstream, Model], AsyncIterator[T]]


@dataclass(frozen=True, slots=True)
class Job(Generic[T]):
    """One request: its facts, and how to ask a backend for the answer.

    ``protocol`` is the capability protocol of :mod:`backends.base` that the backend must have. ``call`` is
    given the backend, the upstream and the catalogue row, and returns the items of the answer.
    """

    facts: Facts
    protocol: type
    call: Call[T]
    trace: str


class Answer(Generic[T]):
    """An answer whose first item is there: iterate it for the items, in order."""

    trace: str
    model: Model
    reason: str
    attempts: int
    dropped: tuple[str, ...]

    def headers(self) -> dict[str, str]:
        """``x-roundhouse-model``, ``-trace``, ``-reason``, ``-attempts`` and, when it applies, ``-dropped``."""
        raise NotImplementedError

    def __aiter__(self) -> AsyncIterator[T]:
        raise NotImplementedError


async def once(awaitable: Awaitable[T]) -> AsyncIterator[T]:
    """The items of an answer that is one object."""
    yield await awaitable


class Dispatcher:
    """Walks a plan until a candidate's first item arrives; after that, never another candidate."""

    def open(self, job: Job[T]) -> AbstractAsyncContextManager[Answer[T]]:
        """Enter: the first item has arrived, or the last candidate's error is raised.

        Leaving the block, for whatever reason, closes the upstream, gives everything back and records the
        attempt's one outcome. Cancelling while entering does the same.
        """
        raise NotImplementedError

    def explain(self, facts: Facts) -> Plan:
        """What :meth:`open` would try, without doing it."""
        raise NotImplementedError
