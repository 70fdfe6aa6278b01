"""Decides when an upstream is asked for a plain answer instead of a stream.

A stream shows the time to the first token and a stall, and stops when it is closed; it costs both ends a turn of
the event loop per token. So the answer to a plain request is asked for as a stream and assembled, unless it is
sure to be short: then the whole answer fits into the time allowed for a stream's first byte, and ``first_byte``
bounds all of it.

A server that refuses one of the two forms is asked in the other (:mod:`backends.asking`).

Workers are always asked for a stream: llama-server decodes a plain answer to its end even if the client has left.
"""

from __future__ import annotations

from backends.base import Upstream
from backends.registry import answers_plainly
from backends.wire.chat import ChatRequest
from backends.wire.common import WireModel
from backends.wire.completions import CompletionRequest

SLOWEST = 2.0
"""Tokens per second below which people stop waiting; a faster model is done within ``first_byte``."""


def asks_plainly(request: WireModel, upstream: Upstream) -> bool:
    """Whether this request goes to this upstream without ``stream``. Pure and quick."""
    asked = upstream.asked
    if asked.known and asked.recall() and asked.plain is not None:
        return asked.plain and isinstance(request, ChatRequest | CompletionRequest)
    if not answers_plainly(upstream.protocol) or upstream.wire == "responses":
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
