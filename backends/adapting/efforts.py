"""Reasoning efforts in their order, and the nearest one that a model has."""

from __future__ import annotations

from collections.abc import Set

from backends.wire.chat import ChatRequest
from backends.wire.common import WireModel

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""From no reasoning to the most. Source: OpenAI's API reference."""


_SAY_SO = frozenset(
    {"thinking", "reasoning", "think", "enable_thinking", "chat_template_kwargs", "thinking_budget"}
)
"""Fields beside ``reasoning_effort`` by which callers say how much a model reasons: Anthropic's, OpenRouter's,
Ollama's, Qwen's, vLLM's."""


def is_silent_on_effort(request: WireModel) -> bool:
    """Whether a request is a chat that says nothing about reasoning."""
    if not isinstance(request, ChatRequest) or request.reasoning_effort is not None:
        return False
    return not request.model_extra or _SAY_SO.isdisjoint(request.model_extra)


def nearest(effort: str, known: Set[str]) -> str:
    """The effort itself if it is among ``known``, else the next lower one, else the lowest.

    A model is not told to stop reasoning (``none``) unless the caller says so.
    """
    if effort in known:
        return effort
    reasoning = [one for one in EFFORTS[1:] if one in known]
    below = [one for one in reasoning if EFFORTS.index(one) < EFFORTS.index(effort)]
    return below[-1] if below else reasoning[0]
