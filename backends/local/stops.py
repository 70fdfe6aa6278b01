"""Stop sequences in the gateway, for a caller that is told which one ended the text: llama-server does not say."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from backends.workers.engines.common.detokenization import StopFilter
from catalog.types import Json

TIMED: Json = {"timings_per_token": True}
"""Asks llama-server for counts on every chunk, since closing its stream before the end loses the usage."""


@dataclass(slots=True)
class Counts:
    """The tokens of one choice so far, by llama-server's ``timings``."""

    _timings: Json = field(default_factory=dict)

    def see(self, chunk: Json) -> None:
        self._timings = chunk.get("timings") or self._timings

    def usage(self) -> Json:
        """OpenAI's usage object."""
        cached = self._timings.get("cache_n", 0)
        prompt, said = self._timings.get("prompt_n", 0) + cached, self._timings.get("predicted_n", 0)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": said,
            "total_tokens": prompt + said,
            "prompt_tokens_details": {"cached_tokens": cached},
        }


async def stopped(
    chunks: AsyncGenerator[Json], stops: Sequence[str], on_stop: Callable[[], None]
) -> AsyncGenerator[Json]:
    """The chunks of one choice up to a stop sequence in its text, which the last one has as ``stop_reason``.

    Text that may begin a sequence is held back. At a sequence ``on_stop`` is called, and ``chunks`` is closed,
    which ends the decoding.
    """
    text = StopFilter(stops)
    async with aclosing(chunks):
        async for chunk in chunks:
            for choice in chunk.get("choices") or ():
                delta = choice["delta"]
                if delta.get("content"):
                    delta["content"] = text.feed(delta["content"])
                if text.found:
                    choice |= {"finish_reason": "stop", "stop_reason": text.sequence}
                elif (choice.get("finish_reason") or delta.get("tool_calls")) and (rest := text.end()):
                    delta["content"] = (delta.get("content") or "") + rest
            yield chunk
            if text.found:
                on_stop()
                return
