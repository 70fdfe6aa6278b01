"""``roundhouse keys``: who may call. Works on the state, so a running server knows within a second."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from routing.accounts.spend import Caps
from routing.accounts.virtual_keys import KeyInfo, KeyLimits, NewKey, Rate, VirtualKeys
from routing.clock import SystemClock
from routing.state.factory import create_state
from server.commands import terminal
from server.commands.client import Config
from server.settings import STATE_FILE, load_settings

T = TypeVar("T")
app = typer.Typer(no_args_is_help=True, help="Create, list, revoke and rotate API keys.")
Limit = Annotated[int | None, typer.Option(min=0)]
Dollars = Annotated[float | None, typer.Option(min=0, help="US dollars.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="For people: whose key it is.")],
    model: Annotated[
        list[str] | None, typer.Option(help="A model it may use, or a pattern; repeat. Default: all.")
    ] = None,
    requests_per_minute: Limit = None,
    requests_per_day: Limit = None,
    requests_per_month: Limit = None,
    tokens_per_minute: Limit = None,
    tokens_per_day: Limit = None,
    tokens_per_month: Limit = None,
    spend_per_request: Dollars = None,
    spend_per_minute: Dollars = None,
    spend_per_day: Dollars = None,
    spend_per_month: Dollars = None,
    spend_total: Dollars = None,
    expires_in_days: Annotated[float | None, typer.Option(min=0)] = None,
    admin: Annotated[bool, typer.Option("--admin", help="May load models and read what others did.")] = False,
    config: Config = None,
) -> None:
    """Make a key. It is shown this once."""
    limits = KeyLimits(
        requests=Rate(minute=requests_per_minute, day=requests_per_day, month=requests_per_month),
        tokens=Rate(minute=tokens_per_minute, day=tokens_per_day, month=tokens_per_month),
        spend=Caps(
            request=spend_per_request,
            minute=spend_per_minute,
            day=spend_per_day,
            month=spend_per_month,
            total=spend_total,
        ),
    )
    expires_at = None if expires_in_days is None else SystemClock().wall() + expires_in_days * 86_400

    async def make(keys: VirtualKeys) -> NewKey:
        return await keys.create(
            name, models=tuple(model or ()), limits=limits, expires_at=expires_at, admin=admin
        )

    _show_new(_with_keys(config, make))


@app.command(name="list")
def list_keys(
    as_json: Annotated[bool, typer.Option("--json", help="Everything about each key but its secret.")] = False,
    config: Config = None,
) -> None:
    """Every key, revoked and expired ones too."""

    async def read(keys: VirtualKeys) -> tuple[KeyInfo, ...]:
        return keys.list()

    found = _with_keys(config, read)
    if as_json:
        typer.echo(json.dumps([info.public() for info in found], indent=1))
        return
    table = terminal.table()
    for column in ("ID", "NAME", "BEGINS", "CREATED", "STATE", "MODELS"):
        table.add_column(column, overflow="fold")
    now = SystemClock().wall()
    for info in found:
        table.add_row(
            info.id,
            info.name,
            info.hint,
            _day(info.created_at),
            _state(info, now),
            ", ".join(info.models) or "all",
        )
    terminal.console().print(table)


@app.command()
def revoke(key: Annotated[str, typer.Argument(help="The key's id.")], config: Config = None) -> None:
    """Make a key useless from now on."""

    async def end(keys: VirtualKeys) -> KeyInfo:
        return await keys.revoke(key)

    typer.echo(f"{_with_keys(config, end).id} is revoked")


@app.command()
def rotate(
    key: Annotated[str, typer.Argument(help="The key's id.")],
    grace: Annotated[float, typer.Option(min=0, help="Seconds that the old secret still works.")] = 0.0,
    config: Config = None,
) -> None:
    """Give a key a new secret; limits and what it has used stay."""

    async def turn(keys: VirtualKeys) -> NewKey:
        return await keys.rotate(key, grace=grace)

    _show_new(_with_keys(config, turn))


def _with_keys(config: Path | None, work: Callable[[VirtualKeys], Awaitable[T]]) -> T:
    settings = load_settings(config)

    async def run() -> T:
        state = create_state(settings.state, settings.data_dir / STATE_FILE)
        await state.start()
        try:
            keys = VirtualKeys(state, SystemClock())
            await keys.start()
            return await work(keys)
        finally:
            await state.close()

    settings.data_dir.mkdir(parents=True, exist_ok=True)
    return asyncio.run(run())


def _show_new(made: NewKey) -> None:
    typer.echo(f"{made.info.id} ({made.info.name})", err=True)
    typer.echo(made.secret)
    typer.echo("Keep it now: it is not shown again.", err=True)


def _state(info: KeyInfo, now: float) -> str:
    if info.revoked_at is not None:
        return f"revoked {_day(info.revoked_at)}"
    if info.expires_at is not None:
        return f"{'expired' if info.expires_at <= now else 'until'} {_day(info.expires_at)}"
    return "admin" if info.admin else "good"


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")
