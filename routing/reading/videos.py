"""Reads a request for a video into the facts that routing depends on."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from types import MappingProxyType

from backends.wire.video.request import INTERNAL, DiscardRequest, VideoRequest
from catalog.model import Capability
from routing.facts import Facts, Task
from routing.reading.intent import intent_of

_TIERS: tuple[tuple[int, tuple[str, ...]], ...] = (
    (360, ("360p",)),
    (480, ("480p",)),
    (768, ()),
    (1152, ("1080p",)),
)
"""Resolutions by the most pixels of the shorter side."""
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_NOT_PARAMETERS = frozenset({"model", "prompt", "routing", "strict", "timings"}) | INTERNAL


def read_video(request: VideoRequest, headers: Mapping[str, str] = _NO_HEADERS, *, key: str = "") -> Facts:
    """Facts of a video to make; a unit is a second. A first frame and a source need a model that reads them.

    Raises InvalidRequest for an unknown routing field or value.
    """
    features = {Capability.VISION} if request.image is not None else set()
    if request.from_video:
        features.add(Capability.VIDEO_INPUT)
    return Facts(
        capability=Capability.VIDEO,
        requested=request.model,
        features=frozenset(features),
        task=Task.VIDEO,
        units=float(request.seconds),
        parameters=frozenset(request.model_fields_set - _NOT_PARAMETERS),
        tiers=_resolution(request.size),
        stream=True,
        key=key,
        prompt_digest=blake2b(request.prompt.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest(),
        intent=intent_of(request, headers),
    )


def _resolution(size: str | None) -> tuple[str, ...]:
    """The tier of a size, by its shorter side; none for 720 pixels, the usual ones."""
    if size is None:
        return ()
    short = min(int(side) for side in size.split("x"))
    return next((tier for most, tier in _TIERS if short <= most), ("4k",))


def read_discard(request: DiscardRequest, headers: Mapping[str, str] = _NO_HEADERS, *, key: str = "") -> Facts:
    """Facts of a video to end and delete at its maker: nothing is made."""
    del headers
    return Facts(Capability.VIDEO, requested=request.model, task=Task.VIDEO, key=key, tokens_only=True)
