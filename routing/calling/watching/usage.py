"""Reads the usage that an upstream reports, and believes only figures that can be true.

Money, limits and learning follow these figures, so a wrong one is not repaired: the usage is then unknown, and the
amount reserved for the call is booked instead.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from catalog.model import Capability
from routing.calling.watching.usage_details import details_of
from routing.facts import Facts
from routing.outcomes import Usage

MOST_TOKENS = 100_000_000
"""Tokens of one call beyond any context window and any batch."""
_TIMES_ESTIMATED, _BESIDE = 10, 131_072
"""A prompt of text has no more tokens than this multiple of its estimate, and these: servers add their own."""
_OF_ANY_SIZE = frozenset({Capability.VISION, Capability.AUDIO_INPUT, Capability.DOCUMENTS, Capability.WEB_SEARCH})
MOST_SECONDS = 7 * 86_400.0
"""Seconds of audio beyond any file that is accepted."""


def most_prompt_tokens(facts: Facts) -> int:
    """The most prompt tokens that are believed: media and searches are of any size, and a text is not."""
    if facts.hosted or not _OF_ANY_SIZE.isdisjoint(facts.features):
        return MOST_TOKENS
    return min(MOST_TOKENS, _TIMES_ESTIMATED * facts.prompt_tokens + _BESIDE)


def token_usage(usage: Any, tier: object = None, most_prompt: int = MOST_TOKENS) -> Usage | None:
    """OpenAI's usage object in either of its spellings (``prompt_tokens`` or ``input_tokens``).

    None unless it holds whole numbers with ``0 <= cached + cache_write <= input <= most_prompt``, at most
    :data:`MOST_TOKENS`. Reasoning tokens are part of the output, but some providers (xAI) count them beside it:
    more of them than output are added. Rerankers give ``total_tokens`` alone. ``tier`` is the answer's
    ``service_tier``.
    """
    try:
        prompt = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
        prompt = prompt or usage.get("input_token_details") or {}  # the name in transcriptions
        answer = usage.get("completion_tokens_details") or usage.get("output_tokens_details") or {}
        given, output = _first(usage, "prompt_tokens", "input_tokens"), _first(usage, *_OUTPUT)
        if given is None and output is None:
            given = usage["total_tokens"]
        read = Usage(
            input=_count(given),
            output=_count(output),
            cached=_count(prompt.get("cached_tokens")),
            reasoning=_count(answer.get("reasoning_tokens")),
            cache_write=_count(prompt.get("cache_write_tokens")),
            details=details_of(usage, prompt, answer, tier),
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    if read.cached + read.cache_write > read.input or read.input > most_prompt:
        return None
    if read.reasoning > read.output:
        total = usage.get("total_tokens")
        if type(total) is int and total < read.input + read.output + read.reasoning:
            return None
        return replace(read, output=read.output + read.reasoning)
    return read


_OUTPUT = ("completion_tokens", "output_tokens")


def _first(usage: dict[str, Any], one: str, other: str) -> Any:
    value = usage.get(one)
    return usage.get(other) if value is None else value


def _count(value: Any) -> int:
    """A count of tokens; a missing one is 0. Raises ValueError unless it is plausible."""
    if value is None:
        return 0
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or not 0 <= value <= MOST_TOKENS:
        raise ValueError("not a count of tokens")
    return value


def audio_seconds(value: Any) -> float | None:
    """A duration; None unless it is plausible."""
    if type(value) not in (int, float) or not 0 <= value <= MOST_SECONDS:
        return None
    return float(value)
