"""The shapes of a response: its parts and its usage, and a session's tools as those of a chat."""

from __future__ import annotations

from typing import Any

from catalog.errors import InvalidRequest
from catalog.types import Json
from routing.outcomes import Outcome
from server.realtime.fields import ChosenFunction, RealtimeFunction


def part_of(kind: str, text: str) -> Json:
    """A part of an item, ``output_audio`` or ``output_text``."""
    return {"type": kind, ("transcript" if kind == "output_audio" else "text"): text}


def event_part(kind: str, text: str) -> Json:
    """A part in the events of a response, where OpenAI calls the types ``audio`` and ``text``."""
    return {**part_of(kind, text), "type": kind.removeprefix("output_")}


def chat_tool(tool: RealtimeFunction) -> Json:
    """The tool of a chat. Raises InvalidRequest for a function without a name."""
    if tool.name is None:
        raise InvalidRequest("A function needs a name.", param="tools")
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {
        "type": "function",
        "function": {name: value for name, value in function.items() if value is not None},
    }


def chat_choice(choice: Any) -> Any:
    """The ``tool_choice`` of a chat. Raises InvalidRequest for an object that names no function."""
    if not isinstance(choice, ChosenFunction):
        return choice
    if choice.type != "function" or choice.name is None:
        raise InvalidRequest("A tool_choice of an object names a function.", param="tool_choice")
    return {"type": "function", "function": {"name": choice.name}}


def usage_of(usage: Json | None, outcome: Outcome | None) -> Json:
    """The usage of a chat in the shape of this API: all tokens are of text.

    ``outcome`` is the attempt that an answer without a usage was cut short in, which counts what came.
    """
    told = usage or {}
    given, made = told.get("prompt_tokens") or 0, told.get("completion_tokens") or 0
    cached = (told.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    if not told and outcome is not None:
        given, made, cached = outcome.usage.input, outcome.usage.output, outcome.usage.cached
    return {
        "total_tokens": given + made,
        "input_tokens": given,
        "output_tokens": made,
        "input_token_details": {
            "text_tokens": given,
            "audio_tokens": 0,
            "image_tokens": 0,
            "cached_tokens": cached,
            "cached_tokens_details": {"text_tokens": cached, "audio_tokens": 0, "image_tokens": 0},
        },
        "output_token_details": {"text_tokens": made, "audio_tokens": 0},
    }
