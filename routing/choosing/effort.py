"""How much a model that the router chose is asked to reason, where the caller says nothing."""

from __future__ import annotations

from catalog.model import Capability, Model
from routing.facts import Complexity, Facts
from routing.reading.intent import is_auto
from routing.settings import RoutingSettings

ROOM = 4096
"""Tokens that an answer with much reasoning needs at least; reasoning counts towards ``max_tokens``."""
_TAKES_LEVELS = "reasoning_effort"
MUCH = "high"


def effort_of(facts: Facts, model: Model, settings: RoutingSettings) -> str | None:
    """OpenAI's reasoning effort for a request to ``auto``; ``None`` leaves it to the model.

    A complex request gets much reasoning of any model that can reason, if its bound on tokens has room for it. A
    simple one gets little where the row lists the parameter: such models reason about everything unless told
    not to. Most others reason only when told to.
    """
    if not settings.effort or Capability.REASONING not in model.capabilities or not is_auto(facts.requested):
        return None
    if facts.complexity is Complexity.COMPLEX:
        return MUCH if facts.output_tokens is None or facts.output_tokens >= ROOM else None
    simple = facts.complexity is Complexity.SIMPLE and not facts.intent.high_stakes
    return "low" if simple and model.parameters is not None and _TAKES_LEVELS in model.parameters else None
