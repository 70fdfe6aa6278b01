"""Priors from files: an operator's own benchmark figures and latencies, by model.

A file is TOML or JSON::

    source = "our evaluation of support tickets, November 2026"
    strength = 60                     # virtual observations; else those of benchmarks

    [models."gpt-6.1-sol"]            # an id, provider/id, name or alias, in any case
    overall = 0.81                    # qualities in [0, 1], overall and by task
    summarise = 0.9
    latency_p50_ms = 900              # and figures of speed, as in a row's performance

``benchmarks`` is another name of ``models``. A model may also have a part of an exported profile, of which the
qualities count, as its owner believed them; speed depends on the machine, and is left out. Of several files with
the same figure, the later one by path holds.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from catalog.benchmarks import OVERALL
from catalog.errors import ConfigurationError
from catalog.model import Model, Performance
from catalog.validation.wording import describe
from routing.beliefs.documents import ModelProfile, read_quality
from routing.beliefs.posterior import QualityPosterior
from routing.beliefs.priors import Given
from routing.facts import Task
from routing.settings import Learning, Signals

_MAX_BYTES = 16 * 1024 * 1024
_MAX_FILES = 1000
_KINDS = (".json", ".toml")
_SCORES = frozenset({OVERALL, *(task.value for task in Task)})
_SPEEDS = frozenset(Performance.model_fields)
T = TypeVar("T")
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Figures(BaseModel):
    """Qualities in [0, 1] of one model, by task or ``overall``, and figures of its speed, all in one table."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    scores: dict[str, Share] = {}
    performance: Performance = Performance()

    @model_validator(mode="before")
    @classmethod
    def _sorted(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise ValueError("it must be a table of figures")
        for name in data:
            if name not in _SCORES | _SPEEDS:
                known = ", ".join(sorted(_SCORES | _SPEEDS))
                raise ValueError(f"'{str(name)[:50]}' is no task and no figure of speed; known: {known}")
        return {
            "scores": {name: value for name, value in data.items() if name in _SCORES},
            "performance": {name: value for name, value in data.items() if name in _SPEEDS},
        }


def _kind(given: Any) -> str:
    is_profile = isinstance(given, ModelProfile) or (isinstance(given, dict) and not given.keys() - _OF_PROFILES)
    return "profile" if is_profile else "figures"


_OF_PROFILES = frozenset(ModelProfile.model_fields)
ModelPrior = Annotated[
    Annotated[ModelProfile, Tag("profile")] | Annotated[Figures, Tag("figures")], Discriminator(_kind)
]
"""The entries that a file or an import may have for one model."""


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    source: Annotated[str, Field(max_length=200)] = ""
    strength: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] | None = None
    models: Annotated[
        dict[str, ModelPrior],
        Field(max_length=10_000, validation_alias=AliasChoices("models", "benchmarks")),
    ]
    object: Literal["router.profile"] = "router.profile"
    version: Literal[1] = 1


_BELIEFS = QualityPosterior(Learning(), Signals())


def qualities_of(profile: ModelProfile) -> Given | None:
    """The qualities that a profile's owner believes, by task: the mean over complexities; ``None`` without any."""
    if profile.quality is None:
        return None
    mean, _ = _BELIEFS.posterior(read_quality(profile.quality))
    return Given(
        {task.value: float(mean[at].mean()) for at, task in enumerate(Task)}, profile.quality.strength, ""
    )


