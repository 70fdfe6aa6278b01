"""``recommend``: the models that this machine should run, one per capability. It needs no running server."""

from __future__ import annotations

from typing import Annotated

import typer

from catalog.curated.advice import CAPABILITIES, Advice, license_names
from catalog.curated.choosing import ENOUGH
from catalog.curated.collection import curated
from catalog.store.store import Store
from catalog.types import Json
from catalog.validation.wording import or_known, shown
from server.advising.models import as_json, recommended
from server.commands import terminal
from server.commands.library.local import Config
from server.commands.library.pulling import capability_named
from server.commands.terminal import bytes_of
from server.models.filters import bytes_of_text
from server.settings import load_settings

app = typer.Typer()


@app.command()
def recommend(
    capability: Annotated[
        list[str] | None, typer.Option(help="Only for this capability; may be given more than once.")
    ] = None,
    context: Annotated[
        int | None, typer.Option(min=128, help="Tokens of one request. Default: the setting workers.context.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="As if the machine's fastest device had so much memory, such as 24GB.")
    ] = None,
    terms: Annotated[
        list[str] | None,
        typer.Option(
            "--license", help="Only with this licence (apache-2.0, mit...), or 'permissive'. Repeatable."
        ),
    ] = None,
    as_json_: terminal.AsJson = False,
    config: Config = None,
) -> None:
    """Recommend a model for each capability: the best of the catalogue that fits on this machine.

    The quantisation is the largest that fits with the KV cache of all slots. Speed is estimated from the bandwidth
    of the device's memory.
    """
    settings = load_settings(config)
    advices = recommended(
        settings,
        capabilities=[capability_named(name) for name in capability] if capability else CAPABILITIES,
        context=context,
        memory=size_of(memory),
        licenses=[_license(name) for name in terms or ()],
    )
    here = frozenset(stored.id for stored in Store(settings.data_dir / "models").list())
    if as_json_:
        terminal.console().print_json(data=[_json_of(advice, here) for advice in advices])
        return
    table = terminal.table()
    for column in ("FOR", "MODEL", "QUANT", "ENGINE", "FETCH", "MEMORY", "DEVICE", "TOKENS/S", "LICENCE", "STATE"):
        table.add_column(column, no_wrap=column in ("FOR", "MODEL"))
    approximate = slow = False
    for advice in advices:
        choice = advice.choice
        if choice is None:
            table.add_row(advice.capability, "nothing that fits, or no engine for it here")
            continue
        approximate |= not choice.exact
        slow |= not choice.enough
        speed = "" if choice.tokens_per_second is None else f"~{choice.tokens_per_second:.0f}"
        table.add_row(
            advice.capability,
            choice.entry.id,
            choice.quantization or "",
            choice.engine,
            f"{'' if choice.exact else '~'}{bytes_of(choice.size)}",
            bytes_of(choice.memory),
            choice.device,
            speed,
            choice.entry.license,
            "ready" if choice.entry.id in here else "",
        )
    console = terminal.console()
    console.print(table)
    if slow:
        console.print(f"Some answer with less than {ENOUGH:.0f} tokens a second here: nothing faster fits.")
    if approximate:
        console.print("Sizes with ~ are computed from the count of weights; the hub tells the real ones.")
    if any(advice.choice for advice in advices):
        console.print("Pull one with: roundhouse pull MODEL, or all with: roundhouse pull recommended")


def _json_of(advice: Advice, here: frozenset[str]) -> Json:
    if advice.choice is None:
        return {"capability": advice.capability, "model": None}
    return {
        "capability": advice.capability,
        **as_json(advice.choice),
        "pulled": advice.choice.entry.id in here,
    }


def size_of(text: str | None) -> int | None:
    """The bytes that the option --memory gives. Raises typer.BadParameter."""
    try:
        size = None if text is None else int(str(bytes_of_text(text)))
    except ValueError as error:
        raise typer.BadParameter(f"{error} (it is {shown(text, value=True)})", param_hint="--memory") from None
    if size == 0:
        raise typer.BadParameter("it must be more than nothing", param_hint="--memory")
    return size


def _license(name: str) -> str:
    known = license_names(curated())
    if name.casefold() not in known:
        told = f"no model of the catalogue has the licence {shown(name, value=True)}"
        raise typer.BadParameter(
            told + (or_known(name, known) or f"; there are {', '.join(known)}"), param_hint="--license"
        )
    return name
