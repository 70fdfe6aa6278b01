"""Videos of Google's models: Gemini Omni by interactions in the background, Veo by a long-running operation.

An interaction is created, looked at, and its file fetched from the same address, whatever address the answer
names. Vertex AI's operations give the file itself. Source: Google's pages on video generation,
the code of google-genai.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any
from urllib.parse import quote

from backends.base import Upstream
from backends.http import HttpClient
from backends.http.errors import ErrorReader
from backends.translation import GATEWAY_FIELDS, reading
from backends.videos import looks, not_made, pieces
from backends.wire.video.events import VideoItem, accepted, completed, progress
from backends.wire.video.request import DiscardRequest, VideoRequest
from catalog.errors import CapabilityMismatch, InvalidRequest, NotFound, PathMissing, UpstreamProtocolError
from catalog.types import Json

_SHAPES = {
    "640x360": ("16:9", "360p"), "360x640": ("9:16", "360p"),
    "1280x720": ("16:9", "720p"), "720x1280": ("9:16", "720p"),
    "1920x1080": ("16:9", "1080p"), "1080x1920": ("9:16", "1080p"),
    "3840x2160": ("16:9", "4k"), "2160x3840": ("9:16", "4k"),
}  # fmt: skip
"""The aspect ratio and the resolution of a size."""
_TASKS = {"create": "text_to_video", "remix": "edit", "edit": "edit", "extend": "extend"}
_AT_WORK = frozenset({"queued", "in_progress"})
_UNTOLD = frozenset({"fps", "steps", "guidance_scale", "strength", "user"})
"""Parameters that no model of Google's takes."""
_FILE = re.compile(r"(?:^|/)files/([a-z0-9-]{1,80})(?=[:/?]|$)")
"""The name of a file in its address."""
_INLINE = 512 * 1024 * 1024
"""Bytes of an answer that holds the file."""
_OMNI, _VEO = "Gemini", "Veo"


def is_veo(model: str) -> bool:
    """Whether a model is one of Veo's, whose API is older."""
    return model.rpartition("/")[2].startswith("veo")


def unsent(request: VideoRequest, upstream: Upstream) -> tuple[str, ...]:
    """The parameters of a video that Google is not sent."""
    if request.accepted is not None:
        return ()
    lost = set(_UNTOLD)
    if not is_veo(upstream.model):
        lost |= {"negative_prompt", "generate_audio"}
    if request.resized and not is_veo(upstream.model):
        lost.add("size")
    given = request.to_wire()
    known = {*type(request).model_fields, *GATEWAY_FIELDS} - lost
    return tuple(name for name in given if name not in known)


def check_video(request: VideoRequest, upstream: Upstream) -> None:
    """Raises InvalidRequest for a size that Google does not make, CapabilityMismatch for a change by Veo."""
    if request.accepted is not None:
        return
    if request.size is not None and request.task == "create":
        _shape(request.size, upstream)
    if is_veo(upstream.model) and request.task in ("remix", "edit"):
        raise CapabilityMismatch(f"'{upstream.model}' changes no videos; Gemini Omni does.", param="video")


