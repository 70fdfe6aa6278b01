"""``list`` and ``show``: what is known of models, on this machine and to pull. They need no running server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, NamedTuple

import typer
from pydantic import ValidationError

from backends.registry import wire_of
from backends.workers.engines.registry import Engines, builtin_engines
from catalog.catalog import Catalog
from catalog.curated.advice import entry_of, row_of_entry
from catalog.curated.choosing import Fit, Wanted, best, smallest
from catalog.curated.collection import Curated, curated
from catalog.curated.entries import ENGINES, Entry
from catalog.curated.pulling import tagged_names, why_not
from catalog.hardware import Machine, detect
from catalog.model import Model, PathSource
from catalog.types import Json
from catalog.validation.wording import describe, or_known, place
from server.advising.models import as_json, this_machine, upgrade_lines, upgrades, wanted_of
from server.commands import terminal
from server.commands.library.local import (
    Config,
    ModelId,
    broken_files,
    catalog_and_store,
    faults_of,
    missing_key,
    state_of,
)
from server.commands.support.statuses import UsageError
from server.commands.terminal import bytes_of
from server.library import resolved
from server.models.filters import ModelFilter, memory_of
from server.settings import load_settings

app = typer.Typer()


class Listed(NamedTuple):
    """A line of ``list``; ``size`` in bytes, on disk or to fetch."""

    row: Model
    engine: str
    size: int | None
    state: str


@app.command(name="list")
def list_models(
    show_all: Annotated[
        bool, typer.Option("--all", help="Include models that are not on this machine, and those to pull by name.")
    ] = False,
    capability: Annotated[
        list[str] | None, typer.Option(help="Only models with this capability, such as vision. Repeatable.")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Only models with this tag. Repeatable.")] = None,
    provider: Annotated[str | None, typer.Option(help="Only models of this provider.")] = None,
    max_memory: Annotated[
        str | None, typer.Option(help="Only models of this machine that need no more memory, such as 8GB.")
    ] = None,
    max_price: Annotated[
        float | None, typer.Option(help="Only models that cost no more dollars per million tokens.")
    ] = None,
    local: Annotated[
        bool | None, typer.Option("--local/--remote", help="Only models of this machine, or of providers.")
    ] = None,
    as_json_: terminal.AsJson = False,
    config: Config = None,
) -> None:
    """List the models on this machine, or with --all every model that is known."""
    settings = load_settings(config)
    catalog, store = catalog_and_store(settings)
    engines = builtin_engines(settings.workers.python)
    faults = faults_of(catalog, store, engines)
    wanted = _filter(
        capability=capability, tags=tag, provider=provider, max_memory=max_memory, max_price=max_price, local=local
    )
    sizes = {stored.id: stored.size for stored in store.list()}
    lines = list(_rows(catalog, engines, faults, sizes, show_all))
    installed = [model for model in catalog.models(local=True) if model.id not in faults]
    better = upgrades(settings, installed, engines)
    if show_all:
        machine = detect()
        keeps = wanted_of(settings, machine, engines=engines)
        lines += _to_pull(curated(), {line.row.id for line in lines}, machine, keeps)
    if provider is not None:
        _check_provider(provider, catalog, lines)
    lines = [line for line in lines if wanted.passes(line.row)]
    console = terminal.console()
    if as_json_:
        console.print_json(data=[_json_of(line, better.get(line.row.id)) for line in lines])
        return
    table = terminal.table()
    ends = ("ENDS",) if show_all else ()
    for column in ("MODEL", "ENGINE", "CAN", "CONTEXT", "SIZE", *ends, "STATE"):
        table.add_column(column, overflow="fold", no_wrap=column in ("MODEL", "ENDS", "STATE"))
    for line in lines:
        table.add_row(
            line.row.id,
            line.engine,
            ", ".join(sorted(line.row.endpoints)),
            str(line.row.limits.context_window or ""),
            bytes_of(line.size),
            *([str(line.row.ends or "")] if show_all else []),
            line.state,
        )
    console.print(table)
    if not lines and wanted.filters:
        terminal.say(
            f"no model passes these filters{'' if show_all else '; --all looks at every known one'}", err=True
        )
    for text in broken_files(settings, catalog, faults):
        console.print(text, highlight=False, markup=False)
    for text in upgrade_lines(better):
        console.print(text, highlight=False, markup=False)


def _rows(
    catalog: Catalog, engines: Engines, faults: dict[str, str], sizes: dict[str, int], show_all: bool
) -> Iterator[Listed]:
    for model in catalog.models():
        fault = faults.get(model.id)
        own = isinstance(model.source, PathSource)  # a file of the user's is listed also when it is broken
        if not show_all and (not model.local or (fault is not None and not own)):
            continue
        yield Listed(
            model,
            model.engine or f"{model.endpoint_name}{_wire(model, catalog)}",
            sizes.get(model.id) or model.size.disk,
            state_of(model, fault, engines),
        )


def _filter(**given: object) -> ModelFilter:
    """The filter of these options. Raises typer.BadParameter."""
    try:
        return ModelFilter.model_validate(
            {name: value for name, value in given.items() if value not in (None, [])}
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        option = f"--{place(first).partition('.')[0].replace('_', '-')}"
        raise typer.BadParameter(describe(first, value=True), param_hint=option) from None


def _check_provider(name: str, catalog: Catalog, lines: Iterable[Listed]) -> None:
    """Raises UsageError for a provider that no known model has."""
    known = {row.provider.lower() for row in catalog.models()} | {line.row.provider.lower() for line in lines}
    known |= {server.id.lower() for server in catalog.servers}
    known |= {row_of_entry(entry).provider.lower() for entry in curated()}
    if name.lower() not in known:
        raise UsageError(f"There is no provider '{name[:80]}'{or_known(name, known)}")


def _to_pull(collection: Curated, listed: set[str], machine: Machine, wanted: Wanted) -> Iterator[Listed]:
    """The curated models that are not here: with the form that would be pulled, or the smallest if none fits."""
    anyhow = Wanted(wanted.context, wanted.streams)
    for entry in collection:
        if entry.id in listed:
            continue
        choice = best(entry, machine, wanted)
        runs = choice or best(entry, machine, anyhow)
        state = "not pulled" if choice else "no engine" if runs or not engines_of(entry) else "too large"
        row = row_of_entry(entry, runs)
        if runs is None:
            row = row.model_copy(update={"size": row.size.model_copy(update={"memory": smallest(entry, wanted)})})
        engine = runs.engine if runs else next(iter(engines_of(entry)), "")
        yield Listed(row, engine, runs.size if runs else None, state)


def engines_of(entry: Entry) -> list[str]:
    """The engines that run one of the entry's forms."""
    return [engine for form, engine in ENGINES.items() if getattr(entry, form) is not None]


