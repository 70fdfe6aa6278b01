"""The providers' own types, from their SDKs: a body with another shape, or with one field more, is refused."""

from __future__ import annotations

import warnings
from typing import Any

import orjson
from anthropic.types.message_create_params import MessageCreateParamsStreaming
from google.genai import types as genai
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from pydantic import ConfigDict, TypeAdapter

from catalog.types import Json

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the SDKs have a type that allows extra fields
    _ANTHROPIC: TypeAdapter[Any] = TypeAdapter(
        list[MessageCreateParamsStreaming], config=ConfigDict(extra="forbid")
    )
    _OPENAI: TypeAdapter[Any] = TypeAdapter(
        list[CompletionCreateParamsNonStreaming], config=ConfigDict(extra="forbid")
    )
_GOOGLE: dict[str, TypeAdapter[Any]] = {
    "contents": TypeAdapter(list[genai.Content]),
    "systemInstruction": TypeAdapter(genai.Content),
    "tools": TypeAdapter(list[genai.Tool]),
    "toolConfig": TypeAdapter(genai.ToolConfig),
    "generationConfig": TypeAdapter(genai.GenerationConfig),
    "safetySettings": TypeAdapter(list[genai.SafetySetting]),
    "serviceTier": TypeAdapter(genai.ServiceTier),
    "continuationToken": TypeAdapter(bytes),
}


def of_anthropic(body: Json) -> Json:
    """The body of ``POST /v1/messages``. Raises ValidationError; lazy lists are read to their end."""
    read = _ANTHROPIC.validate_python([body])[0]
    for turn in read["messages"]:
        if not isinstance(turn["content"], str):
            list(turn["content"])
    list(read.get("tools", ()))
    return body


def of_openai(body: Json) -> Json:
    """The body of ``POST /chat/completions`` before it is asked for as a stream. Raises ValidationError."""
    read = _OPENAI.validate_python([body])[0]
    for message in read["messages"]:
        for name in ("content", "tool_calls"):
            value = message.get(name)
            if value is not None and not isinstance(value, str):
                list(value)
    list(read.get("tools", ()))
    return body


def of_google(body: Json) -> Json:
    """The body of ``streamGenerateContent``. Raises KeyError for an unknown field, ValidationError."""
    for name, value in body.items():
        _GOOGLE[name].validate_json(orjson.dumps(value))
    return body
