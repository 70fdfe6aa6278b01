"""Reads from a usage object what prices differ by: kinds of tokens, lives of caches, tools, tiers of service.

The names are OpenAI's (``audio_tokens`` and ``image_tokens`` of the details, ``service_tier`` of the answer) and
Anthropic's (``cache_creation``, ``server_tool_use``, ``speed``, ``inference_geo``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from catalog.prices.rates import STANDARD, tiers_of
from routing.outcomes import Usage, UsageDetails

MOST_CALLS = 100_000
"""Searches and containers of one call beyond any answer."""


def details_of(
    usage: Mapping[str, Any], prompt: Mapping[str, Any], answer: Mapping[str, Any], tier: object
) -> UsageDetails | None:
    """The details of a usage object, ``None`` if there are none.

    ``prompt`` and ``answer`` are the details of the tokens, ``tier`` is the answer's ``service_tier``. A count
    of tokens that cannot be true counts as 0: the totals are known without it. Raises ValueError for more searches
    or containers than :data:`MOST_CALLS`, which are paid by the piece.
    """
    if not (
        prompt.get("audio_tokens")
        or prompt.get("image_tokens")
        or answer.get("audio_tokens")
        or answer.get("image_tokens")
        or not _BEYOND.isdisjoint(usage)
        or "cache_write_tokens_details" in prompt
        or (isinstance(tier, str) and tier not in STANDARD)
    ):
        return None  # as in most answers
    created, ran = usage.get("cache_creation"), usage.get("server_tool_use")
    written = prompt.get("cache_write_tokens_details")
    found = (
        _in(created, "ephemeral_1h_input_tokens") + _in(written, "ttl_12h_tokens"),
        _count(prompt.get("audio_tokens")),
        _count(prompt.get("image_tokens")),
        _count(answer.get("audio_tokens")),
        _count(answer.get("image_tokens")),
        _calls(ran, "web_search_requests"),
        _calls(ran, "containers"),
        tiers_of(tier, usage.get("speed"), usage.get("inference_geo")),
        tuple(name for name in _UNPRICED if _in(ran, f"{name}_requests")),
    )
    return UsageDetails(*found) if any(found) else None


def in_tiers(usage: Usage, asked: tuple[str, ...]) -> Usage:
    """The usage in the tiers of service that it names, else in those ``asked`` for.

    A server that does not know a tier ignores it and serves at the listed price, so the caller leaves out those
    that cost less.
    """
    if not asked or (usage.details is not None and usage.details.tiers):
        return usage
    return replace(usage, details=replace(usage.details or UsageDetails(), tiers=asked))


_UNPRICED = ("file_search", "image_generation", "mcp", "code_execution")
"""Tools of a provider that rows have no price for."""
_BEYOND = frozenset({"cache_creation", "server_tool_use", "speed", "inference_geo"})


def _calls(holder: object, name: str) -> int:
    count = _in(holder, name)
    if count > MOST_CALLS:
        raise ValueError("not a count of calls")
    return count


def _in(holder: object, name: str) -> int:
    return _count(holder.get(name)) if isinstance(holder, Mapping) else 0


def _count(value: object) -> int:
    return value if type(value) is int and value > 0 else 0
