"""Pulls a model of the curated catalogue by name, and completes its row with what the catalogue knows."""

from __future__ import annotations

import re

from catalog.curated.choosing import EVERY_ENGINE, PLAIN, Wanted, best, smallest
from catalog.curated.collection import Named, curated
from catalog.curated.entries import ENGINES, Entry
from catalog.errors import PullError
from catalog.hardware import Machine
from catalog.installing import install_command
from catalog.model import ENDPOINTS, Capability, HubSource, Limits, Model
from catalog.store.progress import Progress, silent
from catalog.store.store import Known, Store

_OF_THE_WEIGHTS = frozenset({Capability.CODE, Capability.SUMMARISE})
"""Features of a chat model that no chat template tells."""

_NOT_OF_MLX = frozenset({Capability.VIDEO_INPUT, Capability.AUDIO_INPUT})
_SIZE = re.compile(r"-(\d+(?:\.\d+)?[bm](?:-a\d+(?:\.\d+)?b)?)$")

EXTRAS = {
    "whisper": "speech",
    "onnx-asr": "speech",
    "speakers": "speech",
    "diffusion": "images",
    "diffusion-video": "video",
}
"""The extra that installs an engine, where it has another name."""


def pull_named(
    store: Store,
    named: Named,
    machine: Machine,
    progress: Progress = silent,
    *,
    wanted: Wanted = PLAIN,
    token: str | None = None,
    revision: str = "main",
    model_id: str | None = None,
    known: Known = lambda _: None,
) -> Model:
    """Pull the form of an entry that runs best on this machine, or the quantisation that was asked for.

    Returns the row, which the store keeps. Raises PullError if nothing fits or no engine runs it, and as
    :meth:`Store.pull_source` does.
    """
    entry = named.entry
    source, engine = source_of(named, machine, wanted)
    name = model_id or (f"{entry.id}-{named.quantization.lower()}" if named.quantization else entry.id)
    memory = max((device.budget for device in machine.devices), default=None)
    return store.pull_source(
        source.model_copy(update={"revision": revision}),
        progress,
        token=token,
        memory=memory if engine == "llamacpp" else None,
        model_id=name,
        described=lambda row: completed(row, entry, engine),
        known=known,
    )


def source_of(named: Named, machine: Machine, wanted: Wanted = PLAIN) -> tuple[HubSource, str]:
    """The repository and the engine of the best form here. Raises PullError that says why there is none."""
    entry = named.entry
    if named.quantization is not None and entry.gguf is not None:
        return HubSource(repository=entry.gguf.repository, pattern=named.quantization), "llamacpp"
    choice = best(entry, machine, wanted)
    if choice is None:
        raise PullError(why_not(entry, machine, wanted))
    return choice.source, choice.engine


def why_not(entry: Entry, machine: Machine, wanted: Wanted = PLAIN) -> str:
    """Why no form of an entry runs here, as a sentence with the remedy."""
    engines = [engine for form, engine in ENGINES.items() if getattr(entry, form) is not None]
    if not engines:
        where = next(entry.repositories())
        return f"{entry.name} cannot be pulled: {entry.note or 'no engine here runs it'}. Its weights are {where}."
    anyhow = Wanted(wanted.context, wanted.streams, EVERY_ENGINE, wanted.quantization)
    if best(entry, machine, anyhow) is not None:
        engine = next((name for name in engines if name not in wanted.engines), engines[0])
        return (
            f"{entry.name} needs the engine '{engine}'. Install it: {install_command(EXTRAS.get(engine, engine))}"
        )
    need, room = smallest(entry, wanted), max((device.budget for device in machine.devices), default=0)
    return (
        f"{entry.name} needs about {(need or 0) / 1e9:.1f} GB of memory in its smallest form, and this machine "
        f"has {room / 1e9:.1f} GB for models. What fits: roundhouse recommend"
    )


def completed(row: Model, entry: Entry, engine: str) -> Model:
    """The row of a pulled model with what its files do not tell: names, licence, prompts, parsers, figures."""
    options = {**row.options, **entry.options.get(engine, {})}
    if engine == "vllm":
        parsers = {"tool_call_parser": entry.tool_parser, "reasoning_parser": entry.reasoning_parser}
        options = {**{name: parser for name, parser in parsers.items() if parser}, **options}
    return row.model_copy(
        update={
            "name": entry.name,
            "aliases": _aliases(row, entry),
            "family": entry.family,
            "version": entry.version,
            "license": entry.license,
            "engine": engine,
            "capabilities": _capabilities(row, entry, engine),
            "limits": Limits(
                **{
                    **entry.limits.model_dump(exclude_defaults=True),
                    **row.limits.model_dump(exclude_defaults=True),
                }
            ),
            "size": row.size.model_copy(
                update={"parameters": row.size.parameters or round(entry.parameters * 1e9)}
            ),
            "languages": entry.languages or row.languages,
            "voices": entry.voices,
            "published": dict(entry.published),
            "successor": entry.successor,
            "tags": row.tags | {"hub"},
            "options": options,
        }
    )


def described(row: Model) -> Model:
    """The row of a repository that was pulled by its address, completed if the curated catalogue knows it."""
    entry = curated().of_repository(row.source.repository) if isinstance(row.source, HubSource) else None
    return row if entry is None or row.engine is None else completed(row, entry, row.engine)


def _capabilities(row: Model, entry: Entry, engine: str) -> frozenset[Capability]:
    """A GGUF's header tells what its template and projector can, and a pipeline's name what it makes videos from;
    other forms have what the entry says."""
    if engine == "diffusion-video":
        return row.capabilities | entry.capabilities
    if engine == "llamacpp" and Capability.CHAT in entry.capabilities & ENDPOINTS:
        return row.capabilities | (entry.capabilities & _OF_THE_WEIGHTS)
    return entry.capabilities - _NOT_OF_MLX if engine == "mlx" else entry.capabilities


def _aliases(row: Model, entry: Entry) -> tuple[str, ...]:
    """Further names of the row: all of the entry's, unless its id is one quantisation's or the user's choice."""
    if row.id != entry.id:
        head, _, tail = row.id.partition(f"{entry.id}-")
        return tuple(f"{tag}-{tail}" for tag in tagged_names(entry)) if tail and not head else row.aliases
    names = (*tagged_names(entry), *entry.names, *entry.repositories())
    return tuple(name for name in dict.fromkeys(names) if name != row.id and not re.search(r"\s", name))


def answers_to(named: Named, name: str) -> bool:
    """Whether the row that a pull of this name makes has the name, as it is written, among its own."""
    entry, suffix = named.entry, "" if named.quantization is None else f"-{named.quantization.casefold()}"
    names = {f"{each}{suffix}" for each in (entry.id, *tagged_names(entry))}
    if not suffix:
        names.update(each.casefold() for each in (*entry.names, *entry.repositories()))
    return name.strip().casefold() in names


def tagged_names(entry: Entry) -> tuple[str, ...]:
    """The name of an entry as Ollama writes it: ``qwen3:8b``."""
    tagged = _SIZE.sub(r":\1", entry.id)
    return (tagged,) if tagged != entry.id else ()
