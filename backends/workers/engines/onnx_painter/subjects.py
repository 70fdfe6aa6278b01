"""The subjects that the model can draw, and the choice of one by a prompt's logits and a seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from catalog.errors import ModelUnavailable

LIKELY = 0.35
"""Subjects that are at least so likely as the likeliest one may be drawn."""
COLOURED = 0.7
"""Probability from which a prompt asks for a colour."""


class Drawable(BaseModel):
    """Something that the model has learned to draw: ``rows`` are its codes by style, -1 for none."""

    model_config = ConfigDict(frozen=True)

    name: str
    mirrored: bool
    rows: tuple[int, ...] = Field(min_length=1)


class Repertoire(BaseModel):
    """The content of ``subjects.json``, which the training writes beside the graphs. ``side`` is in pixels."""

    model_config = ConfigDict(frozen=True)

    side: int = Field(gt=0)
    styles: tuple[str, ...]
    colours: tuple[str, ...]
    subjects: tuple[Drawable, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Motif:
    """The choice for one picture. ``room`` is the share of the shorter side that the subject takes."""

    name: str
    style: str
    row: int
    colour: str | None
    mirrored: bool
    room: float

    @property
    def told(self) -> str:
        """The choice in words: the answer's ``revised_prompt``."""
        return f"{self.name}{f', in {self.colour}' if self.colour else ''} ({self.style} style)"


def read_repertoire(path: Path) -> Repertoire:
    """Raises ModelUnavailable for a file that is not there or damaged."""
    try:
        return Repertoire.model_validate(orjson.loads(path.read_bytes()))
    except (OSError, orjson.JSONDecodeError, ValidationError) as error:
        raise ModelUnavailable(f"{path.name} of the model cannot be read: {str(error)[:200]}") from error


def choose(
    repertoire: Repertoire, subjects: NDArray[np.float32], colours: NDArray[np.float32], seed: int
) -> Motif:
    """Choose by the logits of ``subjects`` [subjects] and ``colours`` [1 + colours, the first one: none].

    Equal arguments give equal choices; the seed decides among likely subjects, styles, sides and sizes.
    """
    rng = np.random.default_rng(seed)
    chances = _softmax(subjects)
    chances[chances < LIKELY * chances.max()] = 0
    subject = repertoire.subjects[int(rng.choice(len(chances), p=chances / chances.sum()))]
    styles = [style for style, row in enumerate(subject.rows) if row >= 0]
    style = styles[int(rng.integers(len(styles)))]
    shades = _softmax(colours)
    asked = int(shades.argmax())
    return Motif(
        name=subject.name,
        style=repertoire.styles[style],
        row=subject.rows[style],
        colour=repertoire.colours[asked - 1] if asked and shades[asked] >= COLOURED else None,
        mirrored=subject.mirrored and bool(rng.random() < 0.5),
        room=float(rng.uniform(0.72, 0.9)),
    )


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    weights: NDArray[np.float64] = np.exp(logits.astype(np.float64) - logits.max())
    chances: NDArray[np.float64] = weights / weights.sum()
    return chances
