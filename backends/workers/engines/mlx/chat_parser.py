"""Separates a model's output into reasoning, tool calls and content, with ``mlx_lm``'s rules for each model.

Source: mlx_lm/generate.py (``make_text_state_machine``) and mlx_lm/tokenizer_utils.py of mlx-lm 0.32.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Any

from catalog.types import Json


class MlxOutputParser:
    """Implements :class:`backends.workers.engines.common.chunks.ChatOutputParser`."""

    def __init__(self, tokenizer: Any, prompt: list[int], tools: list[Json]) -> None:
        from mlx_lm.generate import TextStateMachine, make_text_state_machine

        self._machine = TextStateMachine
        initial = _initial(tokenizer, prompt)
        self.thinks = initial == "reasoning"
        self._state = make_text_state_machine(tokenizer).make_state(initial)
        self._parse = tokenizer.tool_parser
        self._tools = tools
        self._call = ""
        self._calls = 0
        self.called = False

    def take(self, text: str, *, last: bool) -> Iterator[Json]:
        """Yield the deltas of ``text``; with ``last``, everything that was held back, too."""
        self._state, segments = self._machine.split(self._state, text)
        if last:
            self._state, rest, state = self._machine.flush(self._state)
            segments = [*segments, (state, rest)]
        for state, piece in segments:
            if state == "tool":
                self._call += piece
                continue
            yield from self._finished_call()
            if piece:
                yield {"reasoning_content" if state == "reasoning" else "content": piece}
        if last:
            yield from self._finished_call()

    def _finished_call(self) -> Iterator[Json]:
        text, self._call = self._call, ""
        if not text:
            return
        try:
            parsed = self._parse(text, self._tools)
        except ValueError:  # including JSON errors: the text is truncated, or is no call
            yield {"content": text}
            return
        calls = parsed if isinstance(parsed, list) else [parsed]
        self.called = True
        yield {"tool_calls": [self._as_call(call) for call in calls]}

    def _as_call(self, call: Json) -> Json:
        self._calls += 1
        arguments = call.get("arguments")
        return {
            "index": self._calls - 1,
            "id": call.get("id") or f"call_{secrets.token_hex(12)}",
            "type": "function",
            "function": {
                "name": call.get("name"),
                "arguments": arguments
                if isinstance(arguments, str)
                else json.dumps(arguments, ensure_ascii=False),
            },
        }


def _initial(tokenizer: Any, prompt: list[int]) -> str:
    """Return the initial state: ``reasoning`` if the prompt's template has opened the reasoning already."""
    declared: str | None = tokenizer.response_initial_state
    if declared:
        return declared
    if tokenizer.has_thinking and tokenizer.rfind_think_start(prompt) > tokenizer.rfind_think_end(prompt):
        return "reasoning"
    return "normal"
