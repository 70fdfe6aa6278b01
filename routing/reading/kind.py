"""Task and complexity of a chat: what is certain, such as tools and pictures, decides before the words do."""

from __future__ import annotations

from typing import NamedTuple

from catalog.index import Floats
from routing.facts import Complexity, Task
from routing.reading.ngrams import parts_of
from routing.reading.recogniser import READ_TASKS, goes_on, logits_of, recognise
from routing.reading.shape import Shape, looks_like_code, looks_like_mathematics, shape_of
from routing.reading.tokens import profile

SURE = 0.25
"""Confidence below which a recognised task or complexity is no more than a guess: half of those are wrong."""
_LINE = 240
"""Characters of a turn that is read with the turn before it: "and in French?" """
_ALONE = 0.2
"""How likely a turn must be to go on from the turn before, for that to be read."""
_SYSTEM = 1500
"""Characters of a system prompt that says what to do with each message. Longer ones describe an agent."""
_SET, _BEFORE = 2.0, 0.8
"""Weights of a system prompt that sets a task, and of a turn from which the message goes on for sure."""
_BRIEF = 32
"""Characters of an instruction of a word or two."""
_WITH_DOCUMENTS = frozenset({Task.TRANSLATE, Task.SUMMARISE, Task.EXTRACT, Task.CLASSIFY})
"""Tasks that a word or two beside a document ask for."""
_INSTRUCTED, _MEANT = 2.0, 0.45
"""Weight of such an instruction, and the confidence from which it, or a system prompt, is one."""
_ORDER = tuple(Complexity)


class RequestKind(NamedTuple):
    """Task and complexity, and the confidence in each, from 0 to 1."""

    task: Task
    task_confidence: float
    complexity: Complexity
    complexity_confidence: float


def kind_by_structure(shape: Shape, *, images: bool, output_tokens: int | None) -> RequestKind:
    """The kind of a request whose model is named, from its structure alone: there is nothing to choose."""
    task = _certain(shape, images=images)
    return RequestKind(task or _guess(shape, output_tokens), float(task is not None), complexity_of(shape), 0.0)


def kind_of(
    text: str, shape: Shape, *, images: bool, output_tokens: int | None, system: str = "", before: str = ""
) -> RequestKind:
    """The kind of a chat whose last user message is ``text``; ``before`` is the user's message before it.

    Below a confidence of :data:`SURE` the structure gives the task, or it is a chat, of medium complexity.
    """
    if not text:  # only a file or a sound: no words to read
        return kind_by_structure(shape, images=images, output_tokens=output_tokens)
    logits = logits_of(text, shape) + _of_brief_instruction(text)
    # Of the tasks only: how hard a request is depends on the last message.
    logits[: len(READ_TASKS)] += _of_context(logits, text, system, before)
    found = recognise(logits)
    task, sure = found.task, found.task_confidence
    certain = _certain(shape, images=images)
    if certain is not None:
        task, sure = certain, 1.0
    elif sure < SURE:
        task = _guess(shape, output_tokens)
    level = found.complexity if found.complexity_confidence >= SURE else Complexity.MEDIUM
    level = max(level, complexity_of(shape), key=_ORDER.index) if _heavy(shape) else level
    return RequestKind(task, sure, level, found.complexity_confidence)


def _of_context(logits: Floats, text: str, system: str, before: str) -> Floats | float:
    """The logits of the tasks that a system prompt and the turn before add.

    A system prompt that reads as a chat describes a role or a manner: it sets no task. The turn before counts as
    much as the message is likely to go on from it.
    """
    found: Floats | float = 0.0
    if system and len(system) <= _SYSTEM:
        set_by = logits_of(system, _alone(system))
        read = recognise(set_by)
        if read.task is not Task.CHAT and read.task_confidence >= _MEANT:
            found = found + _SET * set_by[: len(READ_TASKS)]
    if before and len(text) <= _LINE:
        share = goes_on(logits)
        if share > _ALONE:
            found = found + _BEFORE * share * logits_of(before, _alone(before))[: len(READ_TASKS)]
    return found


def _of_brief_instruction(text: str) -> Floats | float:
    """The logits of a word or two beside a document, read alone: among all that is pasted they hardly count.

    0 for any other text, and for words that ask for nothing that is done with a document, such as a greeting.
    """
    parts = parts_of(text)
    if parts is None or len(parts[0]) > _BRIEF:
        return 0.0
    logits = logits_of(parts[0], _alone(parts[0]))
    found = recognise(logits)
    if found.task not in _WITH_DOCUMENTS or found.task_confidence < _MEANT:
        return 0.0
    logits[len(READ_TASKS) :] = 0.0  # how hard it is depends on the document
    return _INSTRUCTED * logits


def _alone(text: str) -> Shape:
    known = profile(text)
    return shape_of(text, known, tokens=round(known.tokens), turns=1)


def _certain(shape: Shape, *, images: bool) -> Task | None:
    """The task that the parts of a request say."""
    if images:
        return Task.VISION
    if shape.tools:
        return Task.TOOL_USE
    if shape.labels:
        return Task.CLASSIFY
    return Task.EXTRACT if shape.schema_size else None


def _guess(shape: Shape, output_tokens: int | None) -> Task:
    """The task that the structure shows. The signs are tried from the most to the least certain."""
    if looks_like_code(shape):
        return Task.CODE
    if looks_like_mathematics(shape):
        return Task.MATHS
    if output_tokens is not None and output_tokens <= 5:
        return Task.CLASSIFY
    if shape.material >= 300 and shape.instruction <= 60 and shape.questions <= 1:
        return Task.SUMMARISE
    return Task.CHAT


def _heavy(shape: Shape) -> bool:
    """Whether there is more to read than the last message: its words alone do not tell how hard the request is."""
    return shape.tokens >= 1000 or shape.tools > 2 or shape.schema_size > 8


def complexity_of(shape: Shape) -> Complexity:
    """Complexity from a sum of bounded signs of difficulty: medium from 1.0, complex from 2.2."""
    score = (
        min(2.0, shape.tokens / 1500)
        + min(1.0, max(0, shape.turns - 1) / 8)
        + min(1.0, shape.items / 6)
        + min(1.0, max(0, shape.questions - 1) / 3)
        + min(1.0, shape.arithmetic / 3)
        + min(1.0, shape.tools / 6)
        + min(1.0, shape.schema_size / 20)
    )
    if score >= 2.2:
        return Complexity.COMPLEX
    return (
        Complexity.MEDIUM if score >= 1.0 or shape.tokens >= 250 or looks_like_code(shape) else Complexity.SIMPLE
    )
