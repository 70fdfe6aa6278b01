"""``calibrate``: measures the models of a running server, and puts the results in force as priors."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer

from server.commands import terminal
from server.commands.client import AdminKey, Config, ServerClient, Url
from server.commands.support.options import gives
from server.commands.support.statuses import NoServer

app = typer.Typer()
POLL = 0.5
_PLACE = "/v1/admin/calibrations"
_ENDED = ("completed", "out_of_budget", "cancelled", "failed")


@app.command()
@gives()
def calibrate(
    models: Annotated[
        str | None, typer.Option(help="Models to measure, with commas. Default: all that can be used now.")
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Tasks to measure, with commas, such as code,extract. Default: all.")
    ] = None,
    budget: Annotated[float, typer.Option(min=0, help="The most that it may cost, in US dollars.")] = 0.5,
    questions: Annotated[int, typer.Option(min=1, max=100, help="Questions of each subject.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="The same seed asks the same questions.")] = 0,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Use no earlier result of the tasks that are measured.")
    ] = False,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Stop the calibration that is running and print its results.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole result as JSON.")] = False,
    url: Url = None,
    key: AdminKey = None,
    config: Config = None,
) -> None:
    """Measure models on built-in questions, and let the router start from the results.

    It goes on in the server if this command is interrupted: run it again to follow. One that ended early
    (cancelled, out of budget) is continued by the next with the same seed. Paid models are asked within --budget.
    """
    client = ServerClient(url, key, config)
    told = _running(client)
    if told is not None and cancel:
        told = client.post(f"{_PLACE}/{told['id']}/cancel")
    elif told is None and cancel:
        terminal.say("no calibration is running")
        return
    elif told is None:
        body: dict[str, Any] = {"budget": budget, "questions": questions, "seed": seed, "fresh": fresh}
        body |= {
            name: [each.strip() for each in value.split(",") if each.strip()]
            for name, value in (("models", models), ("tasks", tasks))
            if value is not None
        }
        told = client.post(_PLACE, body)
    else:
        terminal.say(f"following {told['id']}, which is running already; run again for other models", err=True)
    try:
        told = _follow(client, told)
    except KeyboardInterrupt:
        terminal.say("\nIt goes on in the server. Follow it: roundhouse calibrate. Stop it: --cancel", err=True)
        raise typer.Exit(130) from None
    if as_json:
        terminal.say(json.dumps(told, indent=1))
    else:
        _print(told)
    if told["status"] == "failed":
        raise typer.Exit(1)


def _running(client: ServerClient) -> Any | None:
    page = client.get(_PLACE, limit=20)["data"]
    return next((each for each in page if each["status"] not in _ENDED), None)


def _follow(client: ServerClient, told: Any) -> Any:
    """Wait for the end of a calibration and show how far it is; a server that is away is waited for."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("${task.fields[spent]:.4f}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=terminal.console(stderr=True)) as progress:
        shown = progress.add_task("", total=told["total"], spent=0.0)
        while True:
            at = ", ".join(told["current"]) or told["status"].replace("_", " ")
            progress.update(
                shown, description=at, completed=told["done"], total=told["total"], spent=told["spent"]
            )
            if told["status"] in _ENDED:
                return told
            time.sleep(POLL)
            try:
                told = client.get(f"{_PLACE}/{told['id']}")
            except NoServer:
                progress.update(shown, description="waiting for the server")


def _print(told: Any) -> None:
    console = terminal.console()
    table = terminal.table()
    for column in ("MODEL", "TASK", "SCORE", "QUESTIONS", "PRIOR WAS", "PRIOR IS"):
        table.add_column(column, overflow="fold")
    for model, result in told["results"].items():
        for task, row in result["priors"].items():
            table.add_row(
                model,
                task,
                f"{row['score']:.2f}",
                str(row["questions"]),
                f"{row['before']:.2f}",
                f"{row['prior']:.2f}" + ("" if result["taken"] else " (not taken)"),
            )
    console.print(table)
    _print_speed(console, told)
    for model, result in told["results"].items():
        for name, subject in result["subjects"].items():
            if subject["skipped"]:
                console.print(
                    f"{model}, {name.partition('.')[0]}: {subject['skipped']}", markup=False, highlight=False
                )
        if result["out_of_budget"]:
            console.print(f"{model}: out of budget. {result['out_of_budget']}", markup=False, highlight=False)
    if told["judge"] is None:
        console.print("Summaries and translations need a judge: set model in [routing.judge].", markup=False)
    if told["status"] == "out_of_budget":
        console.print("Run it again with a larger --budget: results so far are used.", markup=False)
    if told["error"]:
        terminal.say(f"{told['error']['code']}: {told['error']['message']}", err=True)
    console.print(f"{told['status'].replace('_', ' ')}; ${told['spent']:.4f} spent", highlight=False)


def _print_speed(console: Any, told: Any) -> None:
    measured = {model: result["speed"] for model, result in told["results"].items() if result["speed"]}
    if not measured:
        return
    table = terminal.table()
    for column in ("MODEL", "PROMPT TOKENS", "FIRST TOKEN", "TOKENS/S"):
        table.add_column(column, overflow="fold")
    for model, rows in measured.items():
        for row in rows:
            speed = row["tokens_per_second"]
            table.add_row(
                model,
                str(row["prompt_tokens"]),
                f"{row['first_token_seconds']:.2f} s",
                "" if speed is None else f"{speed:.0f}",
            )
    console.print(table)
