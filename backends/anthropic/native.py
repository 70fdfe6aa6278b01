"""The body for a caller that speaks Anthropic's own language: its own, but for what Anthropic would refuse.

Thinking without a signature came from another model, and Anthropic takes only its own; so it is with searches and
citations. ``extra_content`` of a call is Google's signature.
"""

from __future__ import annotations

from typing import Any

from backends.adapting.arguments import wrapped
from backends.base import Upstream
from backends.native import refuse_withheld
from backends.parameters import refuse_elsewhere
from backends.streams.sealing import is_encoded
from backends.translation import TranslatedRequest
from backends.wire.chat import Original
from catalog.types import Json

FOREIGN_CALL = "srvtoolu_other_"
"""The beginning of the ids that the gateway gives to calls of other providers' own tools."""

_OURS = ("routing", "strict", "timings")
_CHECKED = ("fallbacks",)
"""Anthropic's own: the door refuses it to keys that may not use all models."""
_NOT_COUNTED = frozenset(
    {"max_tokens", "metadata", "service_tier", "stop_sequences", "stream", "temperature", "top_k", "top_p"}
)


def native_request(original: Original, upstream: Upstream) -> TranslatedRequest:
    """The caller's body with the model's name at the upstream, always as a stream; foreign thinking is dropped.

    Raises InvalidRequest for an id that the caller may not name, and for a field of another gateway's.
    """
    refuse_withheld(original)
    refuse_elsewhere(original.request, upstream, _CHECKED)
    body = original.request.to_wire(model=upstream.model, stream=True, **dict.fromkeys(_OURS))
    dropped: dict[str, None] = {}
    turns = body["messages"] = [_without_foreign(turn, dropped) for turn in body["messages"]]
    if dropped:
        body["messages"] = turns = [turn for turn in turns if turn["content"]]
        thinking = body.get("thinking")
        if isinstance(thinking, dict) and thinking.get("type") == "enabled" and _continues_tools(turns):
            del body["thinking"]  # Anthropic refuses a budget in the middle of calls that were made without
            dropped["thinking"] = None
    return TranslatedRequest(body, tuple(dropped))


def counted_body(body: Json) -> Json:
    """The part of a body that its prompt tokens depend on; Anthropic refuses the rest when it counts."""
    return {name: value for name, value in body.items() if name not in _NOT_COUNTED}


def _without_foreign(turn: Json, dropped: dict[str, None]) -> Json:
    content = turn["content"]
    if turn["role"] != "assistant" or not isinstance(content, list):
        return turn
    kept = []
    for block in content:
        if _is_foreign(block):
            dropped["messages.thinking"] = None
        elif str(block.get("id") or block.get("tool_use_id")).startswith(FOREIGN_CALL):
            dropped["messages.server_tool_use"] = None
        elif (plain := _plain(block)).get("text") != "" or plain == block:
            kept.append(plain)
    return {**turn, "content": kept}


def _is_foreign(block: Json) -> bool:
    """Whether a block of thinking has no signature, or the gateway's own."""
    match block.get("type"):
        case "thinking":
            return not block.get("signature") or is_encoded(block["signature"])
        case "redacted_thinking":
            return is_encoded(block.get("data"))
    return False


def _plain(block: Json) -> Json:
    """The block without a signature of Google's, and without citations that Anthropic did not make.

    The input of a broken call, which is no object, is wrapped in one.
    """
    plain = {name: value for name, value in block.items() if name != "extra_content"}
    if plain.get("type") == "tool_use" and not isinstance(plain.get("input", {}), dict):
        plain["input"] = wrapped(plain["input"])
    cited = plain.get("citations")
    if isinstance(cited, list) and any(_cited_elsewhere(citation) for citation in cited):
        plain["citations"] = [citation for citation in cited if not _cited_elsewhere(citation)] or None
    return plain


def _cited_elsewhere(citation: Any) -> bool:
    return isinstance(citation, dict) and citation.get("encrypted_index") == ""


def _continues_tools(turns: list[Json]) -> bool:
    """Whether the last turn answers calls that were made without thinking."""
    if len(turns) < 2 or not all(isinstance(turn["content"], list) for turn in turns[-2:]):
        return False
    asked, answered = turns[-2]["content"], turns[-1]["content"]
    thought = any(_kind(block) in ("thinking", "redacted_thinking") for block in asked)
    return not thought and any(_kind(block) == "tool_result" for block in answered)


def _kind(block: Any) -> str:
    return str(block.get("type"))
