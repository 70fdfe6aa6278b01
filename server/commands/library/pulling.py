"""``pull`` and ``rm``: the models on this machine. They need no running server."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from backends.workers.engines.registry import builtin_engines
from catalog import starter
from catalog.catalog import Catalog
from catalog.curated.advice import CAPABILITIES
from catalog.curated.choosing import Fit, Wanted, best
from catalog.curated.collection import Named, curated
from catalog.curated.entries import ENGINES
from catalog.curated.pulling import pull_named
from catalog.errors import ModelNotFound, PullError
from catalog.hardware import Machine, detect
from catalog.model import Capability
from catalog.store.store import Store
from server.advising.models import recommended, wanted_of
from server.catalog_updates import read_catalog
from server.commands import terminal
from server.commands.library.local import Config, ModelId, catalog_and_store
from server.commands.support.completion import complete_pull
from server.commands.support.progress import PullProgress
from server.commands.terminal import bytes_of
from server.library import check_name, not_removable, pull_into
from server.settings import Settings, load_settings

app = typer.Typer()
Token = Annotated[
    str | None,
    typer.Option(envvar="HF_TOKEN", show_envvar=True, help="Access token for gated repositories of the hub."),
]


def fetch_starter(settings: Settings) -> bool:
    """Fetch the starter models that are missing; returns whether any was."""
    store = Store(settings.data_dir / "models")
    catalog = read_catalog(settings, store, registered=None)
    if missing := starter.absent(catalog, store):
        with PullProgress(len(missing)) as progress:
            starter.ensure(catalog, store, progress)
    return bool(missing)


@app.command()
def pull(
    what: Annotated[
        str,
        typer.Argument(
            help="A model by name (qwen3.5:9b, qwen3-8b-q8_0), an address of the hub "
            "(hf.co/OWNER/REPOSITORY:Q4_K_M, a pasted link), 'recommended' or 'starter'.",
            autocompletion=complete_pull,
        ),
    ],
    revision: Annotated[str, typer.Option(help="Branch, tag or commit of the repository.")] = "main",
    name: Annotated[
        str | None, typer.Option(help="Id of the model in the catalogue. Default: from its name.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="Take the form for this engine: llamacpp, mlx, vllm...")
    ] = None,
    capability: Annotated[
        list[str] | None, typer.Option(help="With 'recommended': only for this capability. Repeatable.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before a large download.")] = False,
    token: Token = None,
    config: Config = None,
) -> None:
    """Download a model: resumed after an interruption, verified, moved into place once complete."""
    settings = load_settings(config)
    catalog, store = catalog_and_store(settings)
    machine = detect()
    wanted = wanted_of(settings, machine)
    _check_options(what, revision=revision, name=name, engine=engine, capability=capability)
    if engine is not None:
        if name is not None:
            check_name(store, catalog, what, name)
        form = _form(what, engine, settings, machine, wanted)
        with PullProgress() as progress:
            row = pull_named(
                store, form, machine, progress,
                wanted=replace(wanted, engines=frozenset({engine})), token=token, revision=revision,
                model_id=name or f"{form.entry.id}-{engine}", known=catalog.get,
            )  # fmt: skip
        terminal.say(f"{row.id} is ready")
        return
    names = [what] if what != "recommended" else _recommended(settings, store, capability, yes)
    memory = max((device.budget for device in machine.devices), default=None)
    for each in names:
        with PullProgress() as progress:
            ready = pull_into(
                store, catalog, each, progress,
                revision=revision, token=token, memory=memory, model_id=name, wanted=lambda: wanted,
            )  # fmt: skip
        for one in ready:
            terminal.say(f"{one} is ready")


def _check_options(
    what: str, *, revision: str, name: str | None, engine: str | None, capability: list[str] | None
) -> None:
    """Raises typer.BadParameter for an option that means nothing beside ``what``."""
    several = what in ("recommended", "starter")
    if capability and what != "recommended":
        raise typer.BadParameter("--capability is for 'recommended'")
    if several and (name is not None or engine is not None or revision != "main"):
        raise typer.BadParameter(f"--name, --engine and --revision are for one model, and {what!r} is several")


def _form(what: str, engine: str, settings: Settings, machine: Machine, wanted: Wanted) -> Named:
    """The model of the curated catalogue, whose form for this engine fits here.

    Raises EngineMissing, ModelNotFound, and PullError that says why there is none.
    """
    missing = builtin_engines(settings.workers.python).missing(engine)
    if missing is not None:
        raise missing
    found = curated().find(what)
    if found is None:
        raise ModelNotFound(what, nearest=curated().nearest(what))
    entry = found.entry
    forms = [each for form, each in ENGINES.items() if getattr(entry, form) is not None]
    if engine not in forms:
        raise PullError(
            f"{entry.name} has no form for the engine '{engine}'; it has: {', '.join(forms) or 'none'}."
        )
    if best(entry, machine, replace(wanted, engines=frozenset({engine}))) is None:
        raise PullError(
            f"{entry.name} does not fit on a device of this machine in its form for the engine '{engine}'. "
            f"What it needs: roundhouse show {entry.id}"
        )
    return found


def _recommended(settings: Settings, store: Store, capabilities: list[str] | None, yes: bool) -> list[str]:
    """The names of the recommended models that are not here yet, once they were shown and agreed to.

    Raises PullError if the disk has no room for them.
    """
    chosen: dict[str, Fit] = {}
    for advice in recommended(settings, capabilities=map(capability_named, capabilities or CAPABILITIES)):
        if advice.choice is not None:
            chosen.setdefault(advice.choice.entry.id, advice.choice)
    here = {stored.id for stored in store.list()}
    missing = [choice for name, choice in chosen.items() if name not in here]
    if not missing:
        terminal.say("The recommended models are on this machine." if chosen else "Nothing of the catalogue fits.")
        return []
    for choice in missing:
        terminal.say(
            f"{choice.entry.id:<28} {choice.quantization or '':<10} about {bytes_of(choice.size)}", err=True
        )
    total = sum(choice.size for choice in missing)
    free = free_bytes(store.root)
    if free is not None and total > free:
        raise PullError(f"They take about {bytes_of(total)}, and the disk has {bytes_of(free)} free.")
    if not yes and sys.stdin.isatty() and not typer.confirm(f"Download about {bytes_of(total)}?", default=True):
        raise typer.Exit(1)
    return [choice.entry.id for choice in missing]


def free_bytes(folder: Path) -> int | None:
    """Bytes that are free on the disk of a folder, or of the nearest one above it that exists."""
    for place in (folder, *folder.parents):
        if place.exists():
            return shutil.disk_usage(place).free
    return None


def capability_named(name: str) -> Capability:
    """The capability that a recommendation covers. Raises typer.BadParameter for another name."""
    for capability in CAPABILITIES:
        if name.casefold() == capability:
            return capability
    raise typer.BadParameter(f"there is no recommendation for {name!r}; there are: {', '.join(CAPABILITIES)}")


@app.command(name="rm")
def remove(model: ModelId, config: Config = None) -> None:
    """Delete a model from this machine. Files that another model needs stay."""
    catalog, store = catalog_and_store(load_settings(config))
    name = stored_id(model, catalog, store)
    if (row := catalog.get(name)) is not None and name not in {stored.id for stored in store.list()}:
        raise not_removable(row)
    freed = store.remove(name)
    terminal.say(f"removed {name}, {bytes_of(freed)} freed")


def stored_id(model: str, catalog: Catalog, store: Store) -> str:
    """The id under which a model of this name is on disk; the name itself where none is known."""
    here = {stored.id for stored in store.list()}
    if model in here:
        return model
    if catalog.knows(model):
        return next((row.id for row in catalog.replicas(model) if row.id in here), catalog.resolve(model).id)
    found = curated().find(model)
    return model if found is None else found.entry.id
