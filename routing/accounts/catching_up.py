"""Counts for a new cap what was spent in its window before the cap was there.

Counters are kept for caps alone, and usage is kept always. A counter with a cap is never below the usage of its
window (it has the reserved amounts as well), so it is raised to the usage in one claim whose limit is the usage:
of several gateways that do so at once, one succeeds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace

from routing.accounts.caps import Caps
from routing.accounts.windows import Window, window_at
from routing.state.protocol import Claim, Counter, State, UsageRow

Scopes = Callable[[str], Iterable[tuple[str, Caps]]]
"""The caps that apply to a key, by scope."""
LONG = frozenset({Window.DAY, Window.MONTH, Window.TOTAL})
"""The windows that usage by days can tell of; shorter ones begin at zero."""
_TRIES = 5
_FLUSH = 5.0
"""Seconds for what is buffered to be written."""


async def catch_up(store: State, scopes: Scopes, windows: Iterable[Window], now: float, timeout: float) -> None:
    """Raise the counters of these windows to the usage. Raises OSError (TimeoutError too) from a stuck store."""
    wanted = LONG.intersection(windows)
    if not wanted:
        return
    first = "" if Window.TOTAL in wanted else window_at(Window.MONTH, now).name
    last = window_at(Window.DAY, now).name
    for _ in range(_TRIES):
        async with asyncio.timeout(_FLUSH):
            await store.flush()
        spent = _spent(await store.usage(first, last), scopes, now)
        known = await store.counts("spend/")
        claims = [Claim(each, (each.limit or 0) - known.get(each.name, 0)) for each in spent]
        missing = [claim for claim in claims if claim.amount > 0]
        # A refused claim met another charge, or another gateway's claim: both are in what is read next.
        if not [claim for claim in missing if (await store.claim([claim], timeout)).refused is not None]:
            return


def _spent(rows: Iterable[UsageRow], scopes: Scopes, now: float) -> list[Counter]:
    """The counters of the windows at ``now``, each with the usage of its window in nano-dollars as its limit."""
    counters: dict[str, Counter] = {}
    for row in rows:
        for scope, caps in scopes(row.key):
            for window, _ in caps.windows:
                span = window_at(window, now)
                if window is Window.TOTAL or (window in LONG and row.day.startswith(span.name)):
                    name = f"spend/{scope}/{window}/{span.name}"
                    before = counters.get(name, Counter(name, 0, span.keep_until))
                    counters[name] = replace(before, limit=(before.limit or 0) + row.cost + row.estimated)
    return list(counters.values())
