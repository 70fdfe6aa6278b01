"""Advice for this machine: which models to run, and which of those here have a better successor that fits."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache

from backends.workers.engines.registry import Engines, builtin_engines
from catalog.bandwidth import with_bandwidth
from catalog.curated.advice import CAPABILITIES, Advice, advise, better, with_memory
from catalog.curated.choosing import PLAIN, Fit, Wanted
from catalog.curated.collection import curated
from catalog.hardware import Machine, detect
from catalog.model import Capability, Model
from catalog.types import Json
from server.program import program
from server.settings import Settings


def wanted_of(
    settings: Settings, machine: Machine, *, context: int | None = None, engines: Engines | None = None
) -> Wanted:
    """The bounds of a model on this machine: the engines that are here, and slots and context of its workers."""
    engines = engines or builtin_engines(settings.workers.python)
    llamacpp = engines.get("llamacpp")
    threads = settings.workers.threads or machine.cores
    slots = settings.workers.slots or (PLAIN.streams if llamacpp is None else llamacpp.slots(threads))
    usable = frozenset(name for name in engines if engines.missing(name) is None)
    return Wanted(context or settings.workers.context, slots, usable)


@cache
def this_machine() -> Machine:
    """This machine with the bandwidth of its memory, which is measured once."""
    return with_bandwidth(detect())


def recommended(
    settings: Settings,
    *,
    capabilities: Iterable[Capability] = CAPABILITIES,
    context: int | None = None,
    memory: int | None = None,
    licenses: Collection[str] = (),
) -> list[Advice]:
    """The best model that fits on this machine for each capability; ``memory`` in bytes stands for another's."""
    machine = this_machine() if memory is None else with_memory(this_machine(), memory)
    wanted = wanted_of(settings, machine, context=context)
    return advise(curated(), machine, wanted, capabilities=capabilities, licenses=licenses)


def upgrades(settings: Settings, rows: Iterable[Model], engines: Engines | None = None) -> dict[str, Fit]:
    """Map the ids of installed models to a better one that fits here."""
    machine = detect()
    return better(rows, curated(), machine, wanted_of(settings, machine, engines=engines))


def advice_lines(advices: Sequence[Advice]) -> list[str]:
    """A line for each capability, and how to pull: for ``doctor`` and the end of the first start."""
    width = max((len(str(advice.capability)) for advice in advices), default=0)
    lines = [
        f"{advice.capability:<{width}}  {_told(advice.choice)}" for advice in advices if advice.choice is not None
    ]
    return [*lines, f"Pull them with: {program()} pull recommended"] if lines else []


def upgrade_lines(found: Mapping[str, Fit]) -> list[str]:
    """A line for each installed model that has a better one: for ``list`` and ``doctor``."""
    return [
        f"{name}: a better one fits here, {choice.entry.id}. Pull it with: roundhouse pull {choice.entry.id}"
        for name, choice in found.items()
    ]


def _told(choice: Fit) -> str:
    speed = "" if choice.tokens_per_second is None else f", about {choice.tokens_per_second:.0f} tokens/s"
    form = f" {choice.quantization}" if choice.quantization else ""
    about = "" if choice.exact else "about "
    return (
        f"{choice.entry.id}{form}: {about}{choice.size / 1e9:.1f} GB to fetch, {choice.memory / 1e9:.1f} GB of "
        f"memory on {choice.device}{speed} ({choice.entry.license})"
    )


def as_json(choice: Fit) -> Json:
    """A chosen form of a model as a JSON object."""
    return {
        "model": choice.entry.id,
        "name": choice.entry.name,
        "engine": choice.engine,
        "repository": choice.source.repository,
        "quantization": choice.quantization,
        "size_bytes": choice.size,
        "size_is_exact": choice.exact,
        "device": choice.device,
        "context": choice.context,
        "requests_at_once": choice.streams,
        "memory_bytes": choice.memory,
        "tokens_per_second": None if choice.tokens_per_second is None else round(choice.tokens_per_second, 1),
        "license": choice.entry.license,
        "needs_token": choice.needs_token,
        "pull": f"roundhouse pull {choice.entry.id}",
    }
