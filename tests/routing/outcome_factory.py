"""Outcomes with defaults for the fields that a test does not set."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from catalog.model import Capability
from routing.facts import Facts
from routing.outcomes import Outcome, Result

CHAT = Facts(capability=Capability.CHAT)


def outcome(result: Result = Result.SUCCESS, **changes: Any) -> Outcome:
    """An attempt of ``model`` at ``endpoint`` for a plain chat."""
    plain = Outcome(
        trace="trace", attempt=1, model="model", endpoint="endpoint", facts=CHAT, result=result, at=1_800_000_000.0
    )
    return replace(plain, **changes)
