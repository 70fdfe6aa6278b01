"""``route``, ``trace``, ``outcome``, ``usage``, ``pin`` and ``discover``: what the router does and has done."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from catalog.types import Json
from server.commands import terminal
from server.commands.client import AdminKey, Config, Key, ServerClient, Url
from server.commands.support.completion import complete_model
from server.commands.support.options import gives
from server.commands.support.statuses import UsageError
from server.commands.terminal import AsJson
from server.settings import load_settings

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

app = typer.Typer()
_GUESSED = ("unknown_cost_calls", "estimated_cost")
_USAGE = ("day", "model", "endpoint", "key", "calls", "input_tokens", "output_tokens", "units", "cost", *_GUESSED)
"""The columns that fit a terminal, the last two if they are not all 0; --csv has all of them."""


@app.command()
@gives()
def route(
    prompt: Annotated[str, typer.Argument(help="The prompt to route.")],
    model: Annotated[
        str,
        typer.Option(
            help="auto, auto:fast, auto:best, auto:cheap, auto:local, or a model.", autocompletion=complete_model
        ),
    ] = "auto",
    task: Annotated[
        str | None, typer.Option(help="The task, such as chat or code. Default: classified from the prompt.")
    ] = None,
    workload: Annotated[str | None, typer.Option(help="interactive, batch or background.")] = None,
    local_only: Annotated[
        bool, typer.Option("--local-only", help="Only models on this machine or at endpoints marked private.")
    ] = False,
    max_cost: Annotated[
        float | None, typer.Option(min=0, help="Highest cost of the request, in US dollars.")
    ] = None,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    config: Config = None,
) -> None:
    """Show which model a running server would choose for a prompt, and why. Nothing is executed."""
    wishes = {"task": task, "workload": workload, "local_only": local_only or None, "max_cost": max_cost}
    body: Json = {"model": model, "messages": [{"role": "user", "content": prompt}]}
    body["routing"] = {name: value for name, value in wishes.items() if value is not None}
    answer = ServerClient(url, key, config).post("/v1/route", body)
    if as_json:
        terminal.print_json(answer)
        return
    console = terminal.console()
    console.print(f"{answer['model'] or 'no model'} ({answer['strategy']})", style="bold", highlight=False)
    console.print(answer["reason"], highlight=False, markup=False)
    for line in _grounds(answer):
        console.print(line, style="dim", highlight=False, markup=False)
    for warning in answer["warnings"]:
        console.print(warning, style="yellow", highlight=False, markup=False)
    console.print(_candidates(answer))
    scores = [each["score"] for name in answer["order"] for each in answer["candidates"] if each["model"] == name]
    if scores != sorted(scores, reverse=True):
        console.print(
            "Fallbacks follow by score; one that fails together with an earlier one, or is not able, comes later.",
            style="dim",
            highlight=False,
        )
    _print_exclusions(console, answer["excluded"])


def _grounds(answer: Json) -> list[str]:
    """Why the request counts as its task, and what the quality of the first model rests on."""
    lines = [f"Task: {answer['request']['reading']}."]
    for each in answer["candidates"]:
        prior, evidence = each["prior"], each["evidence"]
        if each["model"] == answer["model"] and prior and evidence:
            lines.append(
                f"Quality: {prior['quality']:.2f} at first ({prior['reason']}), worth {prior['strength']:.0f} "
                f"reports; since then {evidence['reports']:.0f} reports, and signs in answers worth "
                f"{evidence['signs']:.1f} more."
            )
    return lines


def _candidates(answer: Json) -> Table:
    table = terminal.table()
    for column in ("TRIED", "CAN ANSWER", "SCORE", "QUALITY", "SECONDS", "DOLLARS", "FAILS WITH"):
        table.add_column(column, overflow="fold")
    order = {name: str(place) for place, name in enumerate(answer["order"], 1)}
    last = len(order) + 1
    for each in sorted(answer["candidates"], key=lambda each: int(order.get(each["model"], last))):
        cost = each["cost_dollars"]
        table.add_row(
            order.get(each["model"], ""),
            each["model"],
            f"{each['score']:.3f}",
            f"{each['quality']:.2f}",
            f"{each['latency_seconds']:.2f}" if each["latency_seconds"] is not None else "",
            "unknown" if cost is None else f"{cost:.6f}" if cost else "free",
            each["failure_domain"],
        )
    return table


def _print_exclusions(console: Console, excluded: list[Json]) -> None:
    """Print one line per reason, with the models that it excludes."""
    by_reason: dict[str, list[str]] = {}
    for each in excluded:
        by_reason.setdefault(each["reason"], []).append(each["model"])
    if by_reason:
        console.print("\nCANNOT", style="bold")
    for reason, models in by_reason.items():
        console.print(f"  {', '.join(models)}: {reason}", highlight=False, markup=False)


@app.command()
def trace(
    trace_id: Annotated[str, typer.Argument(help="The x-roundhouse-trace header of an answer.")],
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    config: Config = None,
) -> None:
    """Show what happened to a request, attempt by attempt."""
    found = ServerClient(url, key, config).get(f"/v1/traces/{trace_id}")
    if as_json:
        terminal.print_json(found)
        return
    console = terminal.console()
    request = found["request"]
    console.print(
        f"{found['status']}, answered by {found['answered_by'] or 'no model'}; asked for "
        f"{request['requested']}: {request['capability']}, {request['task']}, {request['complexity']}",
        highlight=False,
    )
    console.print(found["plan"]["reason"], highlight=False, markup=False)
    table = terminal.table()
    for column in ("", "MODEL", "RESULT", "QUEUED", "FIRST", "TOTAL", "TOKENS", "DOLLARS", "VALID", "ERROR"):
        table.add_column(column, overflow="fold")
    for each in found["attempts"]:
        table.add_row(*_attempt(each))
    console.print(table)
    if found["error"]:
        console.print(f"{found['error']['code']}: {found['error']['message']}", highlight=False, markup=False)


def _attempt(each: Json) -> tuple[str, ...]:
    first, cost = each["first_chunk"], each["cost"]
    return (
        str(each["attempt"]),
        each["model"],
        each["result"],
        f"{each['queued']:.2f} s",
        "" if first is None else f"{first:.2f} s",
        f"{each['duration']:.2f} s",
        f"{each['usage']['input']} + {each['usage']['output']}",
        "unknown" if cost is None else f"{cost:.6f}",
        {True: "yes", False: "no", None: ""}[each["valid"]],
        each["error"] or "",
    )


@app.command()
@gives(trace_id="trace")
def outcome(
    trace_id: Annotated[str, typer.Argument(help="The x-roundhouse-trace header of an answer.")],
    score: Annotated[float | None, typer.Option(min=0, max=1, help="Quality of the answer, from 0 to 1.")] = None,
    accepted: Annotated[
        bool | None,
        typer.Option("--accepted/--rejected", help="Whether the answer was good, in place of a score."),
    ] = None,
    url: Url = None,
    key: Key = None,
    config: Config = None,
) -> None:
    """Report the quality of an answer. The router learns from it for requests of the same task."""
    if (score is None) == (accepted is None):
        raise UsageError("Say how good the answer was: --score 0.8, or --accepted, or --rejected.")
    verdict = {"accepted": accepted} if score is None else {"score": score}
    answer = ServerClient(url, key, config).post("/v1/outcomes", {"trace": trace_id, **verdict})
    quality = answer["expected_quality"]
    typer.echo(
        f"{answer['model']} for {answer['task']}: "
        f"expected quality {quality['before']:.3f} -> {quality['after']:.3f}"
    )


@app.command()
@gives()
def usage(
    start: Annotated[
        str | None, typer.Option(help="First day, as 2026-01-31, in UTC. Default: 30 days ago.")
    ] = None,
    end: Annotated[str | None, typer.Option(help="Last day, in UTC. Default: today.")] = None,
    by: Annotated[
        str | None,
        typer.Option(help="Group by day, model, endpoint or key; several with commas. Default: day,model,key."),
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    config: Config = None,
) -> None:
    """Show tokens and cost by day, model and key."""
    if csv and as_json:
        raise UsageError("Give either --csv or --json.")
    form = "csv" if csv else "json"
    answer = ServerClient(url, key, config).get("/v1/usage", start=start, end=end, by=by, format=form)
    if csv:
        typer.echo(answer, nl=False)
        return
    if as_json:
        terminal.print_json(answer)
        return
    rows = answer["data"]
    left_out = {name for name in _GUESSED if not float(answer["total"].get(name) or 0)}
    names = [name for name in _USAGE if rows and name in rows[0] and name not in left_out]
    table = terminal.table()
    for name in names:
        table.add_column(name.replace("_", " ").upper(), overflow="fold", no_wrap=name in ("day", "model"))
    for row in [*rows, answer["total"]]:
        table.add_row(*(_cell(row.get(name, "")) for name in names))
    terminal.console().print(table if rows else "no usage")


def _cell(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@app.command()
@gives()
def pin(
    alias: Annotated[
        str | None, typer.Argument(help="auto, auto:fast, ..., or an alias of several models.")
    ] = None,
    model: Annotated[
        str | None, typer.Argument(help="The embedding model to pin it to.", autocompletion=complete_model)
    ] = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove the pin; the router chooses a model again.")
    ] = False,
    as_json: AsJson = False,
    url: Url = None,
    key: AdminKey = None,
    config: Config = None,
) -> None:
    """Show or change which embedding model an alias is pinned to. Vectors of two models cannot be compared."""
    server = ServerClient(url, key, config)
    if alias is None:
        pins = server.get("/v1/admin/pins")["pins"]
        if as_json:
            terminal.print_json(pins)
            return
        for name, pinned in sorted(pins.items()):
            typer.echo(f"{name} -> {pinned}")
        return
    if (model is None) != remove:
        raise UsageError("Name the model to pin the alias to, or pass --remove.")
    answer = server.post("/v1/admin/pins", {"alias": alias, **({} if model is None else {"model": model})})
    if as_json:
        terminal.print_json(answer)
        return
    after, before = answer["model"] or "chosen by the router", answer["before"] or "not pinned"
    typer.echo(f"{answer['alias']} -> {after} (was {before})")


@app.command()
def discover(as_json: AsJson = False, config: Config = None) -> None:
    """List the models of endpoints with discover = true and of discovery.folders. Needs no server."""
    from server.catalog_updates import look_once

    found = asyncio.run(look_once(load_settings(config)))
    if as_json:
        listed = [
            {
                "source": each.source,
                "error": each.error,
                "missing": each.missing,
                "models": [row.model_dump(mode="json", exclude_none=True) for row in each.rows or ()],
            }
            for each in found
        ]
        terminal.print_json(listed)
        return
    if not found:
        typer.echo(
            "nothing to discover: set discover = true in an [[endpoint]], or folders in [discovery]", err=True
        )
    table = terminal.table()
    for column in ("SOURCE", "MODEL", "CAN", "CONTEXT"):
        table.add_column(column, overflow="fold")
    for each in found:
        if each.error:
            table.add_row(each.source, f"({each.error})", "", "")
        if each.missing:
            table.add_row(each.source, f"(left out: {each.missing})", "", "")
        for row in each.rows or ():
            table.add_row(
                each.source, row.id, ", ".join(sorted(row.capabilities)), str(row.limits.context_window or "")
            )
    terminal.console().print(table)
