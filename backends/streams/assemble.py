"""Assembles a stream's chunks into one plain answer, and splits a plain answer into chunks."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from backends.streams.chunks import unnumbered
from backends.streams.shapes import LISTS, WrongShape
from catalog.types import Json

_BODY = frozenset({"choices", "object"})
_PLAIN = frozenset({"index", "delta", "text", "finish_reason"})
_OWN = _PLAIN | {"logprobs"}
_ANSWERS = frozenset({"function_call", "audio"})
_TEXTS = ("content", "refusal", "reasoning_content", "reasoning")


@dataclass(slots=True)
class _Choice:
    """A partial choice. Its texts are lists of pieces, joined once at the end."""

    index: int
    texts: dict[str, list[str]] = field(default_factory=dict)
    message: Json = field(default_factory=dict)
    tools: dict[int, Json] = field(default_factory=dict)
    arguments: dict[int, list[str]] = field(default_factory=dict)
    sound: list[str] = field(default_factory=list)
    transcript: list[str] = field(default_factory=list)
    logprobs: Json | None = None
    finish_reason: str | None = None
    extra: Json = field(default_factory=dict)

    def add_delta(self, delta: Json) -> None:
        for name, value in delta.items():
            if value is None or name == "role":
                continue
            if name in _TEXTS:
                self.texts.setdefault(name, []).append(value)
            elif name == "tool_calls":
                for call in value:
                    self._add_call(call)
            elif name == "function_call":
                self._add_function(value)
            elif name == "audio":
                self._add_audio(value)
            elif isinstance(value, list) and isinstance(self.message.get(name), list):
                kept = self.message[name]
                self.message[name] = [*kept, *unplaced(value, len(kept))] if name in LISTS else [*kept, *value]
            else:
                self.message[name] = value

    def _add_call(self, delta: Json) -> None:
        position = delta.get("index", len(self.tools))
        call = self.tools.setdefault(position, {"id": "", "type": "function", "function": {"name": ""}})
        pieces = self.arguments.setdefault(position, [])
        for name, value in delta.items():
            if value is None or name == "index":
                continue
            if name == "function":
                if value.get("name"):
                    call["function"]["name"] += value["name"]
                if value.get("arguments"):
                    pieces.append(value["arguments"])
            elif name == "custom":
                call.pop("function", None)
                custom = call.setdefault("custom", {"name": "", "input": ""})
                custom["name"] += value.get("name") or ""
                if value.get("input"):
                    pieces.append(value["input"])
            else:
                call[name] = value

    def _add_function(self, delta: Json) -> None:
        call = self.message.setdefault("function_call", {"name": "", "arguments": ""})
        call["name"] += delta.get("name") or ""
        call["arguments"] += delta.get("arguments") or ""
        call.update({name: value for name, value in delta.items() if name not in call})

    def _add_audio(self, delta: Json) -> None:
        audio = self.message.setdefault("audio", {"id": "", "data": "", "expires_at": 0, "transcript": ""})
        for name, value in delta.items():
            if name == "data":
                self.sound.append(value or "")
            elif name == "transcript":
                self.transcript.append(value or "")
            elif value is not None:
                audio[name] = value

    def add_logprobs(self, logprobs: Json) -> None:
        if self.logprobs is None:
            self.logprobs = {}
        for name, value in logprobs.items():
            kept = self.logprobs.get(name)
            if isinstance(value, list) and isinstance(kept, list | None):
                self.logprobs[name] = [*(kept or ()), *value]
            else:
                self.logprobs.setdefault(name, value)

    def to_message(self) -> Json:
        texts = {name: "".join(pieces) for name, pieces in self.texts.items()}
        message: Json = {
            "role": "assistant",
            "content": texts.pop("content", None),
            "refusal": texts.pop("refusal", None),
            **texts,
            **self.message,
        }
        if "audio" in message:
            message["audio"] |= {"data": joined_base64(self.sound), "transcript": "".join(self.transcript)}
        if self.tools:
            for position, call in self.tools.items():
                written = "".join(self.arguments[position])
                call.get("custom", {}).update(input=written)
                call.get("function", {}).update(arguments=written)
            message["tool_calls"] = [self.tools[position] for position in sorted(self.tools)]
            message["content"] = message["content"] or None
        elif "function_call" in message:
            message["content"] = message["content"] or None
        elif message["content"] is None and message["refusal"] is None and message.keys().isdisjoint(_ANSWERS):
            message["content"] = ""
        return message


def unplaced(entries: list[Json], before: int) -> Iterator[Json]:
    """The entries without their places in the list. Another ``index`` is the upstream's own."""
    for at, entry in enumerate(entries, before):
        yield unnumbered(entry) if entry.get("index") == at else entry


