"""The kinds of work that go on after their requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.history.background import BackgroundResponses
from server.storage.runner import BackgroundWork

if TYPE_CHECKING:
    from server.runtime import Runtime
    from server.settings import Settings


def works(runtime: Runtime, settings: Settings) -> tuple[BackgroundWork, ...]:
    """Every kind of work, on the parts behind the gate."""
    del settings
    return (BackgroundResponses(runtime),)
