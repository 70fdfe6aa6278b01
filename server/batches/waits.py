"""The reason for which a batch waits: in its record while it lasts, and logged once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from catalog.errors import RoundhouseError

LINES = "lines"
"""The source that stands for the lines that are asked one by one."""
_MOST_TOLD = 3


class Waits:
    """The errors that keep the parts of one batch waiting, by their source.

    ``save`` stores the batch's notice; a store that fails keeps no batch from its work.
    """

    def __init__(self, batch: str, save: Callable[[], Awaitable[object]]) -> None:
        self._save = save
        self._errors: dict[str, RoundhouseError] = {}
        self._log = structlog.get_logger("server.batches").bind(batch=batch)

    async def begin(self, source: str, error: RoundhouseError, event: str = "batch.waits") -> None:
        """Note what a part waits for. The log has the code alone: a provider's words may repeat the request."""
        before = self._errors.get(source)
        self._errors[source] = error
        if before is None or before.code != error.code:
            self._log.warning(event, source=source, error=error.code, will="try again")
            await self._store()

    async def end(self, source: str) -> None:
        """Note that a part goes on."""
        if self._errors.pop(source, None) is not None:
            await self._store()

    def notice(self) -> str | None:
        """A sentence about what is waited for; ``None`` for nothing."""
        if not self._errors:
            return None
        reasons = dict.fromkeys(error.message for error in self._errors.values())
        live = self._errors.keys() == {LINES}
        who = "The model" if live else "The provider's batch API"
        return f"{who} fails at present, and is asked again: {' '.join(list(reasons)[:_MOST_TOLD])}"[:1000]

    async def _store(self) -> None:
        with suppress(RoundhouseError, OSError):
            await self._save()
