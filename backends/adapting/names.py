"""Names of tools that a provider allows, for those of the caller that it does not.

A name is made of the caller's and a digest of it, so it is the same in every turn of a conversation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypeVar

from backends.wire.chat import ChatRequest, Message, NamedToolChoice, Tool, ToolCall

_DIGEST = 8
H = TypeVar("H", Tool, ToolCall, NamedToolChoice)


@dataclass(frozen=True, slots=True)
class NameRule:
    """The names that a provider allows: ``allowed`` matches them whole, ``foreign`` a character that none has."""

    allowed: re.Pattern[str]
    foreign: re.Pattern[str]
    longest: int

    def made_of(self, name: str, digits: int) -> str:
        """An allowed name that resembles this one."""
        kept = self.foreign.sub("_", name)[: self.longest - digits - 2]
        made = f"{kept}_{sha256(name.encode()).hexdigest()[:digits]}"
        return made if self.allowed.fullmatch(made) else f"_{made}"


OPENAI = NameRule(re.compile(r"[a-zA-Z0-9_-]{1,64}"), re.compile(r"[^a-zA-Z0-9_-]"), 64)
ANTHROPIC = NameRule(re.compile(r"[a-zA-Z0-9_-]{1,128}"), re.compile(r"[^a-zA-Z0-9_-]"), 128)
GEMINI = NameRule(re.compile(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,127}"), re.compile(r"[^a-zA-Z0-9_.:-]"), 128)
"""Sources: the API references of functions and tools, and the types of the providers' SDKs."""


def call_id(given: str, rule: NameRule = ANTHROPIC) -> str:
    """The id of a call that is sent for the caller's: the same if it is allowed, in every turn."""
    return given if rule.allowed.fullmatch(given) else rule.made_of(given, _DIGEST)


def sent_names(request: ChatRequest, rule: NameRule) -> Mapping[str, str]:
    """The name to send by the caller's, for each name that the provider does not allow; all are different."""
    given = dict.fromkeys(_names(request))
    taken = {name for name in given if rule.allowed.fullmatch(name)}
    sent: dict[str, str] = {}
    for name in given:
        if name in taken:
            continue
        digits = _DIGEST
        while (made := rule.made_of(name, digits)) in taken or made in sent.values():
            digits += 1
        sent[name] = made
    return sent


def renamed(request: ChatRequest, sent: Mapping[str, str]) -> ChatRequest:
    """The request with these names in its tools, its tool choice and its past calls."""
    update: dict[str, Any] = {"messages": [_message(message, sent) for message in request.messages]}
    if request.tools:
        update["tools"] = [_called(tool, sent) for tool in request.tools]
    choice = request.tool_choice
    if isinstance(choice, NamedToolChoice):
        update["tool_choice"] = _called(choice, sent)
    return request.model_copy(update=update)


def _message(message: Message, sent: Mapping[str, str]) -> Message:
    if not message.tool_calls:
        return message
    return message.model_copy(update={"tool_calls": [_called(call, sent) for call in message.tool_calls]})


def _called(holder: H, sent: Mapping[str, str]) -> H:
    function = holder.function
    if function is not None and function.name in sent:
        return holder.model_copy(update={"function": function.model_copy(update={"name": sent[function.name]})})
    custom = (holder.model_extra or {}).get("custom")
    if isinstance(custom, dict) and custom.get("name") in sent:
        return holder.model_copy(update={"custom": {**custom, "name": sent[custom["name"]]}})
    return holder


def _names(request: ChatRequest) -> Iterator[str]:
    holders: list[Any] = [*(request.tools or ()), *(c for m in request.messages for c in m.tool_calls or ())]
    if isinstance(request.tool_choice, NamedToolChoice):
        holders.append(request.tool_choice)
    for holder in holders:
        if holder.function is not None:
            yield holder.function.name
        custom = (holder.model_extra or {}).get("custom")
        if isinstance(custom, dict) and isinstance(custom.get("name"), str):
            yield custom["name"]
