"""The parameters that each generation of Claude takes, read from the model's name.

Source: Anthropic's documentation of thinking, effort, structured outputs and its migration guides. Names
without a generation in them (a proxy's alias) count as the newest; a row's ``parameters`` narrow it further.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAME = re.compile(r"claude-(?P<family>[a-z]+)-(?P<major>\d{1,2})(?:-(?P<minor>\d{1,2}))?(?!\d)")
_OLD_NAME = re.compile(r"claude-(?P<major>\d)(?:-(?P<minor>\d))?-(?P<family>[a-z]+)")
_NEWEST = (99, 0)
_ALWAYS_THINKING = frozenset({"fable", "mythos"})


@dataclass(frozen=True, slots=True)
class ClaudeTraits:
    """The features of one model.

    ``budgets``: thinking with ``budget_tokens``. ``adaptive``: the model decides, guided by ``efforts``.
    ``sampling`` is temperature, top_p and top_k; ``sampling_pair`` is temperature and top_p together.
    """

    thinking: bool
    budgets: bool
    adaptive: bool
    always_thinks: bool
    efforts: frozenset[str]
    sampling: bool
    sampling_pair: bool
    structured_outputs: bool


def traits(model: str) -> ClaudeTraits:
    """The traits of a model by its name, also behind a prefix (``anthropic.claude-opus-4-6-v1:0``)."""
    family, version = _parse(model.lower().replace(".", "-"))
    adaptive = version >= (4, 6)
    removed = version >= (4, 7)
    efforts: frozenset[str] = frozenset()
    if adaptive:
        efforts = frozenset({"low", "medium", "high", "max"}) | ({"xhigh"} if removed else set())
    return ClaudeTraits(
        thinking=version >= (3, 7),
        budgets=version >= (3, 7) and not removed,
        adaptive=adaptive,
        always_thinks=family in _ALWAYS_THINKING,
        efforts=efforts,
        sampling=not removed,
        sampling_pair=version < (4, 1),
        structured_outputs=version >= (4, 5) or (family, version) == ("opus", (4, 1)),
    )


def _parse(model: str) -> tuple[str, tuple[int, int]]:
    match = _NAME.search(model) or _OLD_NAME.search(model)
    if match is None:
        return "", _NEWEST
    return match["family"], (int(match["major"]), int(match["minor"] or 0))
