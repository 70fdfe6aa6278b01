"""When an upstream is asked for a plain answer instead of a stream.

A stream tells the time to the first token, shows a stall as one, and stops when it is closed; it also costs both
ends a turn of the event loop per token. So the answer to a plain request is asked for as a stream and assembled,
unless it is sure to be short: then everything is over within the time that a stream would be given for its first
byte, and ``first_byte`` guards the whole of it.

Workers are always asked for a stream: llama-server decodes a plain answer to its end for a client that left.
"""

from __future__ import annotations

from backends.base import Upstream
from backends.wire.chat import ChatRequest
from backends.wire.common import WireModel
from backends.wire.completions import CompletionRequest

SLOWEST = 2.0
"""Tokens per second below which people stop waiting; who decodes faster is done within ``first_byte``."""

_PROTOCOLS = frozenset({"openai", "azure"})


def asks_plainly(request: WireModel, upstream: Upstream) -> bool:
    """Whether this request goes to this upstream without ``stream``. Pure and quick."""
    if upstream.protocol not in _PROTOCOLS:
        return False
    if isinstance(request, ChatRequest):
        most = request.output_limit
    elif isinstance(request, CompletionRequest):
        most = request.max_tokens
    else:
        return False
    if most is None or request.stream:
        return False
    return most * (request.n or 1) <= SLOWEST * upstream.timeouts.first_byte
