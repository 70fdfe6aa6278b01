"""The list of subjects, and those that a model is examined in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from random import Random

from catalog.model import Capability, Model
from routing.facts import Task
from server.calibration.examinee import Examinee
from server.calibration.subjects.coding import coding
from server.calibration.subjects.instructions import instructions
from server.calibration.subjects.reasoning import arithmetic, logic
from server.calibration.subjects.retrieval import embeddings, reranking
from server.calibration.subjects.speech import speaking, transcription
from server.calibration.subjects.structured import classification, extraction, tools
from server.calibration.subjects.writing import summaries, translations


@dataclass(frozen=True, slots=True)
class Subject:
    """One kind of question. ``examine`` asks one, made from the dice, and returns its score in [0, 1].

    A model that has any of ``needs`` is examined in it; ``judged`` ones only where a judge is allowed.
    ``revision`` increases when its questions change, so that old results are not taken for new ones.
    """

    name: str
    task: Task
    needs: frozenset[Capability]
    examine: Callable[[Random, Examinee], Awaitable[float]]
    judged: bool = False
    revision: int = 1

    @property
    def id(self) -> str:
        """The name under which results are kept."""
        return f"{self.name}.{self.revision}"


def _subject(
    name: str,
    task: Task,
    examine: Callable[[Random, Examinee], Awaitable[float]],
    *needs: Capability,
    judged: bool = False,
) -> Subject:
    return Subject(name, task, frozenset(needs or (Capability.CHAT,)), examine, judged)


SUBJECTS: tuple[Subject, ...] = (
    _subject("instructions", Task.CHAT, instructions),
    _subject("arithmetic", Task.MATHS, arithmetic),
    _subject("logic", Task.REASONING, logic),
    _subject("code", Task.CODE, coding),
    _subject("extraction", Task.EXTRACT, extraction),
    _subject("tools", Task.TOOL_USE, tools, Capability.TOOLS),
    _subject("classification", Task.CLASSIFY, classification, Capability.CHAT, Capability.CLASSIFY),
    _subject("summaries", Task.SUMMARISE, summaries, judged=True),
    _subject("translations", Task.TRANSLATE, translations, judged=True),
    _subject("embeddings", Task.EMBED, embeddings, Capability.EMBED),
    _subject("reranking", Task.RERANK, reranking, Capability.RERANK),
    _subject("transcription", Task.TRANSCRIBE, transcription, Capability.TRANSCRIBE),
    _subject("speech", Task.SPEECH, speaking, Capability.SPEAK),
)
"""Every subject, in the order in which a model is examined."""


def subjects_of(model: Model, *, judge: str | None, tasks: Collection[str] = ()) -> list[Subject]:
    """The subjects that a model is examined in. ``tasks`` names those to measure, empty: all.

    A judge does not judge itself.
    """
    return [
        subject
        for subject in SUBJECTS
        if model.capabilities & subject.needs
        and (not subject.judged or judge not in (None, model.id))
        and (not tasks or subject.task.value in tasks)
    ]
