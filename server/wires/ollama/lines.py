"""Translates chunks of chats and completions into the lines of Ollama's answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Any

import orjson

from backends.adapting.arguments import INVALID, object_of
from catalog.errors import AnswerInvalid, RoundhouseError, StreamBroken
from catalog.types import Json
from server.edge.errors import ollama_error
from server.wires.ollama.context import Turn, encode_context
from server.wires.translation import Translation, picture

_REASONS = {"tool_calls": "stop", "function_call": "stop"}
"""Ollama's reasons of an end where they are not OpenAI's."""
SECOND = 1_000_000_000
"""Nanoseconds of a second."""


def rfc3339(moment: datetime) -> str:
    """A time as Ollama writes it."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def now() -> str:
    """The time of a line."""
    return rfc3339(datetime.now(UTC))


@dataclass(slots=True)
class Stopwatch:
    """Measures an answer. ``clock`` returns seconds; ``began`` is when the request came.

    ``loading`` returns the seconds that loading the model of this name has taken since a moment; 0 for one that
    was loaded before.
    """

    clock: Callable[[], float]
    loading: Callable[[str, float], float]
    began: float = 0.0
    _first: float | None = None
    _load: float = 0.0

    def __post_init__(self) -> None:
        self.began = self.clock()

    def begin(self, model: str) -> None:
        """Note the first chunk of an answer by ``model``."""
        if self._first is None:
            self._first = self.clock()
            self._load = min(self.loading(model, self.began), self._first - self.began)

    def times(self, usage: Json) -> Json:
        """The durations until now, and the counts of ``usage``; a server of Ollama measures its own better."""
        ended = self.clock()
        first = ended if self._first is None else self._first
        seconds = {
            "load": self._load,
            "prompt_eval": first - self.began - self._load,
            "eval": ended - first,
            **(usage.get("durations") or {}),
            "total": ended - self.began,
        }
        times: Json = {f"{name}_duration": round(seconds[name] * SECOND) for name in _TIMES}
        for name, ours in (("prompt_eval_count", "prompt_tokens"), ("eval_count", "completion_tokens")):
            if isinstance(usage.get(ours), int):
                times[name] = usage[ours]
        return times


_TIMES = ("total", "load", "prompt_eval", "eval")


