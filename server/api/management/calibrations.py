"""/v1/admin/calibrations: measures models on built-in questions and puts the results in force as priors."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response
from typing_extensions import TypedDict

from backends.wire.common import AS_COUNT, Finite, Identifier, OwnBody
from catalog.errors import InvalidRequest, ModelUnavailable, RateLimited, Unavailable
from catalog.model import Model
from catalog.types import Json
from routing.state.records import Record, RecordQuery, new_id
from server.answers.whole import json_response
from server.calibration.subjects import SUBJECTS, subjects_of
from server.calibration.work import ENDED, KIND, RUNNING, is_running, new_body
from server.callers import Caller
from server.edge.callers import caller_of
from server.edge.contracts import Contract, route
from server.edge.services import runtime_of, services_of
from server.probing.judge import judge_of
from server.runtime import Runtime
from server.storage.runner import CANCELLING
from server.storage.storage import Page, listed

router = APIRouter(tags=["admin"])
_EARLIER = 20
"""Calibrations that are looked through for results to go on from."""


class CalibrationRequest(OwnBody):
    """A calibration of ``models``, by default all that can be used now, in ``tasks``, by default all.

    ``budget`` is the most that it may cost in dollars. The same ``seed`` asks the same questions, ``questions`` of
    each subject. ``fresh`` uses no earlier result of the tasks that it measures.
    """

    models: Annotated[list[Identifier], Field(min_length=1, max_length=200)] | None = None
    tasks: Annotated[list[Identifier], Field(min_length=1, max_length=32)] | None = None
    budget: Annotated[Finite, Field(ge=0, le=100_000)] = 0.5
    seed: Annotated[int, Field(ge=0, le=2**31)] = 0
    questions: Annotated[int, Field(ge=1, le=100)] = 8
    fresh: bool = False


class SubjectResult(TypedDict):
    """The scores of the questions of a subject, or the reason for which it was left out."""

    task: str
    scores: list[float]
    skipped: str | None


class TaskResult(TypedDict):
    """The mean score of all questions of a task that count, also earlier ones; the prior without and with them."""

    score: float
    questions: int
    before: float
    prior: float


class SpeedResult(TypedDict):
    prompt_tokens: int
    first_token_seconds: float
    tokens_per_second: float | None


class ModelResult(TypedDict):
    """``taken``: the priors are in force. ``out_of_budget``: what did not fit the budget, if anything.

    ``strength`` is what the prior is worth in observations, ``strength_before`` what it was worth unmeasured.
    """

    subjects: dict[str, SubjectResult]
    speed: list[SpeedResult]
    priors: dict[str, TaskResult]
    strength: NotRequired[float]
    strength_before: NotRequired[float]
    taken: bool
    out_of_budget: str | None


class CalibrationError(TypedDict):
    code: str
    message: str


class Calibration(TypedDict):
    """A calibration; times are Unix seconds. ``done`` and ``total`` count questions, ``current`` are the models
    under examination."""

    id: str
    object: Literal["calibration"]
    status: Literal["in_progress", "completed", "out_of_budget", "cancelling", "cancelled", "failed"]
    created_at: int
    ended_at: int | None
    models: list[str]
    judge: str | None
    tasks: list[str]
    budget: float
    spent: float
    seed: int
    questions: int
    fresh: NotRequired[bool]
    done: int
    total: int
    current: list[str]
    results: dict[str, ModelResult]
    error: CalibrationError | None


class CalibrationList(TypedDict):
    object: Literal["list"]
    data: list[Calibration]
    first_id: str | None
    last_id: str | None
    has_more: bool


class CalibrationListQuery(BaseModel):
    """A page of the calibrations, the newest first; ``after`` is the id of the one before it."""

    limit: Annotated[int, Field(ge=1, le=100), AS_COUNT] = 20
    after: str | None = Field(default=None, max_length=128)


@route(
    router,
    "POST",
    "/v1/admin/calibrations",
    Contract(
        reads=CalibrationRequest,
        answers=Calibration,
        admin=True,
        raises=(RateLimited, ModelUnavailable),
    ),
)
async def create_calibration(request: Request, body: CalibrationRequest) -> Response:
    """Begin to measure models in the background; one calibration runs at a time."""
    runtime, caller = runtime_of(request), caller_of(request)
    if runtime.runner is None:
        raise Unavailable("This server does no work in the background.")
    storage = runtime.storage
    query = RecordQuery(KIND, newest_first=True, limit=_EARLIER)
    earlier = await storage.records.find(query)
    running = next((record for record in earlier if is_running(record)), None)
    if running is not None:
        raise InvalidRequest(
            f"The calibration '{running.id}' is not finished. Wait for it, or cancel it first.", param="models"
        )
    judge = judge_of(runtime, services_of(request).settings.routing.judge)
    tasks = _tasks(body.tasks)
    told = new_body(
        _rows(runtime, body.models, judge, tasks),
        judge=judge,
        tasks=tasks,
        budget=body.budget,
        seed=body.seed,
        questions=body.questions,
        earlier=[] if body.fresh else earlier,
        fresh=body.fresh,
    )
    name = new_id("calibration")
    head = {"id": name, "object": "calibration", "created_at": int(storage.now())}
    record = storage.new(KIND, name, {**head, **told}, caller, status=RUNNING)
    await storage.keep(record)
    runtime.runner.wake()
    return json_response(shown(record))


@route(
    router,
    "GET",
    "/v1/admin/calibrations",
    Contract(query=CalibrationListQuery, answers=CalibrationList, admin=True),
)
async def list_calibrations(request: Request, query: CalibrationListQuery) -> Response:
    """List the calibrations of all administrators."""
    rows, more = await runtime_of(request).storage.page(RecordQuery(KIND), Page(query.limit, after=query.after))
    return json_response(listed([shown(row) for row in rows], more))


@route(router, "GET", "/v1/admin/calibrations/{calibration_id}", Contract(answers=Calibration, admin=True))
async def retrieve_calibration(request: Request, calibration_id: str) -> Response:
    """Tell how far a calibration is, and its results."""
    return json_response(shown(await _found(runtime_of(request), calibration_id)))


@route(router, "POST", "/v1/admin/calibrations/{calibration_id}/cancel", Contract(answers=Calibration, admin=True))
async def cancel_calibration(request: Request, calibration_id: str) -> Response:
    """Stop a calibration. Priors of the models that it has finished stay in force."""
    runtime = runtime_of(request)
    record = await _found(runtime, calibration_id)

    def cancel(found: Record) -> Record:
        if found.status in ENDED:
            raise InvalidRequest(f"The calibration has ended: it is {found.status}.")
        return found if found.status == CANCELLING else found.changed(status=CANCELLING)

    record = await runtime.storage.change(KIND, record.id, Caller(record.owner), cancel)
    if runtime.runner is not None:
        runtime.runner.wake()
    return json_response(shown(record))


async def _found(runtime: Runtime, name: str) -> Record:
    """A calibration of any administrator. Raises NotFound."""
    record = await runtime.storage.records.get(KIND, name)
    owner = "" if record is None else record.owner
    return await runtime.storage.found(KIND, name, Caller(owner), param="calibration_id")


def shown(record: Record) -> Json:
    """A calibration as administrators see it."""
    return {**record.body, "status": record.status}


def _tasks(named: list[str] | None) -> list[str]:
    known = sorted({subject.task.value for subject in SUBJECTS})
    for name in named or ():
        if name not in known:
            raise InvalidRequest(
                f"There are no questions for '{name[:50]}'. Tasks are: {', '.join(known)}.", param="tasks"
            )
    return named or []


def _rows(runtime: Runtime, named: list[str] | None, judge: str | None, tasks: list[str]) -> list[Model]:
    """The models to measure: those of this machine first, then the cheaper ones.

    Raises ModelNotFound, and ModelUnavailable for a named model that cannot be used.
    """
    if named is None:
        rows = [row for row in runtime.catalog if runtime.unavailable(row) is None]
    else:
        rows = list({row.id: row for name in named for row in _usable(runtime, name)}.values())
    able = [row for row in rows if subjects_of(row, judge=judge, tasks=tasks)]
    if not able:
        raise InvalidRequest(_why_none(rows, judge, tasks), param="models")
    return sorted(able, key=_dearness)


def _usable(runtime: Runtime, name: str) -> list[Model]:
    """The replicas of a name that can be used now. Raises ModelUnavailable if none can."""
    replicas = runtime.catalog.replicas(name)
    blocks = [runtime.unavailable(row) for row in replicas]
    usable = [row for row, block in zip(replicas, blocks, strict=True) if block is None]
    if not usable and blocks[0] is not None:
        raise ModelUnavailable(f"'{replicas[0].id}' cannot be measured: {blocks[0].reason}.", param="models")
    return usable


def _why_none(rows: list[Model], judge: str | None, tasks: list[str]) -> str:
    """The reason for which none of these models can be measured in these tasks."""
    asked = [subject for subject in SUBJECTS if not tasks or subject.task.value in tasks]
    of = ", ".join(tasks) or "any task"
    capable = [row for row in rows if any(row.capabilities & subject.needs for subject in asked)]
    if not capable:
        needs = ", ".join(sorted({need for subject in asked for need in subject.needs}))
        return f"There is no model to measure in {of}: a model needs the capability {needs}."
    if judge is None:
        return f"There is no model to measure in {of}: a judge reads these answers; set model in [routing.judge]."
    return f"There is no model to measure in {of}: '{judge}' is the judge, which does not judge itself."


def _dearness(row: Model) -> tuple[bool, float]:
    prices = (row.price.input, row.price.output)
    return not row.local, sum(price or 0.0 for price in prices)
