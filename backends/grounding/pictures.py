"""The pictures that an answer speaks of, and their sizes as a model's processor resizes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from backends.base import Upstream
from backends.pictures.redrawing import SMALL
from backends.pictures.sizes import PixelSize
from backends.wire.chat import ChatRequest


class ShownPictures(NamedTuple):
    """The pictures of a request, in its order, as addresses or data URLs, and whether their ``detail`` is "low".

    ``meant`` is the position of the one that an answer speaks of, None where that cannot be told: the only one, or
    the only one of the last message that has some.
    """

    urls: Sequence[str]
    low: Sequence[bool]
    meant: int | None


def shown_in(request: ChatRequest) -> ShownPictures:
    """The pictures of a chat."""
    urls: list[str] = []
    low: list[bool] = []
    last: list[int] = []
    for message in request.messages:
        if not isinstance(message.content, list):
            continue
        here = [part.image_url for part in message.content if part.image_url is not None]
        if here:
            last = [*range(len(urls), len(urls) + len(here))]
            urls += [str(one.get("url") or "") for one in here]
            low += [one.get("detail") == "low" for one in here]
    return ShownPictures(urls, low, last[0] if len(last) == 1 else None)


class PixelLimits(NamedTuple):
    """Least and most pixels of a picture that Qwen2.5-VL's processor leaves as it is."""

    least: int
    most: int


_FACTOR = 28
_AREA = _FACTOR * _FACTOR
_PUBLISHED = PixelLimits(4 * _AREA, 16384 * _AREA)
_LLAMACPP = PixelLimits(8 * _AREA, 4096 * _AREA)
_OLLAMA = PixelLimits(4 * _AREA, 1280 * _AREA)
_DASHSCOPE = _OLLAMA


def limits_of(upstream: Upstream, request: ChatRequest) -> PixelLimits:
    """The limits of Qwen2.5-VL at this server.

    Sources: the model's ``preprocessor_config.json`` (vLLM, MLX and its hosts), ``clip.cpp`` of llama.cpp,
    Ollama's image processor of qwen25vl, and Alibaba's page on pictures (``vl_high_resolution_images``).
    """
    if upstream.engine in ("llamacpp", "llama-cpp-python"):
        return _LLAMACPP
    if upstream.protocol == "ollama":
        return _OLLAMA
    host = urlsplit(upstream.base_url).hostname or ""
    if host.endswith(".aliyuncs.com") and not (request.model_extra or {}).get("vl_high_resolution_images"):
        return _DASHSCOPE
    return _PUBLISHED


def resized(size: PixelSize, limits: PixelLimits) -> PixelSize:
    """The size of a picture as Qwen2.5-VL sees it: sides that 28 divides, within the limits.

    Source: ``smart_resize`` of qwen-vl-utils, "vision_process.py".
    """
    width, height = (max(_FACTOR, _FACTOR * round(side / _FACTOR)) for side in size)
    area = size.width * size.height
    if width * height > limits.most:
        shrink = math.sqrt(area / limits.most)
        width, height = (max(_FACTOR, _FACTOR * math.floor(side / shrink / _FACTOR)) for side in size)
    elif width * height < limits.least:
        grow = math.sqrt(limits.least / area)
        width, height = (_FACTOR * math.ceil(side * grow / _FACTOR) for side in size)
    return PixelSize(width, height)


def sent_size(size: PixelSize, upstream: Upstream, *, low: bool) -> PixelSize:
    """The size in which a worker of ours gets a picture: a small one for ``detail`` "low"."""
    if upstream.engine is None or not low:
        return size
    scale = min(1.0, SMALL / max(size))
    return PixelSize(max(1, round(size.width * scale)), max(1, round(size.height * scale)))
