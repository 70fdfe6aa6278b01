"""Converts a chat's messages to the form that Hugging Face's chat templates read."""

from __future__ import annotations

import json
import logging

from backends.wire.chat import ChatRequest, ContentPart, Message
from catalog.errors import CapabilityMismatch
from catalog.types import Json

_log = logging.getLogger(__name__)


def messages_of(request: ChatRequest, engine: str) -> list[Json]:
    """Convert the messages: text parts are joined, and the arguments of tool calls become objects.

    Raises CapabilityMismatch, which names ``engine``, for a part that is not text.
    """
    return [_message(message, engine) for message in request.messages]


def _message(message: Message, engine: str) -> Json:
    plain: Json = message.model_dump(exclude_none=True)
    content = message.content
    if isinstance(content, list):
        plain["content"] = "".join(_text(part, engine) for part in content)
    elif content is None:
        plain["content"] = ""
    for call in plain.get("tool_calls") or ():
        function = call.get("function") or {}
        try:
            function["arguments"] = json.loads(function.get("arguments") or "{}")
        except ValueError:
            _log.warning("the arguments of an earlier tool call are not JSON; the template is given the text")
    return plain


def _text(part: ContentPart, engine: str) -> str:
    if part.type != "text":
        raise CapabilityMismatch(f"The engine {engine} takes no '{part.type[:40]}' parts.", param="messages")
    return part.text or ""
