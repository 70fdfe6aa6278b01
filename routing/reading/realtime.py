"""Facts of realtime sessions at providers, and of their responses."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from backends.wire.audio import RealtimeRequest, RealtimeTurn
from catalog.model import Capability
from routing.facts import Facts
from routing.reading.intent import intent_of

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


def read_realtime(
    request: RealtimeRequest | RealtimeTurn, headers: Mapping[str, str] = _NO_HEADERS, *, key: str = ""
) -> Facts:
    """Facts of a session with a model that hears and speaks itself, or of one of its responses.

    Raises InvalidRequest for an unknown intent.
    """
    turn = request if isinstance(request, RealtimeTurn) else None
    return Facts(
        capability=Capability.REALTIME,
        requested=request.model,
        prompt_tokens=0 if turn is None else turn.prompt_tokens,
        # The connection costs nothing, and holds no money while it lasts.
        output_tokens=0 if turn is None else turn.most,
        stream=True,
        key=key,
        intent=intent_of(request, headers),
    )
