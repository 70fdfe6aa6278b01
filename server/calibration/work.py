"""The work on a calibration: examines every model in its subjects, keeps each result, and writes the priors.

A calibration is a record, so it goes on after a restart with the subjects that have no result. One that ended
early (cancelled, out of budget) lends its results to the next of the same seed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from random import Random
from typing import Any

import structlog

from catalog.errors import RoundhouseError
from catalog.model import Capability, Model
from catalog.types import Json
from routing.facts import Task
from routing.state.records import Record, RecordQuery
from server.batches.asking import caller_of_owner
from server.calibration.examinee import Examinee, Helper
from server.calibration.priors import ORIGIN, base_of, blended, counted, strength_of
from server.calibration.speed import speeds
from server.calibration.subjects import SUBJECTS, Subject, subjects_of
from server.edge.errors import as_error
from server.probing.prober import Prober, Purse, PurseEmpty
from server.runtime import Runtime
from server.storage.runner import CANCELLING
from server.storage.slots import Slot

KIND = "calibration"
RUNNING = "in_progress"
DONE, OUT_OF_BUDGET, CANCELLED, FAILED = "completed", "out_of_budget", "cancelled", "failed"
ENDED = (DONE, OUT_OF_BUDGET, CANCELLED, FAILED)
REMOTE_AT_ONCE = 4
"""Remote models that are examined at a time; those of this machine take turns, since they share its cores."""
TELL = 1.0
"""Seconds between two changes of the number of questions that are done."""
EARLIER = 200
"""Calibrations whose questions count beside those of the latest."""


class _Over(Exception):
    """The record was cancelled or deleted."""


class Calibrations:
    """Works on calibrations; see :class:`server.storage.runner.BackgroundWork`."""

    kind = KIND
    unfinished: Sequence[str] = (RUNNING,)
    at_once = 1
    keeps_slot = False

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def run(self, record: Record, slot: Slot) -> None:
        """Examine the models that have no result yet. It never only waits, so it keeps its slot."""
        del slot
        await _Run(self._runtime, record).run()

    async def end(self, record: Record, error: BaseException | None) -> None:
        """Store that a calibration was cancelled or has failed; its results stay."""
        told = None
        if error is not None:
            known = as_error(error) if isinstance(error, Exception) else RoundhouseError("It was stopped.")
            told = {"code": known.code, "message": known.message}
        now = int(self._runtime.storage.now())
        ended = record.changed(status=CANCELLED if error is None else FAILED, error=told, ended_at=now, current=[])
        await self._runtime.storage.records.replace(ended)


class _Run:
    """One run of one calibration."""

    def __init__(self, runtime: Runtime, record: Record) -> None:
        self._runtime = runtime
        self._record = record
        self._body: Json = record.body
        self._saving = asyncio.Lock()
        self._told_at = 0.0
        self._purse = Purse(self._body["budget"] - self._body["spent"])
        self._spent_before = float(self._body["spent"])
        self._prober = Prober(runtime, caller_of_owner(runtime, record.owner), self._purse)
        self._helper = Helper(self._prober, self._body["judge"])
        self._earlier: list[Json] = []

    async def run(self) -> None:
        query = RecordQuery(KIND, newest_first=True, limit=EARLIER)
        found = await self._runtime.storage.records.find(query)
        self._earlier = [record.body for record in found if record.id != self._record.id]
        rows = [row for name in self._body["models"] if (row := self._runtime.catalog.get(name)) is not None]
        remote = asyncio.Semaphore(REMOTE_AT_ONCE)

        async def one(row: Model) -> None:
            async with remote:
                await self._examine(row)

        async def here() -> None:
            for row in rows:
                if row.local:
                    await self._examine(row)

        self._body["done"] = self._body["questions"] * sum(
            len(result["subjects"]) for result in self._body["results"].values()
        )
        gone = False
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(here())
                for row in rows:
                    if not row.local:
                        tasks.create_task(one(row))
        except* _Over:
            gone = True
        if gone:
            return
        short = any(result["out_of_budget"] is not None for result in self._body["results"].values())
        await self._save(
            status=OUT_OF_BUDGET if short else DONE, ended_at=int(self._runtime.storage.now()), current=[]
        )

    async def _examine(self, row: Model) -> None:
        result = self._body["results"][row.id]
        subjects = subjects_of(row, judge=self._body["judge"], tasks=self._body["tasks"])
        self._body["current"] = [*self._body["current"], row.id]
        examinee = Examinee(self._prober, row, self._helper)
        try:
            for subject in subjects:
                if subject.id not in result["subjects"] and result["out_of_budget"] is None:
                    await self._sit(subject, examinee, result)
            if Capability.CHAT in row.capabilities and not (result["speed"] or result["out_of_budget"]):
                result["speed"] = await self._speed(examinee, result)
        finally:
            self._body["current"] = [name for name in self._body["current"] if name != row.id]
        await self._write_priors(row, result)
        await self._save()

    async def _sit(self, subject: Subject, examinee: Examinee, result: Json) -> None:
        scores: list[float] = []
        told: Json = {"task": subject.task.value, "scores": scores, "skipped": None}
        for number in range(self._body["questions"]):
            dice = Random(f"{self._body['seed']}/{subject.id}/{number}")  # noqa: S311 - questions, not secrets
            try:
                scores.append(round(await subject.examine(dice, examinee), 4))
            except PurseEmpty as empty:
                result["out_of_budget"] = empty.message
                return
            except RoundhouseError as error:
                told |= {"scores": [], "skipped": error.message[:500]}
                self._body["done"] += self._body["questions"] - number
                break
            self._body["done"] += 1
            if time.monotonic() - self._told_at >= TELL:
                await self._save()
        result["subjects"][subject.id] = told
        await self._save()

    async def _speed(self, examinee: Examinee, result: Json) -> list[Json]:
        try:
            return await speeds(self._body["seed"], examinee)
        except PurseEmpty as empty:
            result["out_of_budget"] = empty.message
        except RoundhouseError as error:
            structlog.get_logger("server.calibration").warning(
                "speed not measured", model=examinee.row.id, error=error.message
            )
        return []

    async def _write_priors(self, row: Model, result: Json) -> None:
        """Put what was measured of a model in force as its prior, with what earlier calibrations measured."""
        insight = self._runtime.insight
        place = None if insight is None else insight.estimator.index.rows.get(row.id)
        measured = {Task(told["task"]): told for told in result["subjects"].values() if told["scores"]}
        if insight is None or place is None or not measured:
            return
        estimator = insight.estimator
        earlier = [body for body in self._earlier if row.id in body["results"]]
        base = base_of(estimator.prior(place), [result, *(body["results"][row.id] for body in earlier)])
        scores = counted(self._body, earlier, row.id, base)
        after = {**base.mean, **blended(scores, base.mean)}
        tasks = len({subject.task for subject in SUBJECTS if row.capabilities & subject.needs})
        strength = strength_of(scores, tasks, base, estimator.benchmark_strength)
        result |= {"strength_before": base.strength, "strength": strength}
        result["priors"] = {
            task.value: {
                "score": round(sum(scores[task]) / len(scores[task]), 4),
                "questions": len(scores[task]),
                "before": round(base.mean[task], 6),
                "prior": round(after[task], 4),
            }
            for task in Task
            if task in measured
        }
        await self._save()  # before they are in force: a restart must know what they started from
        taken = self._runtime.learner.import_priors(
            {row.id: {task.value: value for task, value in after.items()}},
            origin=self._origin(sum(map(len, scores.values()))),
            observed=True,
            strength=strength,
        )
        result["taken"] = taken.get(row.id, False)

    def _origin(self, questions: int) -> str:
        day = datetime.fromtimestamp(self._runtime.storage.now(), UTC).date()
        return f"{ORIGIN} of {day}: {questions} questions, seed {self._body['seed']}"

    async def _save(self, **members: Any) -> None:
        """Store how far it is. Raises _Over if the record was cancelled or deleted meanwhile."""
        async with self._saving:
            self._told_at = time.monotonic()
            status = members.pop("status", None)
            self._body |= {**members, "spent": round(self._spent_before + self._purse.spent, 9)}
            stored = await self._runtime.storage.records.replace(
                replace(self._record, body=self._body, status=status or self._record.status)
            )
            if stored is None:
                raise _Over
            self._record = replace(stored, body=self._body)


def new_body(
    models: Sequence[Model],
    *,
    judge: str | None,
    tasks: Sequence[str],
    budget: float,
    seed: int,
    questions: int,
    earlier: Sequence[Record],
    fresh: bool = False,
) -> Json:
    """The body of a new calibration, with the results that earlier ones of the same questions have."""
    results: Json = {}
    total = done = 0
    for row in models:
        subjects = subjects_of(row, judge=judge, tasks=tasks)
        known = _known(earlier, row.id, seed, questions)
        kept = {subject.id: known[subject.id] for subject in subjects if subject.id in known}
        results[row.id] = {
            "subjects": kept, "speed": [], "priors": {}, "taken": False, "out_of_budget": None
        }  # fmt: skip
        total += questions * len(subjects)
        done += questions * len(kept)
    return {
        "models": [row.id for row in models],
        "judge": judge,
        "tasks": list(tasks),
        "budget": budget,
        "spent": 0.0,
        "seed": seed,
        "questions": questions,
        "fresh": fresh,
        "done": done,
        "total": total,
        "current": [],
        "results": results,
        "error": None,
        "ended_at": None,
    }


def _known(earlier: Sequence[Record], model: str, seed: int, questions: int) -> Json:
    """The measured subjects of a model in calibrations that ended early, by the subject's id."""
    known: Json = {}
    for record in earlier:
        body = record.body
        if record.status in (OUT_OF_BUDGET, CANCELLED, FAILED) and (body["seed"], body["questions"]) == (
            seed,
            questions,
        ):
            for name, told in body["results"].get(model, {}).get("subjects", {}).items():
                if told["scores"]:
                    known.setdefault(name, told)
    return known


def is_running(record: Record) -> bool:
    """Whether a calibration has not ended."""
    return record.status in (RUNNING, CANCELLING)
