"""The task of every program: a question whose answer a tool knows, and the proof that the answer came from it."""

import json
import os
from typing import Literal

URL = os.environ["ROUNDHOUSE_URL"]
KEY = os.environ["OPENAI_API_KEY"]
MODEL = os.environ["ROUNDHOUSE_MODEL"]
SCRIPTED = os.environ["ROUNDHOUSE_UPSTREAM"] == "scripted"
"""Whether the model is one that plays a capable one; else it is a small real one, which may say anything."""
TOKENS = 200 if SCRIPTED else 60
EMBEDDER = "capable-embed" if SCRIPTED else "all-minilm-l6-v2"

PROMPT = 'What is the weather in Oslo? Call get_weather {"city": "Oslo"}'
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Oslo", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": "The weather.", "parameters": SCHEMA},
}
DEMAND = "auto" if SCRIPTED else "required"
"""A small model calls a tool only when it must."""

_calls = []


def get_weather(city: Literal["Oslo", "Rome"]) -> str:
    """Tell the weather of a city."""
    _calls.append(city)
    return f"Snow in {city}, -4 degrees."


def run_tool(name: str, arguments: str) -> str:
    """Run the tool with arguments as the wire has them."""
    assert name == "get_weather", name
    return get_weather(**json.loads(arguments))


def proven(text: str | None, *, calls: int = 1) -> None:
    """Check the end of a loop: the tool ran so many times, and the answer tells what it said."""
    print("answer:", text)
    if SCRIPTED:
        assert _calls == ["Oslo"] * calls, _calls
        assert "Snow in Oslo, -4 degrees." in (text or ""), text
    else:
        assert text is not None
    _calls.clear()
