"""Translates the lines of ``/api/chat`` into OpenAI's chunks. Source: Ollama's API reference, its SDK's types."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any

import orjson

from backends.base import Upstream
from backends.local.tool_schema import ToolPlan, new_call_id
from backends.ollama.errors import error_in_stream
from backends.ollama.request import OllamaChat
from backends.streams.chunks import ChunkWriter, added, usage
from backends.translation import reading
from catalog.errors import AnswerInvalid, StreamBroken
from catalog.types import Json

_REASONS = {"length": "length"}
_DURATIONS = ("total", "load", "prompt_eval", "eval")


@dataclass(slots=True)
class OllamaStream:
    """Translates one answer: :meth:`feed` it the lines in order, then :meth:`close` it.

    ``created`` is in Unix seconds. The usage has Ollama's ``durations`` beside OpenAI's figures, in seconds.
    """

    upstream: Upstream
    call: OllamaChat
    created: int
    finished: bool = False
    _writer: ChunkWriter | None = None
    _calls: int = 0
    _text: list[str] = field(default_factory=list)

    def feed(self, line: Any) -> Iterator[Json]:
        """The chunks of one line. Raises an ``error``'s typed error, AnswerInvalid for a missing required call."""
        with reading("Ollama"):
            if "error" in line:
                raise error_in_stream(line, self.upstream)
            if self._writer is None:
                self._writer = ChunkWriter(f"chatcmpl-{token_hex(12)}", self.upstream.model, self.created)
                yield self._writer.delta({"role": "assistant", "content": ""})
            yield from self._message(line.get("message") or {}, line.get("logprobs"), self._writer)
            if line.get("done"):
                yield from self._end(line, self._writer)

    def close(self) -> None:
        """Raises StreamBroken if the answer has not ended."""
        if not self.finished:
            raise StreamBroken("Ollama's stream ended before the answer did.")

    def _message(self, message: Json, logprobs: Any, writer: ChunkWriter) -> Iterator[Json]:
        if message.get("thinking"):
            yield writer.delta({"reasoning_content": message["thinking"]})
        text = message.get("content")
        if text and self.call.bound is not None:
            self._text.append(text)
        elif text:
            chunk = writer.text(text)
            if logprobs:
                chunk["choices"][0]["logprobs"] = {"content": [_token(one) for one in logprobs], "refusal": None}
            yield chunk
        for call in message.get("tool_calls") or ():
            function = call["function"]
            yield from self._called(
                function["name"], function.get("arguments") or {}, call.get("id") or new_call_id(), writer
            )

    def _called(self, name: str, arguments: Json, call_id: str, writer: ChunkWriter) -> Iterator[Json]:
        if self.call.one_call and self._calls:
            return
        yield writer.tool_start(self._calls, call_id, name)
        yield writer.tool_arguments(self._calls, orjson.dumps(arguments).decode())
        self._calls += 1

    def _end(self, line: Json, writer: ChunkWriter) -> Iterator[Json]:
        reason = _REASONS.get(line.get("done_reason") or "", "stop")
        if self.call.bound is not None:
            yield from self._of_bound(self.call.bound, writer, cut=reason == "length")
        self.finished = True
        if self._calls and reason == "stop":
            reason = "tool_calls"
        yield writer.delta({}, finish_reason=reason)
        counts = usage(prompt=added(line.get("prompt_eval_count")), completion=added(line.get("eval_count")))
        durations = {
            name: line[f"{name}_duration"] / 1e9 for name in _DURATIONS if line.get(f"{name}_duration") is not None
        }
        yield writer.usage({**counts, **({"durations": durations} if durations else {})})

    def _of_bound(self, plan: ToolPlan, writer: ChunkWriter, *, cut: bool) -> Iterator[Json]:
        """The calls or the content of an answer that was bound to their form; nothing of one that was cut."""
        try:
            answer = orjson.loads("".join(self._text))
        except orjson.JSONDecodeError:
            if cut:
                return
            raise AnswerInvalid(
                f"'{self.upstream.model}' did not answer in the form that it was bound to."
            ) from None
        if plan.named is not None:
            yield from self._called(plan.named.name, answer, new_call_id(), writer)
        elif "content" in answer:
            yield writer.text(orjson.dumps(answer["content"]).decode())
        else:
            for call in answer["tool_calls"]:
                yield from self._called(call["name"], call["arguments"], new_call_id(), writer)


def _token(one: Json) -> Json:
    return {
        **_plain_token(one),
        "top_logprobs": [_plain_token(other) for other in one.get("top_logprobs") or ()],
    }


def _plain_token(one: Json) -> Json:
    return {"token": one["token"], "logprob": one["logprob"], "bytes": list(one["token"].encode())}
