"""Videos over OpenAI's wire: OpenAI, Azure, and servers that speak it, such as vLLM-Omni and SGLang.

Source: OpenAI's API reference, and vLLM-Omni's page on its Videos API for the names of samplers.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from functools import partial
from typing import ClassVar
from urllib.parse import quote

import orjson

from backends.base import Upstream
from backends.http import HttpClient
from backends.http.multipart import FormField, FormFile, multipart
from backends.parameters import ParameterTable, body_for, dropped_names
from backends.translation import GATEWAY_FIELDS, reading
from backends.videos import looks, not_made, pieces
from backends.wire.video.events import VideoItem, accepted, completed, progress
from backends.wire.video.request import DiscardRequest, VideoRequest
from catalog.errors import NotFound, PathMissing, UpstreamProtocolError
from catalog.types import Json

_STANDARD = frozenset({"model", "prompt", "seconds", "size"})
"""The fields of OpenAI's own form, beside the first frame."""
_NAMES = {"steps": "num_inference_steps", "generate_audio": "generate_sound"}
"""Names of other servers. Source: vLLM-Omni."""
_AT_WORK = frozenset({"queued", "in_progress", "pending", "processing", "running"})


class OpenAIVideos:
    """The methods of a backend that make videos; a part of :class:`backends.openai.backend.OpenAIBackend`."""

    http: HttpClient
    key_header: ClassVar[str]

    def parameters(self, upstream: Upstream) -> ParameterTable:
        """How this upstream treats the parameters of a request."""
        raise NotImplementedError

    def path(self, upstream: Upstream, path: str) -> str:
        """The path below this upstream's address for ``path`` of OpenAI's API."""
        raise NotImplementedError

    async def film(self, upstream: Upstream, request: VideoRequest) -> AsyncGenerator[VideoItem]:
        """See :class:`backends.base.Film`."""
        name = request.accepted or await self._ask(upstream, request)
        yield accepted(name)
        place = self.path(upstream, f"/videos/{quote(name, safe='')}")
        look = partial(self.http.get_json, upstream, place, key_header=self.key_header)
        seconds, size = None, request.size
        async for told in looks(look, upstream, every=self.http.settings.video_poll):
            with reading(f"The endpoint '{upstream.endpoint}'"):
                status = str(told["status"])
                seconds, size = _number(told.get("seconds")), str(told.get("size") or size or "")
            if status == "completed":
                break
            if status not in _AT_WORK:
                yield completed(0)
                error = told.get("error") if isinstance(told.get("error"), dict) else {}
                raise not_made(upstream, (error or {}).get("code") or status, (error or {}).get("message"))
            yield progress(told.get("progress"))
        async with self.http.open(upstream, "GET", f"{place}/content", key_header=self.key_header) as response:
            async for piece in pieces(response, upstream):
                yield piece
        made = float(request.seconds) if request.task == "extend" else seconds
        yield completed(made, size=size)

    async def discard(self, upstream: Upstream, request: DiscardRequest) -> Json:
        """See :class:`backends.base.Discard`. One that is gone is deleted."""
        place = self.path(upstream, f"/videos/{quote(request.accepted, safe='')}")
        try:
            async with self.http.open(upstream, "DELETE", place, key_header=self.key_header) as response:
                await response.read()
        except (NotFound, PathMissing):
            pass
        return {"deleted": True}

    async def _ask(self, upstream: Upstream, request: VideoRequest) -> str:
        """Ask for a video; its name at the server."""
        form = self._form(upstream, request)
        files: list[FormFile] = []
        if request.image is not None:
            ending = request.image_type.partition("/")[2]
            files.append(("input_reference", (f"first.{ending}", request.image, request.image_type)))
        path = "/videos"
        if request.from_video:
            path = "/videos/extensions" if request.task == "extend" else "/videos/edits"
            if request.source_id is not None:
                if request.task == "remix":
                    path = f"/videos/{quote(request.source_id, safe='')}/remix"
                else:
                    form.append(("video[id]", request.source_id))
            elif request.source is not None:
                files.append(("video", ("source.mp4", request.source, "video/mp4")))
        if path.endswith("/remix"):
            sent = {"content": orjson.dumps({"prompt": request.prompt}), "kind": "application/json"}
        else:
            content, kind = multipart(form, files)
            sent = {"content": content, "kind": kind}
        async with self.http.open(
            upstream,
            "POST",
            self.path(upstream, path),
            content=sent["content"],  # type: ignore[arg-type]
            headers={"content-type": str(sent["kind"])},
            key_header=self.key_header,
        ) as response:
            told = await response.json()
        name = told.get("id") if isinstance(told, dict) else None
        if not isinstance(name, str) or not name:
            raise UpstreamProtocolError(f"The endpoint '{upstream.endpoint}' gave its video no id.")
        return name

    def _form(self, upstream: Upstream, request: VideoRequest) -> list[FormField]:
        table = self.parameters(upstream)
        body = {**body_for(request, upstream, table), "seconds": request.seconds}
        for name in unsent(request, upstream, table):
            body.pop(name, None)
        if request.from_video:  # the source has them
            body.pop("size", None)
            if request.task != "extend":
                body.pop("seconds", None)
        return [(_NAMES.get(name, name), _text(value)) for name, value in body.items() if value is not None]


def unsent(request: VideoRequest, upstream: Upstream, table: ParameterTable) -> tuple[str, ...]:
    """The parameters of a video that the upstream is not sent: OpenAI takes its own alone, a remix the prompt."""
    names = dropped_names(request, upstream, table)
    if request.accepted is not None:
        return ()
    fields = request.to_wire()
    if table.voices:  # OpenAI's own: the one server of its wire whose fields are all known
        names += tuple(name for name in fields if name not in _STANDARD | {"user"})
    if request.task == "remix" and request.source_id is not None:
        names += tuple(name for name in fields if name not in _STANDARD)
    names = tuple(name for name in names if name not in GATEWAY_FIELDS)
    if request.resized:
        names += ("size",)
    return tuple(dict.fromkeys(names))


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _number(value: object) -> float | None:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