@dataclass(frozen=True, slots=True)
class PriorFiles:
    """The priors of the files by lower-case name of a model; ``paths`` are the files read, in that order."""

    given: Mapping[str, Given] = field(default_factory=dict)
    performance: Mapping[str, Performance] = field(default_factory=dict)
    paths: tuple[str, ...] = ()

    @classmethod
    def read(cls, paths: Sequence[Path]) -> PriorFiles:
        """Read files, and the ``.json`` and ``.toml`` files of folders.

        Raises ConfigurationError for one that is missing, unreadable or wrong.
        """
        given: dict[str, Given] = {}
        performance: dict[str, Performance] = {}
        files = list(_files(paths))
        for path in files:
            document = _read(path)
            reason = document.source or f"the file {path.name}"
            for name, row in document.models.items():
                key = name.lower()
                if isinstance(row, ModelProfile):
                    believed = qualities_of(row)
                    if believed is not None:
                        strength = document.strength or believed.strength
                        given[key] = Given(believed.scores, strength, reason)
                    continue
                if row.scores:
                    before = given.get(key)
                    scores = {**(before.scores if before else {}), **row.scores}
                    given[key] = Given(scores, document.strength, reason)
                if row.performance.model_fields_set:
                    update = {name: getattr(row.performance, name) for name in row.performance.model_fields_set}
                    performance[key] = performance.get(key, Performance()).model_copy(update=update)
        return cls(given, performance, tuple(str(path) for path in files))

    def by_row(self, models: Iterable[Model]) -> dict[str, Given]:
        """The given qualities by the id of each row that a name of the files means."""
        return {} if not self.given else {row.id: found for row in models if (found := _of(row, self.given))}

    def timed(self, models: Iterable[Model]) -> Iterable[Model]:
        """The rows with the files' figures of speed."""
        if not self.performance:
            return models
        return [self._timed(row) for row in models]

    def unmatched(self, models: Iterable[Model]) -> list[str]:
        """Names of the files that mean none of these rows; a discovered one may come later."""
        known = {name for row in models for name in _names(row)}
        return sorted((self.given.keys() | self.performance.keys()) - known)

    def _timed(self, row: Model) -> Model:
        found = _of(row, self.performance)
        if found is None:
            return row
        update = {name: getattr(found, name) for name in found.model_fields_set}
        return row.model_copy(update={"performance": row.performance.model_copy(update=update)})


def meant(names: Iterable[str], models: Iterable[Model]) -> dict[str, list[str]]:
    """The ids of the rows that each name means: an id, provider/id, name or alias, in any case."""
    found: dict[str, list[str]] = {name: [] for name in names}
    wanted: dict[str, list[str]] = {}
    for name in found:
        wanted.setdefault(name.lower(), []).append(name)
    for row in models:
        for name in dict.fromkeys(name for known in _names(row) for name in wanted.get(known, ())):
            found[name].append(row.id)
    return found


def _names(row: Model) -> tuple[str, ...]:
    own = (row.id, *row.aliases, *(() if row.name is None else (row.name,)))
    return tuple(name.lower() for name in (*own, *(f"{row.provider}/{name}" for name in own)))


def _of(row: Model, table: Mapping[str, T]) -> T | None:
    return next((table[name] for name in _names(row) if name in table), None)


def _files(paths: Sequence[Path]) -> Iterable[Path]:
    for path in paths:
        whole = path.expanduser()
        if whole.is_dir():
            found = sorted(file for file in whole.iterdir() if file.suffix.lower() in _KINDS and file.is_file())
            if len(found) > _MAX_FILES:
                raise ConfigurationError(f"routing.priors: '{path}' has more than {_MAX_FILES} files.")
            yield from found
        elif whole.suffix.lower() in _KINDS and whole.is_file():
            yield whole
        else:
            raise ConfigurationError(
                f"routing.priors: '{path}' is no folder and no file that ends with .json or .toml; correct it."
            )


def faults(paths: Sequence[Path]) -> Iterator[ConfigurationError]:
    """Every error of files and folders, of which :meth:`PriorFiles.read` raises the first."""
    for path in paths:
        try:
            files = list(_files([path]))
        except ConfigurationError as error:
            yield error
            continue
        for file in files:
            try:
                _read(file)
            except ConfigurationError as error:
                wrong = error.__cause__
                said = _told(file, wrong) if isinstance(wrong, ValidationError) else (error.message,)
                yield from map(ConfigurationError, said)


def _told(path: Path, error: ValidationError) -> Iterator[str]:
    for each in error.errors(include_url=False):
        yield f"routing.priors: '{path}': {_place(each)}: {describe(each, value=True)}"


def _place(error: ErrorDetails) -> str:
    """The dotted name of a figure, without the kind of what a model has."""
    at = [str(part) for part in error["loc"]]
    inner = at[4:] if at[3:4] in (["scores"], ["performance"]) else at[3:]
    return ".".join(at[:2] + inner if len(at) > 2 else at) or "it"


def _read(path: Path) -> _File:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ConfigurationError(f"routing.priors: '{path}' has more than {_MAX_BYTES // 2**20} MiB.")
        text = content.decode("utf-8-sig")
        document = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
        return _File.model_validate(document)
    except ValidationError as error:
        raise ConfigurationError(next(_told(path, error))) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"routing.priors: '{path}' cannot be read: {error}") from None
