"""Reads a request for a video into the facts that routing depends on."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from types import MappingProxyType

from backends.wire.video.request import INTERNAL, DiscardRequest, VideoRequest
from catalog.model import Capability
from routing.facts import Facts, Task
from routing.reading.intent import check_misplaced, read_intent

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_NOT_PARAMETERS = frozenset({"model", "prompt", "routing", "timings"}) | INTERNAL


def read_video(request: VideoRequest, headers: Mapping[str, str] = _NO_HEADERS, *, key: str = "") -> Facts:
    """Facts of a video to make; a unit is a second. A first frame and a source need a model that reads them.

    Raises InvalidRequest for an unknown routing field or value.
    """
    features = {Capability.VISION} if request.image is not None else set()
    if request.from_video:
        features.add(Capability.VIDEO_INPUT)
    extra = request.model_extra or {}
    check_misplaced(extra)
    return Facts(
        capability=Capability.VIDEO,
        requested=request.model,
        features=frozenset(features),
        task=Task.VIDEO,
        units=float(request.seconds),
        parameters=frozenset(request.model_fields_set - _NOT_PARAMETERS),
        stream=True,
        key=key,
        prompt_digest=blake2b(request.prompt.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest(),
        intent=read_intent(request.model, extra.get("routing"), headers),
    )


def read_discard(request: DiscardRequest, headers: Mapping[str, str] = _NO_HEADERS, *, key: str = "") -> Facts:
    """Facts of a video to end and delete at its maker: nothing is made."""
    del headers
    return Facts(Capability.VIDEO, requested=request.model, task=Task.VIDEO, key=key, tokens_only=True)
