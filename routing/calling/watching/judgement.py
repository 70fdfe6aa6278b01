"""Judges collect an answer while it streams and decide at its end whether it is valid.

Only requests that define a valid answer (a JSON schema, tools) have a judge; others pay nothing. The verdict is a
learning signal; escalation, when the caller allows it, waits for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from backends.native import refusal_of
from backends.streams.assemble import ChatAssembler
from backends.streams.native import NativeChunk
from backends.wire.chat import ChatRequest
from routing.calling.watching.validation import choices_of, form_of, judge

MOST = 1_000_000
"""Characters of an answer that a judge keeps; a longer answer is not judged."""


class Judge(Protocol):
    """Judges one attempt: ``see`` takes every chunk, ``verdict`` is called at most once, after the
    last."""

    def see(self, item: Any) -> None: ...

    def verdict(self) -> bool | None:
        """Whether the answer is valid; ``None`` when that cannot be decided."""
        ...


MakeJudge = Callable[[], Judge]


def judge_for(request: ChatRequest) -> MakeJudge | None:
    """A factory of judges for a chat's answers; ``None`` when every answer is valid.

    So it is of a request that its translation does not hold.
    """
    if refusal_of(request) is not None:
        return None
    if request.tools or form_of(request) is not None or choices_of(request) is not None:
        return lambda: ChatJudge(request)
    return None


def insists(request: Any) -> bool:
    """Whether an answer of another form is of no use: a strict schema or tool, JSON, one of some texts, calls."""
    if not isinstance(request, ChatRequest):
        return False
    if request.tools and request.tool_choice not in (None, "auto"):
        return True
    wanted = request.response_format
    if wanted is None or wanted.type == "text":
        if form_of(request) is not None or choices_of(request) is not None:
            return True
    elif wanted.json_schema is None or wanted.json_schema.strict:
        return True
    return any(tool.function is not None and tool.function.strict for tool in request.tools or ())


class ChatJudge:
    """Judges the chunks of a chat: the text as JSON and against its schema, tool calls against their parameters.

    A refusal, and an answer cut off by its server, by a stop sequence or at a bound that it was given, say nothing
    about the model's ability: they are not judged.
    """

    def __init__(self, request: ChatRequest, *, most: int = MOST) -> None:
        self._request = request
        self._own = False
        self._left = most
        self._stopped = False
        self._whole = ChatAssembler()

    def see(self, item: dict[str, Any]) -> None:
        """Collect one chunk."""
        self._own = self._own or isinstance(item, NativeChunk)
        for choice in item.get("choices") or ():
            self._stopped = self._stopped or choice.get("stop_reason") is not None
            delta = choice.get("delta") or {}
            self._left -= _length(delta)
            if self._left < 0:
                return
            kept = {name: delta[name] for name in ("content", "refusal", "tool_calls") if name in delta}
            self._whole.add(
                {
                    "choices": [
                        {
                            "index": choice.get("index", 0),
                            "delta": kept,
                            "finish_reason": choice.get("finish_reason"),
                        }
                    ]
                }
            )

    def verdict(self) -> bool | None:
        """False if any choice is invalid, True if all are valid."""
        if self._left < 0:
            return None
        verdicts = [self._of(choice) for choice in self._whole.result()["choices"]]
        if False in verdicts:
            return False
        return True if verdicts and None not in verdicts else None

    def _of(self, choice: dict[str, Any]) -> bool | None:
        ended, message = choice["finish_reason"], choice["message"]
        if ended in (None, "content_filter") or message.get("refusal"):
            return None
        if ended == "length" and self._request.output_limit is not None:
            return None
        request, calls = self._request, message.get("tool_calls") or ()
        if self._own and request.tools:
            # The provider had the caller's own request, with tools and names that its translation does not have.
            names = {tool.function.name for tool in request.tools if tool.function}
            if any(call.get("function", {}).get("name") not in names for call in calls):
                return None
            request = request if calls else request.model_copy(update={"tools": None})
        valid = judge(request, text=message["content"], tool_calls=calls)
        if valid is False and ended == "stop" and (self._stopped or self._may_be_stopped(message["content"])):
            return None
        return valid

    def _may_be_stopped(self, text: str | None) -> bool:
        """Whether a stop sequence may have cut an invalid answer; most servers do not say so."""
        if choices := choices_of(self._request):
            return bool(self._request.stop) and any(choice.startswith(text or "") for choice in choices)
        return bool(self._request.stop) and (not text or text.lstrip()[:1] in ("{", "[", '"'))


def _length(delta: dict[str, Any]) -> int:
    calls = delta.get("tool_calls") or ()
    arguments = sum(len((call.get("function") or {}).get("arguments") or "") for call in calls)
    return len(delta.get("content") or "") + arguments + 1
