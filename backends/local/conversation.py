"""Makes a conversation one that every chat template renders as it was meant."""

from __future__ import annotations

from backends.adapting.system import has_late_system, joined, system_first
from catalog.errors import InvalidRequest
from catalog.types import Json


def renderable(messages: list[Json]) -> list[Json]:
    """The messages with one system message at most, at the beginning, and no empty answer at the end.

    Many templates (Qwen's) refuse a system message elsewhere, and few know the role ``developer``. An empty answer
    at the end would be continued without the template's opening of an answer; one with text is a prefill.

    Raises InvalidRequest if nothing is left to answer.
    """
    kept = [_told(message) for message in messages]
    while kept and _is_empty_answer(kept[-1]):
        kept.pop()
    if not kept:
        raise InvalidRequest("The conversation holds nothing to answer: add a message.", param="messages")
    if not has_late_system([message["role"] for message in kept]) and kept[0]["role"] != "developer":
        return kept
    return system_first(kept)


def has_neighbours(messages: list[Json]) -> bool:
    """Whether :func:`alternating` would change the messages."""
    return any(map(_are_neighbours, messages, messages[1:]))


def alternating(messages: list[Json]) -> list[Json]:
    """The messages with neighbours of one role as one turn, for templates that want users and assistants by turns.

    Calls of tools and their results stay apart.
    """
    turns: list[Json] = []
    for message in messages:
        if turns and _are_neighbours(turns[-1], message):
            contents = [turns[-1].get("content"), message.get("content")]
            turns[-1] = {**message, **turns[-1], "content": joined(contents)}
        else:
            turns.append(message)
    return turns


def _are_neighbours(first: Json, second: Json) -> bool:
    return (
        first["role"] == second["role"]
        and first["role"] in ("user", "assistant")
        and not (first.get("tool_calls") or second.get("tool_calls"))
    )


def _told(message: Json) -> Json:
    """The message with its refusals as text, which is all that templates know."""
    content = message.get("content")
    if not isinstance(content, list) or all(part.get("type") != "refusal" for part in content):
        return message
    parts = [
        {"type": "text", "text": part.get("refusal") or ""} if part.get("type") == "refusal" else part
        for part in content
    ]
    return {**message, "content": parts}


def _is_empty_answer(message: Json) -> bool:
    if message["role"] != "assistant" or message.get("tool_calls") or message.get("reasoning_content"):
        return False
    content = message.get("content")
    if isinstance(content, list):
        return not any(part.get("type") != "text" or part.get("text") for part in content)
    return not content