class GoogleVideos:
    """Calls for videos. ``path`` makes the path of a model's method, ``interactions`` that of interactions.

    ``vertex``: operations are asked for by a method of the model, and answers hold the file.
    """

    def __init__(
        self,
        client: HttpClient,
        *,
        key_header: str,
        errors: ErrorReader,
        path: Callable[[Upstream, str], str],
        interactions: Callable[[Upstream], str] = lambda _: "/interactions",
        vertex: bool = False,
    ) -> None:
        self._client = client
        self._calls: dict[str, Any] = {"key_header": key_header, "errors": errors}
        self._path = path
        self._interactions = interactions
        self._vertex = vertex

    async def film(self, upstream: Upstream, request: VideoRequest) -> AsyncGenerator[VideoItem]:
        """See :class:`backends.base.Film`."""
        made = self._veo(upstream, request) if is_veo(upstream.model) else self._omni(upstream, request)
        async for item in made:
            yield item

    async def discard(self, upstream: Upstream, request: DiscardRequest) -> Json:
        """See :class:`backends.base.Discard`. Veo's operations end by themselves, and their files expire."""
        if is_veo(upstream.model):
            return {"deleted": False}
        place = f"{self._interactions(upstream)}/{quote(request.accepted, safe='')}"
        for method, path in (("POST", f"{place}/cancel"), ("DELETE", place)):
            try:
                async with self._client.open(upstream, method, path, **self._calls) as response:
                    await response.read()
            except (NotFound, PathMissing, InvalidRequest):
                continue  # it has ended, or is gone
        return {"deleted": True}

    # ---- Gemini Omni

    async def _omni(self, upstream: Upstream, request: VideoRequest) -> AsyncGenerator[VideoItem]:
        place = self._interactions(upstream)
        name = request.accepted
        if name is None:
            body = interaction_of(request, upstream, inline=self._vertex)  # Vertex AI wants a bucket for the other
            begun = await self._client.post_json(upstream, place, body, room=_INLINE, **self._calls)
            with reading(_OMNI):
                name = str(begun["id"])
        yield accepted(name)
        path = f"{place}/{quote(name, safe='')}"
        look = partial(self._document, upstream, path)
        async for told in looks(look, upstream, every=self._client.settings.video_poll):
            with reading(_OMNI):
                status = str(told["status"])
            if status == "completed":
                break
            if status not in _AT_WORK:
                yield completed(0)
                raise _failure(told, status, upstream)
            yield progress(0)
        with reading(_OMNI):
            video = next((part for part in _parts(told) if part.get("type") == "video"), None)
        if video is None:
            yield completed(0)
            said = " ".join(str(part["text"]) for part in _parts(told) if isinstance(part.get("text"), str))
            raise not_made(upstream, "content_filtered" if said else "no_video", said)
        async for piece in self._content(upstream, video.get("data"), video.get("uri")):
            yield piece
        yield completed(float(request.seconds))

    # ---- Veo

    async def _veo(self, upstream: Upstream, request: VideoRequest) -> AsyncGenerator[VideoItem]:
        name = request.accepted
        if name is None:
            body = operation_of(request, upstream)
            begun = await self._client.post_json(
                upstream, self._path(upstream, "predictLongRunning"), body, **self._calls
            )
            with reading(_VEO):
                name = str(begun["name"])
        yield accepted(name)
        async for told in looks(
            partial(self._operation, upstream, name), upstream, every=self._client.settings.video_poll
        ):
            if told.get("done") is True:
                break
            yield progress((told.get("metadata") or {}).get("progressPercent"))
        if told.get("error"):
            yield completed(0)
            error = told["error"] if isinstance(told["error"], dict) else {}
            raise not_made(upstream, str(error.get("status") or error.get("code") or ""), error.get("message"))
        with reading(_VEO):
            answer = told.get("response") or {}
            answer = answer.get("generateVideoResponse") or answer
            found = answer.get("generatedSamples") or answer.get("videos") or []
            reasons = answer.get("raiMediaFilteredReasons") or []
        if not found:
            yield completed(0)
            raise not_made(upstream, "content_filtered", " ".join(map(str, reasons)))
        with reading(_VEO):
            video = found[0].get("video") or found[0]
            data, uri = video.get("bytesBase64Encoded") or video.get("encodedVideo"), video.get("uri")
        async for piece in self._content(upstream, data, uri):
            yield piece
        yield completed(float(request.seconds))

    async def _operation(self, upstream: Upstream, name: str) -> Json:
        if self._vertex:
            path = self._path(upstream, "fetchPredictOperation")
            told = await self._client.post_json(
                upstream, path, {"operationName": name}, room=_INLINE, **self._calls
            )
        else:
            told = await self._document(upstream, f"/{quote(name, safe='/')}")
        return told if isinstance(told, dict) else {}

    # ---- shared

    async def _document(self, upstream: Upstream, path: str) -> Json:
        async with self._client.open(upstream, "GET", path, **self._calls) as response:
            told = await response.json(room=_INLINE)
        return told if isinstance(told, dict) else {}

    async def _content(self, upstream: Upstream, data: object, uri: object) -> AsyncGenerator[bytes]:
        """The bytes of a video that came with its answer, or the file that the answer names."""
        if isinstance(data, str) and data:
            try:
                yield binascii.a2b_base64(data)
            except binascii.Error:
                raise UpstreamProtocolError(
                    f"The endpoint '{upstream.endpoint}' sent a video that is no base64."
                ) from None
            return
        found = _FILE.search(uri) if isinstance(uri, str) else None
        if found is None:
            raise UpstreamProtocolError(f"The endpoint '{upstream.endpoint}' names no file for its video.")
        # The name alone is taken: the key must not go to an address that an answer names.
        path = f"/files/{found[1]}:download"
        async with self._client.open(upstream, "GET", path, query={"alt": "media"}, **self._calls) as response:
            async for piece in pieces(response, upstream):
                yield piece


