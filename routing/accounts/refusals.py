"""Refusals by spending caps: what is left of a cap, and when more is."""

from __future__ import annotations

from typing import NamedTuple

from catalog.errors import BudgetExceeded
from routing.accounts.windows import Window, window_at
from routing.state.protocol import NANO, Counter


class Left(NamedTuple):
    """Dollars that are left of a cap, and the seconds until its window ends (``None``: it does not)."""

    dollars: float
    until: float | None


def ends_in(counter: Counter, now: float) -> float | None:
    """Seconds until the window of a counter ends; ``None`` if it does not."""
    end = window_at(Window(counter.name.split("/")[-2]), now).end
    return None if end is None else max(0.0, end - now)


def exceeded(counter: Counter, held: int, spent: int, now: float) -> BudgetExceeded:
    """The refusal of a call that may cost ``held``, by a cap of which ``spent`` is used; nano-dollars.

    It says when to try again only where waiting helps.
    """
    _, *scope, window, _ = counter.name.split("/")
    limit = counter.limit or 0
    whose = "this gateway" if scope == ["all"] else "this API key"
    cap = f"{'total ' if window == Window.TOTAL else ''}spending cap of {whose}"
    cap += f" ({dollars(limit)}{'' if window == Window.TOTAL else f' per {window}'})"
    if held > limit:
        return BudgetExceeded(
            f"This request may cost {dollars(held)}, more than the {cap} allows at all. {_REMEDY}"
        )
    until = ends_in(counter, now)
    when = "" if until is None else f" The next {window} begins in {until:.0f} s."
    if spent >= limit or spent + held <= limit:  # in the second case by other gateways, since the last refresh
        return BudgetExceeded(f"The {cap} is used up.{when}", retry_after=until)
    return BudgetExceeded(
        f"This request may cost {dollars(held)}, and of the {cap} {dollars(limit - spent)} are left.{when}",
        retry_after=until,
    )


_REMEDY = "Send less, allow fewer output tokens where there are any, or ask a cheaper model."


def check_request(most: int, cap: int) -> None:
    """Raises BudgetExceeded for a call that may cost more than the cap of one request; nano-dollars."""
    if most > cap:
        raise BudgetExceeded(
            f"This request may cost {dollars(most)}, more than the {dollars(cap)} allowed for one request. "
            + _REMEDY
        )


def dollars(nano: int) -> str:
    """An amount as text, exact, with two decimals at least."""
    whole, part = divmod(nano, NANO)
    return f"${whole}.{f'{part:09d}'.rstrip('0'):0<2}"
