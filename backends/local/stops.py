"""Stop sequences in the gateway, where the engine's own would not do.

llama-server does not say which one ended the text, and each engine would cut a tool call as well as a text.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from backends.workers.engines.common.detokenization import StopFilter
from catalog.types import Json

_TIMED: Json = {"timings_per_token": True}
_COUNTED: Json = {"stream_options": {"continuous_usage_stats": True}}


def counted(body: Json, engine: str | None) -> Json:
    """The body that asks for counts on every chunk, since closing a stream before its end loses the usage.

    The names are llama-server's, and vLLM's for it and our own engines.
    """
    return {**body, **(_TIMED if engine in (None, "llamacpp") else _COUNTED)}


@dataclass(slots=True)
class Counts:
    """The tokens of one choice so far, by llama-server's ``timings`` or the usage on each chunk.

    ``told``: the caller wants them on every chunk.
    """

    told: bool = False
    _timings: Json = field(default_factory=dict)
    _usage: Json | None = None

    def see(self, chunk: Json) -> None:
        self._timings = chunk.get("timings") or self._timings
        self._usage = chunk.get("usage") or self._usage

    @property
    def known(self) -> bool:
        """Whether the caller wants the counts and the worker has begun to tell them."""
        return self.told and bool(self._timings)

    def usage(self) -> Json:
        """OpenAI's usage object."""
        if self._usage is not None:
            return self._usage
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
