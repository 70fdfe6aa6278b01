"""A fake of OpenAI that refuses every field it does not know, also within messages, parts and tools.

The fields are those of the types of OpenAI's SDK. Groq's, Mistral's and Cerebras' servers behave so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aiohttp import web
from openai.types import chat as types
from openai.types.chat import completion_create_params
from openai.types.chat.chat_completion_content_part_param import File

from catalog.types import Json
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Call

_BODY: type = completion_create_params.CompletionCreateParamsBase
_MESSAGES: dict[str, type] = {
    "system": types.ChatCompletionSystemMessageParam,
    "developer": types.ChatCompletionDeveloperMessageParam,
    "user": types.ChatCompletionUserMessageParam,
    "assistant": types.ChatCompletionAssistantMessageParam,
    "tool": types.ChatCompletionToolMessageParam,
}
_PARTS: dict[str, type] = {
    "text": types.ChatCompletionContentPartTextParam,
    "image_url": types.ChatCompletionContentPartImageParam,
    "input_audio": types.ChatCompletionContentPartInputAudioParam,
    "refusal": types.ChatCompletionContentPartRefusalParam,
    "file": File,
}


class StrictOpenAI(FakeOpenAI):
    """``also`` are fields within messages that it knows beyond OpenAI's; with ``strict`` False it takes all."""

    also: frozenset[str] = frozenset()
    strict = True

    async def chat(self, request: web.Request, call: Call) -> web.StreamResponse:
        unknown = list(_unknown(call.body, self.also)) if self.strict else []
        if unknown:
            return self.refused(call, 400, f"Unknown parameter: '{unknown[0]}'.", code="unknown_parameter")
        return await super().chat(request, call)


def _unknown(body: Json, also: frozenset[str]) -> Iterator[str]:
    yield from _of(body, _BODY, "", frozenset({"stream"}))
    for message in body["messages"]:
        yield from _of(message, _MESSAGES[message["role"]], "messages.", also)
        parts = message.get("content")
        for part in parts if isinstance(parts, list) else ():
            yield from _of(part, _PARTS[part["type"]], "messages.content.", also)
        for call in message.get("tool_calls") or ():
            yield from _of(call, types.ChatCompletionMessageFunctionToolCallParam, "messages.tool_calls.", also)
    for tool in body.get("tools") or ():
        yield from _of(tool, types.ChatCompletionFunctionToolParam, "tools.", frozenset())


def _of(value: Json, kind: Any, where: str, also: frozenset[str]) -> Iterator[str]:
    return (where + name for name in value if name not in kind.__annotations__ and name not in also)
