"""The plan that the policy returns: candidates in order, and the reasons of the excluded models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, NamedTuple, TypeVar, overload

from catalog.errors import EngineMissing
from catalog.model import Model

T = TypeVar("T")

NOT_SET_UP = frozenset(
    {"no_key", "no_engine", "no_device", EngineMissing.code, "not_pulled", "missing_file", "memory"}
)
"""Codes of exclusions that last until someone changes this server's set-up."""
KEYS_REJECTED, KEYS_FORBIDDEN = "keys_rejected", "keys_forbidden"
"""Codes of exclusions by a provider that refuses every key: as invalid, or for this model."""
OVER_BUDGET = "budget"
"""The code of exclusions by a spending cap."""


class Strategy(StrEnum):
    """The way in which the first candidate was chosen.

    ``explicit``: named by the caller; ``pinned``: the model that an alias is pinned to; ``preferred``: named by
    the settings; ``schema``: by its catalogue row, before any observation; ``profile``: by observations;
    ``exploration``: not the best expected, but possibly better.
    """

    EXPLICIT = "explicit"
    PINNED = "pinned"
    PREFERRED = "preferred"
    SCHEMA = "schema"
    PROFILE = "profile"
    EXPLORATION = "exploration"


class Candidate(NamedTuple):
    """A model that can answer, with the figures it was ranked by.

    ``quality`` is in [0, 1]; ``latency`` is expected seconds to the whole answer; ``cost`` is expected
    dollars, ``None`` when unknown. Candidates are ordered by ``score``, which is 1 for an only candidate.
    ``effort`` is the reasoning effort to ask for, where the caller names none.
    """

    model: Model
    score: float
    quality: float
    latency: float | None
    cost: float | None
    failure_domain: str
    reason: str = ""
    effort: str | None = None


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A model that cannot answer this request; ``code`` is for programs, ``reason`` for people.

    ``rest`` is the seconds after which it may answer again, if that is known.
    """

    model: str
    code: str
    reason: str
    rest: float | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """Why a model, or an endpoint, cannot be used at present; ``code`` is for programs, ``reason`` for people.

    ``rest`` is the seconds after which it can be used again, if that is known.
    """

    code: str
    reason: str
    rest: float | None = None


class Lazy(Sequence[T], Generic[T]):
    """A sequence of known length whose items are built on first access.

    A decision over a thousand rows excludes hundreds of them; most callers never read the reasons.
    """

    __slots__ = ("_build", "_items", "_length")

    def __init__(self, length: int, build: Callable[[], Sequence[T]]) -> None:
        self._length = length
        self._build = build
        self._items: Sequence[T] | None = None

    def _built(self) -> Sequence[T]:
        if self._items is None:
            self._items = self._build()
        return self._items

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        return self._built()[index]

    def __iter__(self) -> Iterator[T]:
        return iter(self._built())


@dataclass(frozen=True, slots=True)
class Plan:
    """Candidates in the order to try them; the first is the choice. Without any, no model can answer.

    ``considered`` holds every model that can answer, best score first, for explanations.
    ``pin`` is an alias that must stand for the first candidate from now on; the caller stores it.
    """

    candidates: tuple[Candidate, ...]
    excluded: Sequence[Exclusion]
    strategy: Strategy
    reason: str
    considered: Sequence[Candidate] = ()
    pin: str | None = None
