"""Reasoning efforts in their order, and the nearest one that a model has."""

from __future__ import annotations

from collections.abc import Set

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""From no reasoning to the most. Source: OpenAI's API reference."""


def nearest(effort: str, known: Set[str]) -> str:
    """The effort itself if it is among ``known``, else the next lower one, else the lowest.

    A model is not told to stop reasoning (``none``) unless the caller says so.
    """
    if effort in known:
        return effort
    reasoning = [one for one in EFFORTS[1:] if one in known]
    below = [one for one in reasoning if EFFORTS.index(one) < EFFORTS.index(effort)]
    return below[-1] if below else reasoning[0]
