"""The reasoning efforts that OpenAI's models take, by their names.

Source: the pages of the models and OpenAI's error "Supported values are", as widely reported.
"""

from __future__ import annotations

import re
from typing import Literal

_GPT = re.compile(r"gpt-(?P<major>\d+)(?:\.(?P<minor>\d+))?(?P<rest>(?:-[a-z0-9-]*)?)")
_O_SERIES = re.compile(r"o[134](?:-|$)")
_MIDDLE = frozenset({"low", "medium", "high"})
_NEWEST = (6, 1)


def efforts_of(model: str, wire: Literal["chat", "responses"] = "chat") -> frozenset[str] | None:
    """The efforts of a model over one of the two APIs: empty for one that does not reason, None if not known.

    An effort for a model of None is sent as it is: its server refuses what it does not take.
    """
    if _O_SERIES.match(model):
        return _MIDDLE
    match = _GPT.match(model)
    if match is None:
        return None
    version, rest = (int(match["major"]), int(match["minor"] or 0)), match["rest"]
    if version < (5, 0):
        return frozenset()
    if version > _NEWEST or "-chat" in rest:
        return None
    if "-pro" in rest:
        return frozenset({"high"}) if version == (5, 0) else frozenset({"medium", "high", "xhigh"})
    if version == (5, 0):
        return _MIDDLE if "-codex" in rest else _MIDDLE | {"minimal"}
    known = _MIDDLE
    if "-codex" not in rest and "astra" not in rest and version < (6, 1):
        known |= {"none"}
    if version >= (5, 2) or "-codex-max" in rest:
        known |= {"xhigh"}
    if version >= (5, 6) and not (wire == "chat" and "none" not in known):
        known |= {"max"}  # the models that always reason take it over the Responses API alone
    return known