def _json_of(line: Listed, better: Fit | None) -> Json:
    row = line.row
    return {
        "id": row.id,
        "engine": line.engine,
        "capabilities": sorted(row.capabilities),
        "context_window": row.limits.context_window,
        "size_bytes": line.size,
        "memory_bytes": memory_of(row),
        "local": row.local,
        "license": row.license,
        "tags": sorted(row.tags),
        "ends": None if row.ends is None else row.ends.isoformat(),
        "state": line.state,
        "upgrade": better.entry.id if better else None,
    }


def _wire(model: Model, catalog: Catalog) -> str:
    wire = wire_of(model, catalog)
    return f" ({wire})" if wire == "responses" else ""


@app.command()
def show(
    model: ModelId,
    as_json_: Annotated[
        bool, typer.Option("--json", help="Print JSON, which is what it prints without this option, too.")
    ] = False,
    config: Config = None,
) -> None:
    """Show what is known of a model, and its state on this machine, as JSON."""
    del as_json_  # there is no other form: the option is that of the other commands
    settings = load_settings(config)
    catalog, store = catalog_and_store(settings)
    engines = builtin_engines(settings.workers.python)
    found = None if catalog.knows(model) else curated().find(model)
    if found is not None:
        machine = this_machine()
        facts = entry_facts(found.entry, machine, wanted_of(settings, machine, engines=engines))
        terminal.console().print_json(data=facts)
        return
    row = resolved(model, catalog)
    missing = faults_of([row], store, engines).get(row.id) or missing_key(row, catalog)
    facts = row.model_dump(mode="json", exclude_none=True)
    if (wire := wire_of(row, catalog)) is not None:
        facts["wire"] = wire
    entry = entry_of(row, curated()) if row.local else None
    if entry is not None:
        facts["catalogue"] = checked(entry)
    better = upgrades(settings, [row], engines).get(row.id) if row.local and missing is None else None
    if better is not None:
        facts["upgrade"] = as_json(better)
    terminal.console().print_json(data={**facts, "state": {"ready": missing is None, "missing": missing}})


def entry_facts(entry: Entry, machine: Machine, wanted: Wanted) -> Json:
    """The curated facts of a model that is not here, the form that fits, and which facts were looked up."""
    choice = best(entry, machine, wanted)
    facts: Json = entry.model_dump(mode="json", exclude_defaults=True, exclude={"verified", "cache"})
    facts["capabilities"] = sorted(entry.capabilities)
    facts["names"] = [*tagged_names(entry), *entry.names]
    facts["parameters"] = round(entry.parameters * 1e9)
    if entry.active is not None:
        facts["active"] = round(entry.active * 1e9)
    facts["kv_cache_bytes"] = {str(context): entry.cache_bytes(context) for context in (8192, 32768)}
    if entry.gguf is not None:
        facts["gguf"]["sizes"] = {
            name: {"bytes": size, "exact": exact} for name, size, exact in entry.gguf_sizes()
        }
    return {
        **facts,
        **checked(entry),
        "here": as_json(choice) if choice is not None else None,
        "state": {
            "ready": False,
            "missing": f"It is not on this machine. Pull it with: roundhouse pull {entry.id}"
            if choice is not None
            else why_not(entry, machine, wanted),
        },
    }


def checked(entry: Entry) -> Json:
    """Which facts of an entry were looked up, and where; and which are from memory."""
    sources = curated().sources
    facts = [form for form in (*ENGINES, "weights") if getattr(entry, form) is not None]
    facts += ["parameters", "context", "license"]
    facts += [name for name, given in _optional_facts(entry) if given]
    return {
        "verified": {name: sources.get(place, place) for name, place in sorted(entry.verified.items())},
        "unverified": [name for name in facts if name not in entry.verified],
    }


def _optional_facts(entry: Entry) -> list[tuple[str, Any]]:
    return [
        ("cache", entry.cache),
        ("parsers", entry.tool_parser or entry.reasoning_parser),
        ("score", entry.score is not None),
        ("published", entry.published),
    ]
