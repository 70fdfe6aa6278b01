"""The parameters that each generation of Gemini takes, read from the model's name.

Source: Google's documentation of thinking, thought signatures and structured output. Names without a
generation in them count as the newest; a row's ``parameters`` narrow it further.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAME = re.compile(r"gemini-(?P<major>\d+)(?:\.(?P<minor>\d+))?")
_NEWEST = (99, 0)
PICTURES = re.compile(r"\b(?:image|nano-banana)\b")
"""The models that draw, by a part of their names."""

BUDGETS = {"minimal": 1024, "low": 1024, "medium": 8192, "high": 24_576, "xhigh": 24_576, "max": 24_576}
"""Thinking tokens per effort for Gemini 2.5, as in Google's own OpenAI-compatible endpoint; no model has more."""


@dataclass(frozen=True, slots=True)
class GeminiTraits:
    """The features of one model.

    ``budgets``: the least and the most tokens of thinking, None where no number is taken (2.5 takes one).
    ``levels``: thinking by a level's name (3 and later). ``can_stop_thinking``: a budget of 0 is taken.
    ``signatures``: a past tool call must carry its thought signature, calls have ids, and results may hold media.
    ``json_with_tools``: a JSON answer may be asked for beside tools. ``search_with_tools``: Google Search beside
    functions. ``pays_by_query``: each query of a search is charged, not each prompt that was searched for.
    """

    budgets: tuple[int, int] | None
    levels: frozenset[str]
    can_stop_thinking: bool
    signatures: bool
    json_with_tools: bool
    search_with_tools: bool
    pays_by_query: bool


def traits(model: str) -> GeminiTraits:
    """The traits of a model by its name, also behind ``models/`` or a publisher's path."""
    name = model.lower()
    match = _NAME.search(name)
    version = (int(match["major"]), int(match["minor"] or 0)) if match else _NEWEST
    third = version >= (3, 0)
    pro = "pro" in name
    levels: frozenset[str] = frozenset()
    if third:
        levels = frozenset({"low", "high"})
        if not pro and version < (3, 7):
            levels |= {"minimal"}
        if not pro or version >= (3, 1):
            levels |= {"medium"}
        if version >= (4, 0):
            levels |= {"xhigh"}
    return GeminiTraits(
        budgets=_budgets(name) if (2, 5) <= version < (3, 0) else None,
        levels=levels,
        can_stop_thinking=not third and not pro,
        signatures=third,
        json_with_tools=third,
        search_with_tools=third,
        pays_by_query=third,
    )


def _budgets(name: str) -> tuple[int, int]:
    """Source: the table of thinking budgets in Google's documentation."""
    if "pro" in name:
        return 128, 32_768
    return (512, 24_576) if "lite" in name else (1, 24_576)
