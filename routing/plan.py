"""What the policy answers: an ordered list of candidates, and why the others are not in it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from catalog.model import Model


class Strategy(StrEnum):
    """How the first candidate came to be first."""

    EXPLICIT = "explicit"
    PINNED = "pinned"
    SCHEMA = "schema"
    PROFILE = "profile"
    EXPLORATION = "exploration"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One model that can answer, with the numbers it was chosen by.

    ``quality`` is in [0, 1]; ``latency`` is expected seconds to the whole answer; ``cost`` is expected
    dollars, ``None`` when unknown. ``score`` is what the order follows.
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
class Plan:
    """Candidates in the order to try them; the first is the choice. Empty: nothing can answer."""

    candidates: tuple[Candidate, ...]
    excluded: tuple[Exclusion, ...]
    strategy: Strategy
    reason: str
