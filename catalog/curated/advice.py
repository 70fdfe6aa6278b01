"""Recommends models for a machine, one per capability, and better ones than those that are installed."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from catalog.curated.choosing import ENOUGH, PLAIN, Fit, Wanted, best
from catalog.curated.collection import Curated
from catalog.curated.entries import Entry
from catalog.discovery import upgrades
from catalog.hardware import Device, Machine
from catalog.model import FREE, Capability, HubSource, Limits, Model, Size

CAPABILITIES = (
    Capability.CHAT, Capability.CODE, Capability.VISION, Capability.EMBED, Capability.RERANK,
    Capability.TRANSCRIBE, Capability.SPEAK, Capability.IMAGE,
)  # fmt: skip
"""The capabilities that a recommendation covers, in its order."""

PERMISSIVE = frozenset({"apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "openrail"})
"""Licences without conditions on who uses the model for what, in lower case."""

_PER_DOUBLING, _PER_YEAR, _ZERO = 7.0, 21.0, 50.4
_PER_HALVING = 20.0
"""Points of a score that half the speed costs: a model that answers slower than one reads must be far better."""

_ON_A_PROCESSOR: Mapping[Capability, float] = MappingProxyType(
    {Capability.EMBED: 0.6, Capability.RERANK: 0.6, Capability.TRANSCRIBE: 0.25, Capability.IMAGE: 2.0}
)
"""Billions of weights with which a processor is quick enough: several texts a second, speech in real time."""


@dataclass(frozen=True, slots=True)
class Advice:
    """The recommended model for a capability; ``choice`` is ``None`` where nothing of the catalogue fits."""

    capability: Capability
    choice: Fit | None


def advise(
    collection: Curated,
    machine: Machine,
    wanted: Wanted = PLAIN,
    *,
    capabilities: Iterable[Capability] = CAPABILITIES,
    licenses: Collection[str] = (),
) -> list[Advice]:
    """The best model that fits for each capability.

    Slowness counts against a model (:data:`_PER_HALVING`). ``licenses`` are licences (``apache-2.0``)
    or ``permissive``; none given means any.
    """
    allowed = [entry for entry in collection if licensed(entry, licenses)]
    chosen = {entry.id: best(entry, machine, wanted) for entry in allowed}
    return [
        Advice(
            capability,
            _best_of([chosen[entry.id] for entry in allowed if capability in entry.capabilities], capability),
        )
        for capability in capabilities
    ]


def _best_of(choices: list[Fit | None], capability: Capability) -> Fit | None:
    fitting = [choice for choice in choices if choice is not None]
    return max(fitting, key=lambda choice: (_worth(choice, capability), choice.size), default=None)


def _worth(choice: Fit, capability: Capability) -> float:
    """The score of a choice, less a penalty for each halving of the speed that is enough."""
    if choice.tokens_per_second is not None:
        lack = max(0.0, math.log2(ENOUGH / max(choice.tokens_per_second, 1e-3)))
    elif choice.device == "cpu" and capability in _ON_A_PROCESSOR:
        lack = max(0.0, math.log2(choice.entry.working / _ON_A_PROCESSOR[capability]))
    else:
        lack = 0.0
    return score(choice.entry) - _PER_HALVING * lack


def license_names(collection: Iterable[Entry]) -> list[str]:
    """The words that :func:`licensed` takes: each licence of the collection in lower case, and ``permissive``."""
    return sorted({"permissive", *(entry.license.casefold() for entry in collection)})


def licensed(entry: Entry, licenses: Collection[str]) -> bool:
    """Whether one of the licences, or of the words ``permissive``, covers the entry."""
    own = entry.license.casefold()
    asked = {each.casefold() for each in licenses}
    return not asked or own in asked or ("permissive" in asked and own in PERMISSIVE)


def score(entry: Entry) -> float:
    """How good a model is among those of its capability: its score, else an estimate from size and age.

    The estimate is a line through 24 open models of the Artificial Analysis Intelligence Index of August 2026, by
    the logarithm of the weights (a mixture of experts counts as the geometric mean of all and active ones) and the
    month of release.
    """
    if entry.score is not None:
        return entry.score
    year, month = entry.released.split("-")
    years = int(year) - 2024 + (int(month) - 1) / 12
    effective = math.sqrt(entry.parameters * entry.working)
    return _PER_DOUBLING * math.log2(effective) + _PER_YEAR * years - _ZERO


def with_memory(machine: Machine, memory: int) -> Machine:
    """The machine as if its fastest device, or the main memory without another, had so many bytes."""
    devices = sorted(machine.devices, key=lambda device: device.kind == "cpu")
    return replace(machine, memory=memory, devices=tuple(_resized(device, memory) for device in devices[:1]))


def _resized(device: Device, memory: int) -> Device:
    return replace(device, memory=memory)


def row_of_entry(entry: Entry, choice: Fit | None = None) -> Model:
    """The entry as a row of the catalogue, of the chosen form: for listings and comparisons, not for requests."""
    repository = choice.source if choice else HubSource(repository=next(entry.repositories()))
    return Model(
        id=entry.id,
        name=entry.name,
        aliases=tuple(dict.fromkeys(entry.names)),
        family=entry.family,
        version=entry.version,
        license=entry.license,
        capabilities=entry.capabilities,
        source=repository,
        engine=choice.engine if choice else None,
        limits=Limits(**entry.limits.model_dump(exclude_defaults=True)),
        size=Size(
            parameters=round(entry.parameters * 1e9),
            disk=choice.size if choice else None,
            memory=choice.memory if choice else None,
            quantization=choice.quantization if choice else None,
        ),
        price=FREE,
        published=entry.published,
        languages=entry.languages,
        voices=entry.voices,
        tags=frozenset({"hub"}),
        successor=entry.successor,
        origin="builtin",
    )


def better(
    installed: Iterable[Model], collection: Curated, machine: Machine, wanted: Wanted = PLAIN
) -> dict[str, Fit]:
    """Map the id of each installed model to a better one that fits here, as :func:`catalog.discovery.upgrades`."""
    rows = list(installed)
    known = {row.id: entry for row in rows if (entry := entry_of(row, collection)) is not None}
    chosen: dict[str, Fit] = {}

    def fits(row: Model) -> bool:
        entry = collection.get(row.id)
        choice = best(entry, machine, wanted) if entry is not None else None
        if choice is not None:
            chosen[row.id] = choice
        return choice is not None

    here = {entry.id for entry in known.values()} | {row.id for row in rows}
    candidates = [row_of_entry(entry) for entry in collection]
    stand_ins = [
        row_of_entry(known[row.id]).model_copy(update={"id": row.id}) if row.id in known else row
        for row in rows
        if row.local
    ]
    found = upgrades(stand_ins, candidates, fits)
    return {name: chosen[row.id] for name, row in found.items() if row.id not in here and row.id in chosen}


def entry_of(row: Model, collection: Curated) -> Entry | None:
    """The entry that an installed row came from: by its id, else by its repository."""
    entry = collection.get(row.id)
    if entry is None and isinstance(row.source, HubSource):
        entry = collection.of_repository(row.source.repository)
    return entry
