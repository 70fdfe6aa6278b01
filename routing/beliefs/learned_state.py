"""The learned statistics of every model, by id, with their export to and merge from shared documents."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any
from uuid import uuid4

from routing.beliefs.documents import (
    MAX_ORIGIN,
    Journal,
    ModelDocument,
    ModelProfile,
    read_document,
    read_outputs,
    read_pace,
    read_quality,
    write_pace,
    write_quality,
)
from routing.beliefs.posterior import TASKS, Evidence, QualityPosterior
from routing.beliefs.speed import Pace
from routing.facts import Task

_OUTPUTS = ":output-tokens"
"""Name of the only document that is not a model's; no model id can start with a colon."""
_MAX_WRITERS = 50
_USUAL_OUTPUT = {Task.CLASSIFY: 16.0, Task.EXTRACT: 128.0, Task.TOOL_USE: 128.0, Task.SUMMARISE: 256.0}
_USUAL_OUTPUT_ELSE = 300.0
"""Tokens of an answer before any was observed."""
_TIMES_USUAL, _ALWAYS_USUAL = 4.0, 64.0
"""The most that one answer counts for the usual length: this multiple of it, but these tokens at least."""


class LearnedState:
    """Evidence of quality and pace by model id, and the usual length of answers by task.

    ``stale_quality`` and ``stale_speed`` are the models that changed since the estimator last updated its columns.
    ``writer`` names this process among the gateways that share the store.
    """

    def __init__(self, posterior: QualityPosterior, writer: str | None) -> None:
        self._posterior = posterior
        self._writer = writer or uuid4().hex
        self.evidence: dict[str, Evidence] = {}
        self.paces: dict[str, Pace] = {}
        self.output = {task: _USUAL_OUTPUT.get(task, _USUAL_OUTPUT_ELSE) for task in TASKS}
        self.stale_quality: set[str] = set()
        self.stale_speed: set[str] = set()
        self._journals: dict[str, Journal] = {}
        self._adopted: dict[str, tuple[Any, Any]] = {}
        self._changed: set[str] = set()

    def journal(self, model_id: str) -> Journal:
        """The log of this process's own observations of a model."""
        journal = self._journals.get(model_id)
        if journal is None:
            journal = self._journals[model_id] = Journal.new()
        return journal

    def pace_of(self, model_id: str) -> Pace:
        """The pace of a model, created if need be."""
        pace = self.paces.get(model_id)
        if pace is None:
            pace = self.paces[model_id] = Pace()
        return pace

    def quality_changed(self, model_id: str) -> None:
        """Mark a model's evidence as changed."""
        self._changed.add(model_id)
        self.stale_quality.add(model_id)

    def speed_changed(self, model_id: str) -> None:
        """Mark a model's pace as changed."""
        self._changed.add(model_id)
        self.journal(model_id).number += 1
        self.stale_speed.add(model_id)

    def output_observed(self, task: Task, tokens: int) -> None:
        """Update the usual length of a task's answers with one complete answer.

        An answer counts as :data:`_TIMES_USUAL` times the usual length at most: one very long one would make every
        model look dear.
        """
        usual = self.output[task]
        most = min(max(_TIMES_USUAL * usual, _ALWAYS_USUAL), 100_000)
        self.output[task] += 0.05 * (min(max(tokens, 1), most) - usual)
        self._changed.add(_OUTPUTS)

    def export(self) -> dict[str, Any]:
        """The JSON documents that changed since the last export, by model id."""
        changed, self._changed = self._changed, set()
        documents: dict[str, Any] = {}
        for name in changed:
            if name == _OUTPUTS:
                documents[name] = {task.value: tokens for task, tokens in self.output.items()}
                continue
            journal, evidence, pace = self.journal(name), self.evidence.get(name), self.paces.get(name)
            document = ModelDocument(
                writer=self._writer,
                heard={**journal.heard, self._writer: journal.number},
                quality=None if evidence is None else write_quality(evidence),
                pace=None if pace is None else write_pace(pace),
            )
            documents[name] = document.model_dump(mode="json")
        return documents

    def profile(self, without_pace: Set[str]) -> dict[str, ModelProfile]:
        """Observed and imported profiles by model id; the pace of the models ``without_pace`` is left out."""
        found: dict[str, ModelProfile] = {}
        for name in sorted(self.evidence.keys() | self.paces.keys()):
            evidence, pace = self.evidence.get(name), self.paces.get(name)
            told = evidence is not None and (bool(evidence.imported) or evidence.has_observations)
            quality = write_quality(evidence) if evidence is not None and told else None
            paced = write_pace(pace) if pace is not None and name not in without_pace else None
            if quality is not None or paced is not None:
                found[name] = ModelProfile(quality=quality, pace=paced)
        return found

    def start_with(self, name: str, profile: ModelProfile, weight: float, origin: str) -> bool:
        """Take a profile of a model that was never observed here; False, without effect, for another."""
        known = self.evidence.get(name)
        if known is not None and known.seen > 0:
            return False
        if profile.quality is not None:
            evidence = read_quality(profile.quality)
            for sums in (evidence.scores, evidence.counts, evidence.hint_scores, evidence.hint_counts):
                sums *= weight
            evidence.seen, evidence.changes, evidence.imported = 0.0, 0, origin[:MAX_ORIGIN]
            self.evidence[name] = evidence
            self.journal(name).number += 1
            self.quality_changed(name)
        if profile.pace is not None and name not in self.paces:
            self.paces[name] = read_pace(profile.pace)
            self.speed_changed(name)
        return True

    def adopt(self, documents: Mapping[str, Any]) -> None:
        """Merge what an earlier run or another gateway stored; invalid documents are skipped."""
        for name, raw in documents.items():
            if not isinstance(raw, dict):
                continue
            if name == _OUTPUTS:
                if name not in self._changed:
                    self.output |= read_outputs(raw)
                continue
            version = raw.get("writer"), raw.get("heard")
            if version[0] == self._writer or self._adopted.get(name) == version:
                continue
            self._adopted[name] = version
            document = read_document(raw)
            if document is not None:
                self._merge(name, document)

    def _merge(self, name: str, document: ModelDocument) -> None:
        journal = self.journal(name)
        if document.quality is not None:
            self._merge_evidence(name, read_quality(document.quality), document.heard.get(self._writer, 0))
        if document.pace is not None:
            self.paces[name] = read_pace(document.pace)
            self.stale_speed.add(name)
        for writer, number in document.heard.items():
            if writer != self._writer:
                journal.heard[writer] = max(number, journal.heard.get(writer, 0))
        while len(journal.heard) > _MAX_WRITERS:
            del journal.heard[next(iter(journal.heard))]

    def _merge_evidence(self, name: str, stored: Evidence, included: int) -> None:
        """Take ``stored`` evidence and add this process's observations after the first ``included``."""
        own = self.evidence.get(name)
        if own is not None and own.changes > stored.changes:
            # This process detected a change that the writer has not seen: the evidence here is the newer one.
            self._changed.add(name)
            return
        if own is not None and own.changes == stored.changes:
            stored.copy_detector(own)
        for observation in self.journal(name).kept:
            if observation.number > included:
                add = self._posterior.hint if observation.hint else self._posterior.add
                add(stored, observation.task, observation.complexity, observation.score, observation.confidence)
                self._changed.add(name)
        self.evidence[name] = stored
        self.stale_quality.add(name)
