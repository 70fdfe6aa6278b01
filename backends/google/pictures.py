"""Pictures by Gemini's image models: each is one chat that is asked for a picture, with the pictures to change.

Source: Google's page on image generation (aspect ratios, ``imageSize``), the Gemini API reference.
"""

from __future__ import annotations

import base64
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing

from backends.base import Upstream
from backends.notices import bill, tell
from backends.parameters import refuse_forbidden
from backends.pictures.drawn import checked_drawings
from backends.translation import NEUTRAL, Dropped
from backends.wire.chat import ChatRequest, ContentPart, Message
from backends.wire.images import VARY, ImageEditRequest, ImageRequest
from backends.wire.pictures import picture_kind
from catalog.errors import AnswerInvalid, InvalidRequest, UnsupportedParameter
from catalog.types import Json

Chats = Callable[[Upstream, ChatRequest], AsyncIterator[Json]]
"""Asks Gemini; yields OpenAI's chunks, whose deltas have ``images``."""
RATIOS = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9")
_SIDES = {"1K": 1024, "2K": 2048, "4K": 4096}
"""The sides of the square of each ``imageSize``. Other ratios have about as many pixels, in sides of Google's
own."""
_ASKED = frozenset({"model", "prompt", "n", "seed", "response_format", "stream", "routing", "strict", "timings"})
"""Fields that are translated, or that the gateway sees to."""
_MOST_SEED = 2**31


def translate(request: ImageRequest, upstream: Upstream) -> tuple[list[ChatRequest], tuple[str, ...]]:
    """One chat per picture, and the names of the dropped parameters. Picture ``i`` has ``seed + i``.

    Raises UnsupportedParameter for a mask or a markup, which Gemini does not take, and for formats beyond PNG,
    JPEG and WebP.
    """
    refuse_forbidden(request)
    dropped = Dropped()
    fields: Json = {"model": request.model, "modalities": ["image"]}
    prompt, parts = request.prompt, []
    if isinstance(request, ImageEditRequest):
        for name in ("mask", "markup"):
            if getattr(request, name) is not None:
                raise UnsupportedParameter(f"'{upstream.model}' takes no '{name}'.", param=name)
        parts = [_part(data) for data in request.image]
        prompt = VARY if request.variation else prompt
    if request.output_format in ("gif", "svg"):
        raise UnsupportedParameter(
            f"'{upstream.model}' makes no {request.output_format} pictures.", param="output_format"
        )
    if (config := _config(request, upstream, dropped)) is not None:
        fields["image_config"] = config
    sent = {name: value for name, value in request.to_wire().items() if value is not None}
    dropped.add(
        *(name for name in sent if name not in _ASKED | {"size", "output_format"} and _matters(sent, name))
    )
    content = [*parts, ContentPart(type="text", text=prompt)]
    fields["messages"] = [Message(role="user", content=content)]
    seeds: Iterator[Json] = (
        {} if request.seed is None else {"seed": (request.seed + at) % _MOST_SEED} for at in range(request.n or 1)
    )
    return [ChatRequest.model_validate({**fields, **seed}) for seed in seeds], dropped.as_tuple()


def events(chats: Chats, upstream: Upstream, request: ImageRequest, kind: str) -> AsyncGenerator[Json]:
    """OpenAI's events of the pictures, one chat after another; ``kind`` is the beginning of their types.

    The usage of each is that of all chats so far. Raises InvalidRequest with the code ``moderation_blocked`` for
    what Google does not draw, AnswerInvalid for an answer without a picture, and as
    :func:`backends.pictures.drawn.checked_drawings`.
    """
    return checked_drawings(_events(chats, upstream, request, kind), upstream, request)


async def _events(chats: Chats, upstream: Upstream, request: ImageRequest, kind: str) -> AsyncGenerator[Json]:
    if isinstance(request, ImageEditRequest) and request.variation:
        tell(f"'{upstream.model}' has no variations, so it was asked for an edit: {VARY!r}")
    asked, _ = translate(request, upstream)
    usage: Json = {}
    for at, chat in enumerate(asked):
        picture, refusal, text = "", "", ""
        async with aclosing(chats(upstream, chat)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                usage = _sum(usage, chunk["usage"]) if chunk.get("usage") else usage
                for choice in chunk["choices"]:
                    delta = choice["delta"]
                    refusal += delta.get("refusal") or ""
                    text += delta.get("content") or ""
                    for image in delta.get("images") or ():
                        picture = image["image_url"]["url"]
        if not picture:
            if usage:
                bill(usage if at else _of_words(usage))
            raise _no_picture(upstream, refusal, text)
        seed = {} if request.seed is None else {"seed": chat.seed}
        yield {**_event(kind, picture), "index": at, **seed, **({"usage": usage} if usage else {})}


def _of_words(usage: Json) -> Json:
    """The usage of an answer without a picture, which says so."""
    details = {**usage.get("output_tokens_details", {}), "text_tokens": usage["output_tokens"]}
    return {**usage, "output_tokens_details": details}


def _event(kind: str, url: str) -> Json:
    """The event of a picture. Google takes no ``quality`` and draws no transparency."""
    _, _, data = url.partition(";base64,")
    told = {"background": "opaque", "quality": "auto", "created_at": int(time.time())}
    return {"type": f"{kind}.completed", "b64_json": data, **told}


def _no_picture(upstream: Upstream, refusal: str, text: str) -> Exception:
    if refusal:
        error = InvalidRequest(refusal, param="prompt")
        error.code = "moderation_blocked"
        return error
    said = f" It says: {text[:300]}" if text else ""
    return AnswerInvalid(f"'{upstream.model}' drew no picture.{said}")


def _part(data: bytes) -> ContentPart:
    url = f"data:image/{picture_kind(data)};base64,{base64.b64encode(data).decode()}"
    return ContentPart(type="image_url", image_url={"url": url})


def _config(request: ImageRequest, upstream: Upstream, dropped: Dropped) -> Json | None:
    """Gemini's nearest size; it counts as dropped where it is not the one that was asked for."""
    if request.size in (None, "auto"):
        return None
    width, height = (int(side) for side in str(request.size).split("x"))
    ratio = min(RATIOS, key=lambda name: abs(math.log(width / height) - _log_ratio(name)))
    config = {"aspect_ratio": ratio}
    side = math.sqrt(width * height)
    size = min(_SIDES, key=lambda name: abs(math.log(side / _SIDES[name])))
    if "2.5" in upstream.model:
        size = "1K"
    elif size != "1K":
        config["image_size"] = size
    if not width == height == _SIDES[size]:
        dropped.add("size")
    return config


def _log_ratio(name: str) -> float:
    width, height = name.split(":")
    return math.log(int(width) / int(height))


def _matters(sent: Json, name: str) -> bool:
    if name == "background" and sent[name] == "opaque":
        return False
    return sent[name] not in NEUTRAL.get(name, ())


def _sum(before: Json, chunk: Json) -> Json:
    """The usage of chats so far in the form of OpenAI's pictures."""
    prompt, answer = chunk.get("prompt_tokens_details") or {}, chunk.get("completion_tokens_details") or {}
    added = {
        "input_tokens": chunk["prompt_tokens"],
        "output_tokens": chunk["completion_tokens"],
        "total_tokens": chunk["total_tokens"],
    }
    whole: Json = {name: before.get(name, 0) + count for name, count in added.items()}
    for name, counts in (("input_tokens_details", prompt), ("output_tokens_details", answer)):
        old = before.get(name, {})
        whole[name] = {kind: old.get(kind, 0) + (counts.get(kind) or 0) for kind in {**old, **counts}}
    return whole