@dataclass(slots=True)
class AnswerLines:
    """One answer: :meth:`feed` it the chunks, then :meth:`finish` it; :meth:`whole` is the answer in one object.

    ``model`` is the name that the client used; ``None`` tells the name of the model that answers. A chat's text is
    in ``message``, a completion's (``chats`` is false) in ``response``. ``turns`` is the conversation whose
    ``context`` the answer ends with. ``keep`` is called with the name of the model that answers.
    """

    model: str | None
    watch: Stopwatch
    chats: bool = True
    turns: list[Turn] | None = None
    keep: Callable[[str], None] | None = None
    _texts: list[str] = field(default_factory=list)
    _thoughts: list[str] = field(default_factory=list)
    _logprobs: list[Json] = field(default_factory=list)
    _open: dict[int, Json] = field(default_factory=dict)
    _calls: list[Json] = field(default_factory=list)
    _usage: Json = field(default_factory=dict)
    _finish_reason: str | None = None
    _begun: bool = False
    _end: Json = field(default_factory=dict)

    def feed(self, chunk: Json) -> Iterator[Json]:
        """The lines of one chunk."""
        if not self._begun:
            self._begun = True
            model = str(chunk.get("model") or "")
            self.watch.begin(model)
            self.model = self.model or model
            if self.keep is not None:
                self.keep(model)
        if chunk.get("usage"):
            self._usage = chunk["usage"]
        for choice in chunk.get("choices") or ():
            if choice.get("index", 0) == 0:
                yield from self._choice(choice)

    def finish(self) -> Iterator[Json]:
        """The tool calls that are not told yet, and the last line. Raises StreamBroken without a finish reason."""
        if self._finish_reason is None:
            raise StreamBroken("The answer ended without a finish_reason.")
        yield from self._told_calls()
        reason = _REASONS.get(self._finish_reason, self._finish_reason)
        self._end = {"done_reason": reason, **self.watch.times(self._usage)}
        if self.turns is not None:
            context = encode_context([*self.turns, ("assistant", "".join(self._texts))])
            if context is not None:
                self._end["context"] = context
        yield {**self._line("", ""), "done": True, **self._end}

    def fail(self, error: RoundhouseError) -> Iterator[Json]:
        """The line that ends an answer which broke off."""
        yield ollama_error(error)

    def whole(self) -> Json:
        """The answer in one object, once it is finished."""
        line = self._line("".join(self._texts), "".join(self._thoughts), self._calls)
        if self._logprobs:
            line["logprobs"] = self._logprobs
        return {**line, "done": True, **self._end}

    # ---- the parts of an answer

    def _choice(self, choice: Json) -> Iterator[Json]:
        delta = choice.get("delta") or {}
        text = choice.get("text") or delta.get("content") or delta.get("refusal") or ""
        text += "".join(picture(image) for image in delta.get("images") or ())
        thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
        logprobs = list(_logprobs(choice.get("logprobs")))
        if text or thought or logprobs:
            self._texts.append(text)
            self._thoughts.append(thought)
            self._logprobs += logprobs
            line = self._line(text, thought)
            yield {**line, "logprobs": logprobs} if logprobs else line
        for call in delta.get("tool_calls") or ():
            yield from self._call(call)
        self._finish_reason = choice.get("finish_reason") or self._finish_reason

    def _call(self, delta: Json) -> Iterator[Json]:
        position = delta.get("index", 0)
        function = delta.get("function") or {}
        if position not in self._open:
            yield from self._told_calls(whole_only=True)  # Ollama tells a call once it is whole
            self._open[position] = {
                "id": delta.get("id"),
                "name": function.get("name"),
                "pieces": [],
                "told": False,
            }
        if function.get("arguments"):
            call = self._open[position]
            if call["told"] and function["arguments"].strip():
                raise AnswerInvalid("The model added to the arguments of a tool call that was whole.")
            call["pieces"].append(function["arguments"])

    def _told_calls(self, *, whole_only: bool = False) -> Iterator[Json]:
        """The calls that are not told yet; with ``whole_only`` those before the first that is not whole.

        Some servers send the pieces of several calls by turns.
        """
        for call in self._open.values():
            if call["told"]:
                continue
            text = "".join(call["pieces"])
            given = object_of(text)
            if whole_only and (INVALID in given or not text.strip()):
                return
            function = {"index": len(self._calls), "name": call["name"], "arguments": given}
            told = {"id": call["id"], "function": function}
            call["told"] = True
            self._calls.append(told)
            yield self._line("", "", [told])

    def _line(self, text: str, thought: str, calls: list[Json] | None = None) -> Json:
        line: Json = {"model": self.model, "created_at": now()}
        holder: Json = {"role": "assistant", "content": text} if self.chats else {"response": text}
        if thought:
            holder["thinking"] = thought
        if calls:
            holder["tool_calls"] = calls
        return {**line, "message": holder, "done": False} if self.chats else {**line, **holder, "done": False}


class LineEncoder:
    """Encodes a translation as JSON lines."""

    def __init__(self, lines: Translation) -> None:
        self._lines = lines

    def encode(self, item: Json) -> bytes:
        return json_lines(self._lines.feed(item))

    def finish(self) -> bytes:
        return json_lines(self._lines.finish())

    def fail(self, error: RoundhouseError) -> bytes | None:
        return json_lines(self._lines.fail(error))


def json_lines(lines: Iterable[Any]) -> bytes:
    """Each value as a line of JSON."""
    return b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines)


def _logprobs(given: Any) -> Iterator[Json]:
    """A choice's logprobs, of a chat or of a completion."""
    if not isinstance(given, dict):
        return
    for token in given.get("content") or ():
        yield {**_token(token), "top_logprobs": [_token(other) for other in token.get("top_logprobs") or ()]}
    tokens, tops = given.get("tokens") or (), given.get("top_logprobs") or ()
    for text, logprob, top in zip_longest(tokens, given.get("token_logprobs") or (), tops):
        if text is not None and logprob is not None:
            others = [{"token": other, "logprob": value} for other, value in (top or {}).items()]
            yield {"token": text, "logprob": logprob, "top_logprobs": others}


def _token(token: Json) -> Json:
    told = {"token": token["token"], "logprob": token["logprob"]}
    return {**told, "bytes": token["bytes"]} if token.get("bytes") is not None else told
