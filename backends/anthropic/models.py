"""The parameters that each generation of Claude takes, read from the model's name.

Source: Anthropic's documentation of thinking, effort, structured outputs, system messages, and migration guides.
Names without a generation in them (a proxy's alias) count as the newest; a row's ``parameters`` narrow it further.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

_NAME = re.compile(r"claude-(?P<family>[a-z]+)-(?P<major>\d{1,2})(?:-(?P<minor>\d{1,2}))?(?!\d)")
_OLD_NAME = re.compile(r"claude-(?P<major>\d)(?:-(?P<minor>\d))?-(?P<family>[a-z]+)")
_PREVIEW = re.compile(r"claude-(?P<family>[a-z]+)-preview")
_NEWEST = (99, 0)
_PREVIEW_VERSION = (4, 6)
"""That of Claude Mythos Preview, by its efforts."""
_LARGE = frozenset({"fable", "mythos"})
_MEDIUM = frozenset({"opus", "sonnet"})
_EFFORTS = frozenset({"low", "medium", "high"})


@dataclass(frozen=True, slots=True)
class ClaudeTraits:
    """The features of one model.

    ``budgets``: thinking with ``budget_tokens``. ``adaptive``: the model decides, guided by ``efforts``.
    ``off`` is the type of thinking that switches it off, None where it always thinks; ``efforts_off`` are the
    efforts beside it. ``forced_tools``: a tool choice may force a call. ``system_turns``: system messages may
    stand between turns.
    ``sampling`` is temperature, top_p and top_k; ``sampling_pair`` is temperature and top_p together.
    """

    thinking: bool
    budgets: bool
    adaptive: bool
    off: Literal["disabled", "between_tools"] | None
    efforts: frozenset[str]
    efforts_off: frozenset[str]
    forced_tools: bool
    system_turns: bool
    sampling: bool
    sampling_pair: bool
    structured_outputs: bool


def traits(model: str) -> ClaudeTraits:
    """The traits of a model by its name, also behind a prefix (``anthropic.claude-opus-4-6-v1:0``)."""
    family, version = _parse(model.lower().replace(".", "-"))
    adaptive = version >= (4, 6)
    preview = family in _LARGE and version == _PREVIEW_VERSION
    removed = version >= (4, 7) or preview
    efforts: frozenset[str] = frozenset()
    if adaptive:
        efforts = _EFFORTS | {"max"} | ({"xhigh"} if removed and not preview else set())
    elif (family, version) == ("opus", (4, 5)):
        efforts = _EFFORTS
    return ClaudeTraits(
        thinking=version >= (3, 7),
        budgets=version >= (3, 7) and not removed,
        adaptive=adaptive,
        off=_off(family, version),
        efforts=efforts,
        efforts_off=efforts & _EFFORTS if version >= (5, 0) else efforts,
        forced_tools=not ((family in _LARGE and version >= (5, 1)) or (family in _MEDIUM and version >= (5, 5))),
        system_turns=version >= (4, 8),
        sampling=not removed,
        sampling_pair=version < (4, 1),
        structured_outputs=version >= (4, 5) or (family, version) == ("opus", (4, 1)),
    )


def _off(family: str, version: tuple[int, int]) -> Literal["disabled", "between_tools"] | None:
    if family in _LARGE or (family == "opus" and version >= (5, 5)):
        return None
    return "between_tools" if family == "sonnet" and version >= (5, 5) else "disabled"


def _parse(model: str) -> tuple[str, tuple[int, int]]:
    if (preview := _PREVIEW.search(model)) is not None:
        return preview["family"], _PREVIEW_VERSION
    match = _NAME.search(model) or _OLD_NAME.search(model)
    if match is None:
        return "", _NEWEST
    return match["family"], (int(match["major"]), int(match["minor"] or 0))
