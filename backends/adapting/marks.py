"""Fields within messages and tools that other APIs and answers have, and OpenAI's chats do not."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from backends.wire.chat import ChatRequest, ContentPart, Message, TranslatedChat
from backends.wire.common import WireModel
from catalog.errors import InvalidRequest
from catalog.types import Json

MARKS = frozenset(
    {
        *("cache_control", "is_error", "thinking_blocks", "reasoning_content", "extra_content"),
        *("images", "server_tool_calls"),
    }
)
MADE_FOR: Mapping[str, str] = {"extra_content": "gemini", "thinking_blocks": "claude", "server_tool_calls": ""}
"""Marks that answers through this gateway have for the models of one maker, by a word of these models' names.

No server refuses a caller's chat for what the gateway has put into an earlier answer, and none reads what another
provider's model thought.
"""
UNREAD = frozenset({"annotations", "grounding", "index", "parsed"})
"""Fields of an answer that tell most models nothing when they come back; leaving them out is not told."""

_READ = MARKS | UNREAD | {"custom", "refusal", "video_url"}
"""Fields beyond the types of a chat that translations read, or whose loss is told by another function."""

CITING = frozenset({"citations", "context"})
"""Fields of a file part, as of Anthropic's documents: the answer is to cite it, and what it is about."""

_EMPTY: tuple[Any, ...] = (None, False, "", [], {})


def foreign_marks(model: str) -> frozenset[str]:
    """The marks of :data:`MADE_FOR` that are not for a model of this name."""
    name = model.lower()
    return frozenset(mark for mark, word in MADE_FOR.items() if not word or word not in name)


def with_own_reasoning(request: WireModel, model: str) -> tuple[WireModel, bool]:
    """A translated chat without the reasoning of other models than this one, and whether there was any."""
    if not isinstance(request, TranslatedChat) or not request.makers:
        return request, False
    foreign = {at for at, maker in request.makers.items() if maker != model}
    lost, messages = False, list(request.messages)
    for at in foreign:
        messages[at] = messages[at].model_copy()
        lost = (messages[at].model_extra or {}).pop("reasoning_content", None) is not None or lost
    return (request.model_copy(update={"messages": messages}), True) if lost else (request, False)


def citing(part: ContentPart) -> Json:
    """The fields of :data:`CITING` that a file part has. Raises InvalidRequest for one of another form."""
    extra = part.model_extra or {}
    citations, context = extra.get("citations"), extra.get("context")
    made: Json = {}
    if citations is not None:
        if not isinstance(citations, dict) or type(citations.get("enabled")) is not bool:
            raise InvalidRequest("'citations' of a file must be {'enabled': true} or false.", param="messages")
        made["citations"] = {"enabled": citations["enabled"]}
    if context is not None:
        if not isinstance(context, str):
            raise InvalidRequest("'context' of a file must be a text.", param="messages")
        made["context"] = context
    return made


def lost_marks(request: ChatRequest, kept: Set[str]) -> tuple[str, ...]:
    """The names of the marks that a server is not sent, as ``messages.cache_control``, unless they say nothing."""
    lost: dict[str, None] = {}
    for holder in (*request.messages, *(request.tools or ())):
        _note(holder, kept, lost)
        if isinstance(holder, Message):
            for inner in (
                *(holder.content if isinstance(holder.content, list) else ()),
                *(holder.tool_calls or ()),
            ):
                _note(inner, kept, lost)
    return tuple(f"messages.{name}" for name in lost)


def lost_fields(request: ChatRequest, kept: Set[str] = frozenset()) -> tuple[str, ...]:
    """Names for fields of messages, parts and tools, marks apart, that a translation for another API lacks.

    They are a speaker's ``name``, what only OpenAI's chats have, and unknown fields. ``kept`` are translated.
    """
    lost: dict[str, None] = {}
    read = _READ | kept
    for message in request.messages:
        if message.name is not None and message.role not in ("tool", "function"):
            lost["messages.name"] = None
        parts = message.content if isinstance(message.content, list) else ()
        for holder in (message, *parts, *(message.tool_calls or ())):
            _note_others(holder, "messages", read, lost)
    for tool in request.tools or ():
        _note_others(tool, "tools", read, lost)
        if tool.function is not None:
            _note_others(tool.function, "tools.function", read, lost)
    return tuple(lost)


def _note_others(holder: Any, where: str, read: Set[str], lost: dict[str, None]) -> None:
    for name, value in (holder.model_extra or {}).items():
        if name not in read and value not in _EMPTY:
            lost[f"{where}.{name[:80]}"] = None


def _note(holder: Any, kept: Set[str], lost: dict[str, None]) -> None:
    extra = holder.model_extra
    if extra:
        for name in sorted((MARKS & extra.keys()) - kept):
            if extra[name] not in _EMPTY:
                lost[name] = None
