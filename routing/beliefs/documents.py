"""Documents of what was learned, to store and share: one per model, and one of output lengths.

A document is validated as strictly as a request: every number finite and in its range, scores within counts. An
invalid one is skipped, so a damaged store loses learning but never prevents a start.

Several gateways share one store, in which the last write wins. A document therefore counts how many observations
of each gateway it includes, and a gateway that adopts it adds its own later ones, so none is lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from catalog.index import Floats
from routing.beliefs.posterior import COMPLEXITIES, COMPLEXITY_AT, SHAPE, TASK_AT, TASKS, Evidence
from routing.beliefs.speed import SIZES, Pace
from routing.facts import Complexity, Task

_STRICT = ConfigDict(extra="forbid", frozen=True)
_JOURNAL_SIZE = 256
MAX_ORIGIN = 200
"""Characters of the origin of an imported prior."""
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Log = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
Sizes = Annotated[list[Log], Field(min_length=SIZES, max_length=SIZES)]
Weights = Annotated[list[Amount], Field(min_length=SIZES, max_length=SIZES)]


def _today(complexity: Any) -> Any:
    """Code was a complexity of its own before it was a task that may be simple or complex."""
    return Complexity.MEDIUM if complexity == "code" else complexity


class Cell(BaseModel):
    """Sums at one task and complexity: ``scores`` of ``counts`` observations, and the same of hints."""

    model_config = _STRICT
    task: Task
    complexity: Annotated[Complexity, BeforeValidator(_today)]
    scores: Amount = 0.0
    counts: Amount = 0.0
    hint_scores: Amount = 0.0
    hint_counts: Amount = 0.0

    @model_validator(mode="after")
    def _scores_within_counts(self) -> Cell:
        if self.scores > self.counts + 1e-6 or self.hint_scores > self.hint_counts + 1e-6:
            raise ValueError("scores exceed counts")
        return self


class QualityDocument(BaseModel):
    """Evidence of one model's quality. The change detector's sums are not stored; it starts again at zero."""

    model_config = _STRICT
    prior: dict[Task, Share]
    strength: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
    cells: Annotated[list[Cell], Field(max_length=SHAPE[0] * SHAPE[1])] = []
    seen: Amount = 0.0
    changes: Annotated[int, Field(ge=0)] = 0
    imported: Annotated[str, Field(max_length=MAX_ORIGIN)] = ""


class PaceDocument(BaseModel):
    """One model's speed and reliability, as in :class:`routing.beliefs.speed.Pace`."""

    model_config = _STRICT
    first_logs: Sizes
    first_weights: Weights
    token_logs: Sizes
    token_weights: Weights
    busy: Amount = 0.0
    attempts: Amount = 0.0
    failures: Amount = 0.0
    failed_at: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0

    @model_validator(mode="after")
    def _failures_within_attempts(self) -> PaceDocument:
        if self.failures > self.attempts + 1e-6:
            raise ValueError("more failures than attempts")
        return self


class ModelProfile(BaseModel):
    """The profile of a model that one installation learned, for another to start with."""

    model_config = _STRICT
    quality: QualityDocument | None = None
    pace: PaceDocument | None = None


class ModelDocument(BaseModel):
    """Everything learned of one model. ``heard`` is the number of observations included, by writer."""

    model_config = _STRICT
    version: Literal[1] = 1
    writer: Annotated[str, Field(max_length=200)]
    heard: Annotated[dict[str, Annotated[int, Field(ge=0)]], Field(max_length=1000)] = {}
    quality: QualityDocument | None = None
    pace: PaceDocument | None = None


class Observation(NamedTuple):
    """An observation of this process, kept to be added again to evidence that lacks it."""

    number: int
    task: int
    complexity: int
    score: float
    confidence: float
    hint: bool


@dataclass(slots=True)
class Journal:
    """The latest observations of one model by this process, numbered, and the counts of other writers."""

    number: int
    kept: deque[Observation]
    heard: dict[str, int]

    @classmethod
    def new(cls) -> Journal:
        """An empty journal."""
        return cls(0, deque(maxlen=_JOURNAL_SIZE), {})

    def note(self, task: int, complexity: int, score: float, confidence: float, *, hint: bool) -> None:
        """Append an observation."""
        self.number += 1
        self.kept.append(Observation(self.number, task, complexity, score, confidence, hint))


def write_quality(evidence: Evidence) -> QualityDocument:
    """The document of evidence; cells without observations are left out."""
    cells = [
        Cell(
            task=TASKS[task],
            complexity=COMPLEXITIES[complexity],
            scores=min(evidence.scores[task, complexity], evidence.counts[task, complexity]),
            counts=evidence.counts[task, complexity],
            hint_scores=min(evidence.hint_scores[task, complexity], evidence.hint_counts[task, complexity]),
            hint_counts=evidence.hint_counts[task, complexity],
        )
        for task, complexity in np.argwhere(evidence.counts + evidence.hint_counts > 0)
    ]
    return QualityDocument(
        prior={task: float(evidence.prior[at]) for task, at in TASK_AT.items()},
        strength=evidence.strength,
        cells=cells,
        seen=evidence.seen,
        changes=evidence.changes,
        imported=evidence.imported,
    )


def read_quality(document: QualityDocument) -> Evidence:
    """The evidence of a document. A task without a prior in it gets the mean of the others."""
    known = list(document.prior.values()) or [0.5]
    overall = sum(known) / len(known)
    prior: Floats = np.array([document.prior.get(task, overall) for task in TASKS])
    evidence = Evidence.fresh(prior, document.strength)
    for cell in document.cells:
        at = TASK_AT[cell.task], COMPLEXITY_AT[cell.complexity]
        evidence.scores[at] += cell.scores
        evidence.counts[at] += cell.counts
        evidence.hint_scores[at] += cell.hint_scores
        evidence.hint_counts[at] += cell.hint_counts
    evidence.seen = document.seen
    evidence.changes = document.changes
    evidence.imported = document.imported
    return evidence


def write_pace(pace: Pace) -> PaceDocument:
    """The document of a pace."""
    return PaceDocument(
        first_logs=pace.first_logs,
        first_weights=pace.first_weights,
        token_logs=pace.token_logs,
        token_weights=pace.token_weights,
        busy=pace.busy,
        attempts=pace.attempts,
        failures=pace.failures,
        failed_at=pace.failed_at,
    )


def read_pace(document: PaceDocument) -> Pace:
    """The pace of a document."""
    return Pace(
        first_logs=list(document.first_logs),
        first_weights=list(document.first_weights),
        token_logs=list(document.token_logs),
        token_weights=list(document.token_weights),
        busy=document.busy,
        attempts=document.attempts,
        failures=document.failures,
        failed_at=document.failed_at,
    )


def read_document(document: Any) -> ModelDocument | None:
    """A stored document, or ``None`` when it is invalid."""
    try:
        return ModelDocument.model_validate(document)
    except ValidationError:
        return None


def read_outputs(document: Mapping[str, Any]) -> dict[Task, float]:
    """Stored output lengths by task; invalid ones are left out."""
    found: dict[Task, float] = {}
    for task in TASKS:
        value = document.get(task.value)
        if isinstance(value, int | float) and 0 < value <= 100_000:
            found[task] = float(value)
    return found
