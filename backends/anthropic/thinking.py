"""Translates reasoning effort into Anthropic's thinking: a budget of tokens, or adaptive with an effort."""

from __future__ import annotations

from backends.adapting.efforts import nearest
from backends.anthropic.models import ClaudeTraits
from backends.translation import Dropped
from backends.wire.chat import ChatRequest
from catalog.errors import InvalidRequest
from catalog.types import Json

MIN_BUDGET = 1024
"""Anthropic's smallest thinking budget, in tokens."""

BUDGETS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16_384, "xhigh": 32_768, "max": 49_152}
"""Thinking tokens per effort, for models that take a budget. Our choice: Anthropic publishes no equivalents."""

ANSWER_ROOM = 8192
"""Tokens for the answer beside a budget when the caller bounds neither."""

ANSWER_SHARE = 0.25
"""The least share of ``max_tokens`` that an effort's budget leaves for the answer."""


def apply_thinking(
    request: ChatRequest,
    can: ClaudeTraits,
    body: Json,
    dropped: Dropped,
    *,
    bound: int | None,
    loop_without_thinking: bool,
) -> None:
    """Set ``thinking``, ``output_config.effort`` and, without a ``bound`` on tokens, room in ``max_tokens``.

    A forced tool choice excludes thinking. A wish that the model cannot meet is reported as dropped, under the
    caller's name for it. Raises InvalidRequest for a ``thinking`` that is malformed or leaves no room to answer.
    """
    asked = (request.model_extra or {}).get("thinking")
    if asked is not None:
        if not isinstance(asked, dict) or not isinstance(asked.get("type"), str):
            raise InvalidRequest(
                "'thinking' must be an object with a type, as in Anthropic's API.", param="thinking"
            )
        _native(asked, bound, can, body, dropped)
        if request.reasoning_effort is not None:
            _effort(request.reasoning_effort, can, body, dropped)
        return
    effort = request.reasoning_effort
    if effort is None:
        return
    if effort == "none":
        _switch_off(can, body, dropped)
    elif not can.thinking or _forces_a_tool(body) or (loop_without_thinking and not can.adaptive):
        dropped.add("reasoning_effort")
    elif can.adaptive:
        body["thinking"] = {"type": "adaptive", "display": "summarized"}
        _effort(effort, can, body, dropped)
    else:
        _budget(BUDGETS[effort], bound, body, dropped, "reasoning_effort")


def _native(asked: Json, bound: int | None, can: ClaudeTraits, body: Json, dropped: Dropped) -> None:
    kind = asked["type"]
    off = kind in ("disabled", "between_tools")
    if not off and (not can.thinking or _forces_a_tool(body)):
        dropped.add("thinking")
    elif off:
        if can.off is None:
            dropped.add("thinking")
        else:
            body["thinking"] = {"type": can.off}
    elif kind == "enabled" and not can.budgets:
        body["thinking"] = {"type": "adaptive", "display": asked.get("display") or "summarized"}
        dropped.add("thinking.budget_tokens")
    elif kind == "enabled":
        budget = asked.get("budget_tokens")
        if not isinstance(budget, int) or budget < MIN_BUDGET:
            raise InvalidRequest(
                f"thinking.budget_tokens must be at least {MIN_BUDGET}.", param="thinking.budget_tokens"
            )
        if bound is not None and budget >= bound:
            raise InvalidRequest(
                f"thinking.budget_tokens ({budget}) must be below max_tokens ({bound}).",
                param="thinking.budget_tokens",
            )
        _budget(budget, bound, body, dropped, "thinking")
        if "thinking" in body:
            body["thinking"] = asked
    elif kind == "adaptive" and not can.adaptive:
        dropped.add("thinking")
    else:
        body["thinking"] = asked


def _budget(budget: int, bound: int | None, body: Json, dropped: Dropped, name: str) -> None:
    """Thinking tokens count towards ``max_tokens``: without a bound, it grows with the budget."""
    if bound is None:
        body["max_tokens"] = max(body["max_tokens"], budget + ANSWER_ROOM)
    elif name == "reasoning_effort":
        budget = min(budget, int(body["max_tokens"] * (1 - ANSWER_SHARE)))
    if budget < MIN_BUDGET:
        dropped.add(name)
        return
    body["thinking"] = {"type": "enabled", "budget_tokens": budget}


def _effort(effort: str, can: ClaudeTraits, body: Json, dropped: Dropped) -> None:
    """Set the nearest effort that the model has; one that differs from the caller's is reported."""
    off = (body.get("thinking") or {}).get("type") in ("disabled", "between_tools")
    known = can.efforts_off if off else can.efforts
    if not known or effort == "none":
        return
    level = nearest(effort, known)
    if level != effort:
        dropped.add("reasoning_effort")
    body.setdefault("output_config", {})["effort"] = level


def _switch_off(can: ClaudeTraits, body: Json, dropped: Dropped) -> None:
    if can.off is None:
        _effort("low", can, body, dropped)
        dropped.add("reasoning_effort")
    elif can.adaptive:
        body["thinking"] = {"type": can.off}


def _forces_a_tool(body: Json) -> bool:
    return (body.get("tool_choice") or {}).get("type") in ("any", "tool")
