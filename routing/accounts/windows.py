"""Calendar windows in UTC: the minute, hour, day or month of a time, and its end."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache

_KEEP_SECONDS = 86_400.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Window(StrEnum):
    """Period after which a limit resets; ``total`` never does."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"
    TOTAL = "total"


@dataclass(frozen=True, slots=True)
class Span:
    """One window: its name (``2026-11-22T09``) and its end in Unix time, ``None`` if it never ends."""

    name: str
    end: float | None

    @property
    def keep_until(self) -> float | None:
        """Unix time until which its counter is kept: calls that began in it may settle well after its end."""
        return None if self.end is None else self.end + _KEEP_SECONDS


def window_at(window: Window, now: float) -> Span:
    """The window that contains ``now``, Unix time."""
    at = datetime.fromtimestamp(now, UTC)
    if window is Window.MINUTE:
        start = at.replace(second=0, microsecond=0)
        return Span(start.strftime("%Y-%m-%dT%H:%M"), (start + timedelta(minutes=1)).timestamp())
    if window is Window.HOUR:
        start = at.replace(minute=0, second=0, microsecond=0)
        return Span(start.strftime("%Y-%m-%dT%H"), (start + timedelta(hours=1)).timestamp())
    if window is Window.DAY:
        start = at.replace(hour=0, minute=0, second=0, microsecond=0)
        return Span(start.strftime("%Y-%m-%d"), (start + timedelta(days=1)).timestamp())
    if window is Window.MONTH:
        start = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        following = (start + timedelta(days=32)).replace(day=1)
        return Span(start.strftime("%Y-%m"), following.timestamp())
    return Span("ever", None)


def day_of(now: float) -> str:
    """The UTC day of a Unix time, as an ISO date."""
    return _day(int(now // 86_400))


@lru_cache(maxsize=8)
def _day(number: int) -> str:
    return (_EPOCH + timedelta(days=number)).strftime("%Y-%m-%d")
