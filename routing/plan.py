"""What the policy answers: an ordered list of candidates, and why the others are not in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, NamedTuple, TypeVar, overload

from catalog.model import Model

T = TypeVar("T")


class Strategy(StrEnum):
    """How the first candidate came to be first.

    ``explicit``: named by the caller; ``pinned``: the one model an alias stands for; ``preferred``: named
    by the settings; ``schema``: by its catalogue row, while nothing was observed; ``profile``: by what was
    observed; ``exploration``: drawn by its chance to be better than the best expected.
    """

    EXPLICIT = "explicit"
    PINNED = "pinned"
    PREFERRED = "preferred"
    SCHEMA = "schema"
    PROFILE = "profile"
    EXPLORATION = "exploration"


class Candidate(NamedTuple):
    """One model that can answer, with the numbers it was chosen by.

    ``quality`` is in [0, 1]; ``latency`` is expected seconds to the whole answer; ``cost`` is expected
    dollars, ``None`` when unknown. ``score`` is what the order follows, 1 for a model that stands alone.
    """

    model: Model
    score: float
    quality: float
    latency: float | None
    cost: float | None
    failure_domain: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A model that cannot answer; ``code`` is for programs, ``reason`` for people."""

    model: str
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Block:
    """Why a model, or an endpoint, cannot be used at present; ``code`` is for programs, ``reason`` for people."""

    code: str
    reason: str


class Lazy(Sequence[T], Generic[T]):
    """A sequence of known length whose items are made when somebody looks at one.

    A decision over a thousand rows excludes hundreds of them; their reasons are written only for a person
    or a program that asks.
    """

    __slots__ = ("_items", "_length", "_make")

    def __init__(self, length: int, make: Callable[[], Sequence[T]]) -> None:
        self._length = length
        self._make = make
        self._items: Sequence[T] | None = None

    def _made(self) -> Sequence[T]:
        if self._items is None:
            self._items = self._make()
        return self._items

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        return self._made()[index]

    def __iter__(self) -> Iterator[T]:
        return iter(self._made())


@dataclass(frozen=True, slots=True)
class Plan:
    """Candidates in the order to try them; the first is the choice. Empty: nothing can answer.

    ``considered`` holds every model that can answer, best score first, for who wants an explanation.
    ``pin`` is the alias that this choice fixes from now on: whoever carries the plan out remembers it.
    """

    candidates: tuple[Candidate, ...]
    excluded: Sequence[Exclusion]
    strategy: Strategy
    reason: str
    considered: Sequence[Candidate] = ()
    pin: str | None = None
