"""``roundhouse keys``: API keys, in the state itself; a running server applies a change within a second."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from catalog.index import permits
from catalog.validation.wording import or_known, shown
from routing.accounts.caps import Caps
from routing.accounts.virtual_keys import KeyInfo, KeyLimits, NewKey, Rate, VirtualKeys
from routing.accounts.windows import Window
from routing.clock import SystemClock
from routing.state.factory import create_state
from server.commands import terminal
from server.commands.client import Config
from server.commands.library.local import catalog_and_store
from server.configuration.exposure import mark_keys
from server.processes.data_folder import check_data_dir
from server.settings import STATE_FILE, load_settings

T = TypeVar("T")
app = typer.Typer(no_args_is_help=True, help="Create, list, revoke and rotate API keys.")
Limit = Annotated[int | None, typer.Option(min=0, max=10**15, help="Default: unlimited.")]
Dollars = Annotated[float | None, typer.Option(min=0, max=1e9, help="US dollars.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="A name to recognise the key by.")],
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model, or a pattern of models, that the key may use. Repeatable. Default: all."),
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
    expires_in_days: Annotated[float | None, typer.Option(min=0, max=36_500, help="Default: never.")] = None,
    admin: Annotated[
        bool, typer.Option("--admin", help="An admin key: may load models and read usage and traces of every key.")
    ] = False,
    metrics: Annotated[
        bool, typer.Option("--metrics", help="A key for Prometheus: it may read /metrics and nothing else.")
    ] = False,
    config: Config = None,
) -> None:
    """Create a key and print its secret, which is shown only once. A running server knows it within a second."""
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
    if expires_in_days == 0:
        raise typer.BadParameter("it must be more than 0", param_hint="--expires-in-days")
    expires_at = None if expires_in_days is None else SystemClock().wall() + expires_in_days * 86_400

    async def create_key(keys: VirtualKeys) -> NewKey:
        return await keys.create(
            name, models=tuple(model or ()), limits=limits, expires_at=expires_at, admin=admin, metrics=metrics
        )

    made = _with_keys(config, create_key)
    for pattern in made.info.models:
        _remark_unknown(pattern, config)
    _show_new(made)


def _remark_unknown(pattern: str, config: Path | None) -> None:
    """Say that a pattern of a key means no model of the catalogue, which a server may still discover."""
    catalog, _ = catalog_and_store(load_settings(config))
    patterns = catalog.with_aliases((pattern,))
    if not any(permits(patterns, row.id) for row in catalog.models()):
        near = or_known(pattern, [row.id for row in catalog.models()])
        terminal.say(f"no model has the name {shown(pattern, value=True)} at present{near}", err=True)


@app.command(name="list")
def list_keys(
    as_json: Annotated[bool, typer.Option("--json", help="All fields of each key except its secret.")] = False,
    config: Config = None,
) -> None:
    """List all keys, also revoked and expired ones."""

    async def read(keys: VirtualKeys) -> tuple[KeyInfo, ...]:
        return keys.list()

    found = _with_keys(config, read)
    if as_json:
        terminal.say(json.dumps([info.public() for info in found], indent=1))
        return
    table = terminal.table()
    for column in ("ID", "NAME", "BEGINS", "CREATED", "STATE", "MODELS", "LIMITS"):
        table.add_column(column, overflow="fold")
    now = SystemClock().wall()
    for info in found:
        table.add_row(
            info.id,
            info.name,
            info.hint,
            _day(info.created_at),
            _state(info, now),
            ", ".join(info.models) or ("none" if info.metrics else "all"),
            _limits(info.limits),
        )
    terminal.console().print(table)


@app.command()
def revoke(key: Annotated[str, typer.Argument(help="The key's id.")], config: Config = None) -> None:
    """Revoke a key. A running server refuses requests with it within a second (``persistence.interval``)."""

    async def revoke_key(keys: VirtualKeys) -> KeyInfo:
        return await keys.revoke(key)

    terminal.say(f"{_with_keys(config, revoke_key).id} is revoked")


@app.command()
def rotate(
    key: Annotated[str, typer.Argument(help="The key's id.")],
    grace: Annotated[float, typer.Option(min=0, help="Seconds for which the old secret stays valid.")] = 0.0,
    config: Config = None,
) -> None:
    """Give a key a new secret. Its limits and usage stay."""

    async def rotate_key(keys: VirtualKeys) -> NewKey:
        return await keys.rotate(key, grace=grace)

    _show_new(_with_keys(config, rotate_key))


def _with_keys(config: Path | None, work: Callable[[VirtualKeys], Awaitable[T]]) -> T:
    settings = load_settings(config)

    async def run() -> T:
        state = create_state(settings.state, settings.data_dir / STATE_FILE)
        await state.start()
        try:
            keys = VirtualKeys(state, SystemClock())
            await keys.start()
            made = await work(keys)
            if keys.any_calls:
                mark_keys(settings)
            return made
        finally:
            await state.close()

    check_data_dir(settings.data_dir)
    return asyncio.run(run())


def _show_new(made: NewKey) -> None:
    terminal.say(f"{made.info.id} ({made.info.name})", err=True)
    terminal.say(made.secret)
    terminal.say("Store it now: it is not shown again.", err=True)


def _state(info: KeyInfo, now: float) -> str:
    if info.revoked_at is not None:
        return f"revoked {_day(info.revoked_at)}"
    if info.expires_at is not None:
        return f"{'expired' if info.expires_at <= now else 'until'} {_day(info.expires_at)}"
    return "admin" if info.admin else "metrics" if info.metrics else "valid"


def _limits(limits: KeyLimits) -> str:
    """The limits as text, as in ``100 requests/minute, $5 total``."""
    told = [f"{most} requests/{window}" for window, most in limits.requests.windows]
    told += [f"{most} tokens/{window}" for window, most in limits.tokens.windows]
    if limits.spend.request is not None:
        told.append(f"${limits.spend.request:g}/request")
    told += [
        f"${most:g} total" if window is Window.TOTAL else f"${most:g}/{window}"
        for window, most in limits.spend.windows
    ]
    return ", ".join(told) or "none"


def _day(at: float) -> str:
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")
    except (OverflowError, ValueError, OSError):
        return "the end of days"