def joined_base64(pieces: list[str]) -> str:
    """The base64 text of the bytes of several, each of which may be padded; others as they are."""
    if not any("=" in piece for piece in pieces[:-1]):
        return "".join(pieces)
    try:
        return base64.b64encode(b"".join(base64.b64decode(piece) for piece in pieces)).decode()
    except ValueError:
        return "".join(pieces)


class _Assembler:
    """The common part of both kinds of answers: the head, the usage, the choices by index."""

    object: str

    def __init__(self) -> None:
        self._head: Json = {}
        self._usage: Json | None = None
        self._choices: dict[int, _Choice] = {}

    def add(self, chunk: Json) -> None:
        """Add the next chunk."""
        head = self._head
        for name, value in chunk.items():
            if name == "usage":
                self._usage = value or self._usage
            elif name not in head and name not in _BODY and value is not None:
                head[name] = value
        for choice in chunk.get("choices") or ():
            index = choice.get("index", 0)
            grown = self._choices.get(index)
            if grown is None:
                grown = self._choices[index] = _Choice(index)
            self._grow(grown, choice)
            if choice.keys() <= _PLAIN:
                if choice.get("finish_reason"):
                    grown.finish_reason = choice["finish_reason"]
                continue
            if choice.get("logprobs"):
                grown.add_logprobs(choice["logprobs"])
            grown.finish_reason = choice.get("finish_reason") or grown.finish_reason
            for name, value in choice.items():
                if name not in _OWN:
                    grown.extra[name] = value

    @staticmethod
    def _grow(grown: _Choice, choice: Json) -> None:
        raise NotImplementedError

    @staticmethod
    def _content(choice: _Choice) -> Json:
        raise NotImplementedError

    def result(self) -> Json:
        """The answer so far; a choice that has not ended has no finish reason."""
        choices = [
            {
                "index": choice.index,
                **self._content(choice),
                "logprobs": choice.logprobs,
                "finish_reason": choice.finish_reason,
                **choice.extra,
            }
            for _, choice in sorted(self._choices.items())
        ]
        answer = {**self._head, "object": self.object, "choices": choices}
        if self._usage is not None:
            answer["usage"] = self._usage
        return answer


class ChatAssembler(_Assembler):
    """Assembles ``chat.completion.chunk`` objects into a ``chat.completion``."""

    object = "chat.completion"

    @staticmethod
    def _grow(grown: _Choice, choice: Json) -> None:
        grown.add_delta(choice.get("delta") or {})

    @staticmethod
    def _content(choice: _Choice) -> Json:
        return {"message": choice.to_message()}


class CompletionAssembler(_Assembler):
    """Assembles ``text_completion`` chunks into one ``text_completion``."""

    object = "text_completion"

    @staticmethod
    def _grow(grown: _Choice, choice: Json) -> None:
        grown.texts.setdefault("text", []).append(choice.get("text") or "")

    @staticmethod
    def _content(choice: _Choice) -> Json:
        return {"text": "".join(choice.texts.get("text", ()))}


def chat_chunks(document: Json) -> Iterator[Json]:
    """A plain ``chat.completion`` as the chunks of a stream: one with everything, then the usage.

    Raises WrongShape when it has no choices with a message.
    """
    head = {name: document[name] for name in document if name not in ("choices", "usage", "object")}
    head["object"] = "chat.completion.chunk"
    choices = []
    for choice in _choices(document):
        message = choice.get("message")
        if type(message) is not dict:
            raise WrongShape("message", message, "an object")
        delta = dict(message)
        if delta.get("tool_calls"):
            calls = delta["tool_calls"]
            if type(calls) is not list or any(type(call) is not dict for call in calls):
                raise WrongShape("tool_calls", calls, "a list of objects")
            delta["tool_calls"] = [{**call, "index": at} for at, call in enumerate(calls)]
        choices.append({**{name: choice[name] for name in choice if name != "message"}, "delta": delta})
    yield {**head, "choices": choices}
    yield from _usage_chunk(head, document)


def completion_chunks(document: Json) -> Iterator[Json]:
    """A plain ``text_completion`` as the chunks of a stream: one with everything, then the usage.

    Raises WrongShape when it has no choices.
    """
    head = {name: document[name] for name in document if name not in ("choices", "usage")}
    yield {**head, "choices": _choices(document)}
    yield from _usage_chunk(head, document)


def _choices(document: Json) -> list[Json]:
    choices = document.get("choices")
    if type(choices) is not list or not choices or any(type(choice) is not dict for choice in choices):
        raise WrongShape("choices", choices, "a list of objects")
    return choices


def _usage_chunk(head: Json, document: Json) -> Iterable[Json]:
    if document.get("usage"):
        yield {**head, "choices": [], "usage": document["usage"]}
