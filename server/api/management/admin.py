"""The report, the pins of embeddings and the priors of models, for administrators."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from fastapi import APIRouter, Request
from pydantic import Field, model_validator
from starlette.responses import Response
from typing_extensions import TypedDict

from backends.wire.common import Identifier, OwnBody
from catalog.errors import CapabilityMismatch, InvalidRequest, ModelNotFound, NotFound
from catalog.model import Capability
from catalog.types import Json
from routing.beliefs.documents import MAX_ORIGIN, ModelProfile
from routing.beliefs.prior_files import Figures, ModelPrior, meant
from routing.choosing.pins import Pins
from routing.facts import alias_of
from routing.reading.intent import is_auto
from server.answers.whole import json_response
from server.configuration.origins import SettingInForce, in_force
from server.edge.contracts import Contract, route
from server.edge.services import runtime_of, services_of
from server.peers import state_lag
from server.report import Report, faults_of_endpoints, report
from server.runtime import Runtime

router = APIRouter(tags=["admin"])


class Pin(OwnBody):
    """Pins an alias of embeddings to ``model``; without ``model`` it unpins the alias."""

    alias: Identifier
    model: Identifier | None = None


class PinList(TypedDict):
    """``pins`` maps each pinned alias to its model."""

    object: Literal["pins"]
    pins: dict[str, str]


class PinChange(TypedDict):
    """The model of the alias now, and ``before`` the change."""

    object: Literal["pin"]
    alias: str
    model: str | None
    before: str | None


@route(router, "GET", "/v1/admin/report", Contract(answers=Report, admin=True))
async def get_report(request: Request) -> Response:
    """Models, providers, defaults, coverage, four canned requests, priors, speech and the settings in force."""
    runtime = runtime_of(request)
    lag, faults = await state_lag(runtime), await faults_of_endpoints(runtime)
    return json_response(report(runtime, services_of(request).settings, lag=lag, faults=faults))


class SettingsInForce(TypedDict):
    """Every setting with its value and origin; ``file`` is the settings file. No secret is shown."""

    object: Literal["settings"]
    file: str | None
    settings: list[SettingInForce]


@route(router, "GET", "/v1/admin/settings", Contract(answers=SettingsInForce, admin=True))
async def get_settings(request: Request) -> Response:
    """The settings in force in this server, and the file, variable or flag that each comes from."""
    settings = services_of(request).settings
    file = None if settings.file is None else str(settings.file)
    return json_response({"object": "settings", "file": file, "settings": in_force(settings)})


@route(router, "GET", "/v1/admin/pins", Contract(answers=PinList, admin=True))
async def list_pins(request: Request) -> Response:
    """The model that each pinned alias of embeddings stands for."""
    return json_response({"object": "pins", "pins": dict(_pins(runtime_of(request)).current)})


@route(router, "POST", "/v1/admin/pins", Contract(reads=Pin, answers=PinChange, admin=True))
async def set_pin(request: Request, body: Pin) -> Response:
    """Pin or unpin an alias of embeddings. Vectors made before and after a change do not compare."""
    runtime = runtime_of(request)
    pins, alias = _pins(runtime), alias_of(body.alias)
    before = pins.current.get(alias)
    if body.model is None:
        if not pins.unpin(alias):
            raise NotFound(f"'{body.alias}' is not pinned.", param="alias")
    else:
        row = runtime.catalog.resolve(body.model)
        if Capability.EMBED not in row.capabilities:
            raise CapabilityMismatch(f"'{row.id}' cannot embed, so nothing can be pinned to it.", param="model")
        _check_alias(runtime, body.alias)
        pins.pin(alias, row.id, change=True)
    return json_response({"object": "pin", "alias": alias, "model": pins.current.get(alias), "before": before})


def _check_alias(runtime: Runtime, alias: str) -> None:
    """Raises InvalidRequest for a name of a single model."""
    if is_auto(alias):
        return
    try:
        choice = len(runtime.catalog.replicas(alias)) > 1
    except ModelNotFound:
        choice = False
    if not choice:
        raise InvalidRequest(
            f"Only 'auto' (or 'auto:fast' and the like) and names of several models can be pinned, not '{alias}'.",
            param="alias",
        )


def _pins(runtime: Runtime) -> Pins:
    if runtime.insight is None:
        raise NotFound("This server keeps no pins.")
    return runtime.insight.pins


Models = Annotated[dict[Identifier, ModelPrior], Field(min_length=1, max_length=10_000)]


class Priors(OwnBody):
    """Qualities in [0, 1] by model and task or ``overall``, or a profile that another server exported.

    Models are named by id, name or alias, in ``models`` or ``benchmarks``; a file of ``routing.priors`` has the
    same form. ``source`` says where they come from, as the report repeats it. ``strength`` is what qualities are
    worth in observations, ``weight`` what an observation of a profile is worth beside one of this server's.
    """

    benchmarks: Models | None = None
    models: Models | None = None
    object: Literal["router.profile"] = "router.profile"
    version: Literal[1] = 1
    source: Annotated[str, Field(max_length=MAX_ORIGIN)] | None = None
    strength: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] | None = None
    weight: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.5

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.benchmarks is None) == (self.models is None):
            raise ValueError("send either 'benchmarks' or 'models', which may be those of an exported profile")
        profiles = [isinstance(each, ModelProfile) for each in self.given.values()]
        if not any(profiles) and "weight" in self.model_fields_set:
            raise ValueError("'weight' is of a profile's observations; benchmarks have none")
        if all(profiles) and self.strength is not None:
            raise ValueError("'strength' is of qualities; a profile has its own")
        for name, each in self.given.items():
            if isinstance(each, Figures) and each.performance.model_fields_set:
                speeds = ", ".join(sorted(each.performance.model_fields_set))
                raise ValueError(
                    f"'{name[:80]}' has figures of speed, which belong in a file of routing.priors; leave out "
                    f"{speeds}"
                )
        return self

    @property
    def given(self) -> dict[str, ModelProfile | Figures]:
        """The models, under either name."""
        return self.models or self.benchmarks or {}


class PriorsTaken(TypedDict):
    """By name, whether its part was taken: that of a model observed here already is not.

    ``unknown_models`` are names that mean no model now. What was given of them waits for a model of that id.
    """

    object: Literal["priors"]
    taken: dict[str, bool]
    unknown_models: list[str]


class LearnedProfile(TypedDict):
    """Export the profiles that this server has learned of models, for another server to start with."""

    object: Literal["router.profile"]
    version: Literal[1]
    models: dict[str, Json]


@route(router, "GET", "/v1/admin/priors", Contract(answers=LearnedProfile, admin=True))
async def export_priors(request: Request) -> Response:
    """Learned and imported profiles by model. They hold ids of models, and no prompt, key or address."""
    found = runtime_of(request).learner.export_profile()
    models = {name: part.model_dump(mode="json", exclude_none=True) for name, part in found.items()}
    return json_response({"object": "router.profile", "version": 1, "models": models})


@route(router, "POST", "/v1/admin/priors", Contract(reads=Priors, answers=PriorsTaken, admin=True))
async def import_priors(request: Request, body: Priors) -> Response:
    """Seed models that were never observed with benchmark scores or with what another server learned."""
    runtime = runtime_of(request)
    rows = meant(body.given, runtime.catalog)
    scores: dict[str, dict[str, float]] = {}
    profiles: dict[str, ModelProfile] = {}
    for name, each in body.given.items():
        for row in rows[name] or (name,):
            if isinstance(each, ModelProfile):
                profiles[row] = each
            else:
                scores[row] = dict(each.scores)
    taken = runtime.learner.import_priors(
        scores, origin=body.source or "imported benchmarks", strength=body.strength
    ) | runtime.learner.import_profile(
        profiles, weight=body.weight, origin=body.source or "a profile of another server"
    )
    return json_response(
        {
            "object": "priors",
            "taken": {name: any(taken[row] for row in rows[name] or (name,)) for name in body.given},
            "unknown_models": sorted(name for name in body.given if not rows[name]),
        }
    )