def interaction_of(request: VideoRequest, upstream: Upstream, *, inline: bool = False) -> Json:
    """The body of an interaction in the background, whose file comes with it or by its name.

    Raises InvalidRequest for a size that Google does not make.
    """
    content: list[Json] = []
    if request.image is not None:
        content.append({"type": "image", "data": _base64(request.image), "mime_type": request.image_type})
    if request.source is not None and request.source_id is None:
        content.append({"type": "video", "data": _base64(request.source), "mime_type": "video/mp4"})
    content.append({"type": "text", "text": request.prompt})
    form: Json = {"type": "video", "delivery": "inline" if inline else "uri"}
    if request.task not in ("edit", "remix"):
        form["duration"] = f"{request.seconds}s"
    if request.size is not None and request.task == "create":
        form["aspect_ratio"], form["resolution"] = _shape(request.size, upstream)
    task = "image_to_video" if request.image is not None else _TASKS[request.task]
    config: Json = {"video_config": {"task": task}}
    if request.seed is not None:
        config["seed"] = request.seed
    body: Json = {
        "model": upstream.model.rpartition("/")[2],
        "input": content,
        "response_modalities": ["video"],
        "response_format": form,
        "generation_config": config,
        "background": True,
        "store": True,
    }
    if request.source_id is not None:
        body["previous_interaction_id"] = request.source_id
    return body


def operation_of(request: VideoRequest, upstream: Upstream) -> Json:
    """The body of Veo's ``predictLongRunning``; see :func:`check_video` for what it raises."""
    check_video(request, upstream)
    instance: Json = {"prompt": request.prompt}
    if request.image is not None:
        instance["image"] = {"bytesBase64Encoded": _base64(request.image), "mimeType": request.image_type}
    if request.source is not None:
        instance["video"] = {"bytesBase64Encoded": _base64(request.source), "mimeType": "video/mp4"}
    parameters: Json = {"durationSeconds": int(request.seconds), "sampleCount": 1}
    if request.size is not None:
        parameters["aspectRatio"], parameters["resolution"] = _shape(request.size, upstream)
    wishes = {
        "seed": request.seed,
        "negativePrompt": request.negative_prompt,
        "generateAudio": request.generate_audio,
    }
    parameters |= {name: value for name, value in wishes.items() if value is not None}
    return {"instances": [instance], "parameters": parameters}


def _shape(size: str, upstream: Upstream) -> tuple[str, str]:
    if size not in _SHAPES:
        raise InvalidRequest(
            f"'{upstream.model}' makes videos of {', '.join(_SHAPES)}, and not of {size}.", param="size"
        )
    return _SHAPES[size]


def _parts(told: Json) -> list[Json]:
    """The parts of what a model gave, of all steps."""
    steps = told.get("steps") or told.get("outputs") or []
    found: list[Json] = []
    for step in steps if isinstance(steps, list) else []:
        if isinstance(step, dict):
            found += step["content"] if isinstance(step.get("content"), list) else [step]
    return [part for part in found if isinstance(part, dict)]


def _failure(told: Json, status: str, upstream: Upstream) -> Exception:
    errors = told.get("errors") or [
        step.get("error") for step in told.get("steps") or [] if isinstance(step, dict)
    ]
    error = next((each for each in errors if isinstance(each, dict)), {}) if isinstance(errors, list) else {}
    return not_made(upstream, str(error.get("code") or status), error.get("message"))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
