"""Recognises task and complexity of a prompt, in any language it was trained on, without network or model.

A multinomial logistic regression over hashed n-grams (:mod:`routing.reading.ngrams`) and the structure of the
prompt (:class:`Shape`). ``python -m routing.reading.train`` fits it and writes ``weights.npz``: the weights in
bytes, one scale per class, and a temperature (Guo et al., 2017) that makes its probabilities hold.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from catalog.index import Floats
from routing.facts import Complexity, Task
from routing.reading.ngrams import buckets_of
from routing.reading.shape import Shape

WEIGHTS = Path(__file__).with_name("weights.npz")
READ_TASKS = (
    Task.CHAT, Task.CODE, Task.REASONING, Task.MATHS, Task.SUMMARISE, Task.EXTRACT, Task.CLASSIFY, Task.TRANSLATE,
    Task.WRITE,
)  # fmt: skip
READ_COMPLEXITIES = (Complexity.SIMPLE, Complexity.MEDIUM, Complexity.COMPLEX)
_LEVELS_END = len(READ_TASKS) + len(READ_COMPLEXITIES)
CLASSES = _LEVELS_END + 1
"""Tasks, complexities, and whether a message goes on from the one before it."""
_PIECE = 2048
"""Features that are added up at once: 96 KiB of weights, less than the allocator maps anew each time."""
STRUCTURE = 13
"""Numbers of the structure that are features."""


class Recognised(NamedTuple):
    """Task and complexity that are most likely, and how likely they are, from 0 to 1."""

    task: Task
    task_confidence: float
    complexity: Complexity
    complexity_confidence: float


class RecogniserWeights(NamedTuple):
    """``hashed`` has shape (BUCKETS, CLASSES), ``structure`` (STRUCTURE, CLASSES), ``bias`` (CLASSES,).

    ``temperatures`` divide the logits of the tasks, of the complexities, and of what goes on.
    """

    hashed: np.ndarray[tuple[int, int], np.dtype[np.float32]]
    structure: Floats
    bias: Floats
    temperatures: Floats


@cache
def weights() -> RecogniserWeights:
    """The weights as trained. Raises OSError if the file is missing."""
    with np.load(WEIGHTS) as file:
        # Rows side by side in memory: taking some of them would copy the whole of a matrix of columns.
        hashed = np.multiply(file["hashed"], file["scales"], dtype=np.float32, order="C")
        return RecogniserWeights(hashed, file["structure"], file["bias"], file["temperatures"])


def structure_of(shape: Shape) -> Floats:
    """The features of a message's structure, each about 0 to 3, shape (STRUCTURE,).

    How long a conversation is says nothing of its last message, so ``tokens`` and ``turns`` are left out.
    """
    log = math.log1p
    lines = max(1, shape.lines)
    return np.array(
        (
            log(shape.instruction + shape.material) / 3,
            log(shape.instruction) / 3,
            log(shape.material) / 3,
            log(lines - 1),
            min(shape.fences, 3),
            min(10 * shape.symbol_density, 3),
            min(10 * shape.digit_density, 3),
            min(shape.arithmetic, 4) / 2,
            log(shape.items),
            log(shape.questions),
            min(shape.code_lines, 8) / 4,
            2 * min(shape.code_lines / lines, 1),
            float(shape.questions > 0),
        )
    )


def logits_of(text: str, shape: Shape) -> Floats:
    """Scores of all classes for one text, in the order of :data:`CLASSES`, shape (CLASSES,)."""
    trained = weights()
    buckets = buckets_of(text)
    found: Floats = structure_of(shape) @ trained.structure + trained.bias
    ones = np.full(min(_PIECE, len(buckets)), 1 / math.sqrt(max(1, len(buckets))), dtype=np.float32)
    for start in range(0, len(buckets), _PIECE):
        rows = trained.hashed.take(buckets[start : start + _PIECE], axis=0)
        found += ones[: len(rows)] @ rows
    return found


def recognise(logits: Floats) -> Recognised:
    """The most likely task and complexity of (summed) logits."""
    trained = weights()
    tasks, levels = logits[: len(READ_TASKS)], logits[len(READ_TASKS) : _LEVELS_END]
    task, level = int(tasks.argmax()), int(levels.argmax())
    return Recognised(
        READ_TASKS[task],
        _share(tasks, task, trained.temperatures[0]),
        READ_COMPLEXITIES[level],
        _share(levels, level, trained.temperatures[1]),
    )


def goes_on(logits: Floats) -> float:
    """How likely it is that a message goes on from the one before it, as "and in French?" does: 0 to 1."""
    return float(1 / (1 + math.exp(-logits[_LEVELS_END] / weights().temperatures[2])))


def _share(logits: Floats, chosen: int, temperature: float) -> float:
    """Softmax of the chosen logit."""
    return float(1 / np.exp((logits - logits[chosen]) / temperature).sum())
