"""Pictures over OpenAI's wire: bodies of drawings, forms of edits and variations, and their events.

``response_format`` is the gateway's own business: it stores what a caller wants as a ``url``, so a server is asked
for the picture itself. Source: OpenAI's API reference and SDK types.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any, ClassVar, Protocol

from backends.base import Upstream
from backends.http import HttpClient
from backends.http.multipart import FormField, FormFile
from backends.notices import tell
from backends.openai.documents import image_events
from backends.parameters import ParameterTable
from backends.pictures.addresses import with_bytes
from backends.pictures.drawn import checked_drawings
from backends.translation import NEUTRAL
from backends.wire.common import WireModel
from backends.wire.images import VARY, ImageEditRequest, ImageRequest
from backends.wire.pictures import picture_kind
from catalog.errors import UnsupportedParameter
from catalog.types import Json

DRAWN, EDITED = "image_generation", "image_edit"
"""The beginnings of the types of events."""
_PICTURE = 24 * 1024 * 1024
"""Bytes of a large picture as base64."""
_OF_VARIATIONS = frozenset({"model", "n", "size", "response_format", "user"})
_NOT_SENT = frozenset({"prompt", "routing", "stream", "strict", "timings"})


class PictureServer(Protocol):
    """The part of :class:`backends.openai.backend.OpenAIBackend` that pictures need."""

    http: HttpClient
    key_header: ClassVar[str]

    def parameters(self, upstream: Upstream) -> ParameterTable: ...

    def body(self, request: WireModel, upstream: Upstream) -> Json: ...

    def typed_events(
        self,
        upstream: Upstream,
        path: str,
        take_apart: Callable[[Any, Upstream], Iterator[Json]],
        last: tuple[str, ...],
        *,
        room: int = 0,
        **sent: Any,
    ) -> AsyncGenerator[Json]: ...


def draw(backend: PictureServer, upstream: Upstream, request: ImageRequest) -> AsyncGenerator[Json]:
    """The events of a drawing; see :class:`backends.base.Draw`."""
    body = _body(backend, upstream, request)
    events = backend.typed_events(
        upstream, "/images/generations", image_events, (f"{DRAWN}.completed",), room=_room(request), json=body
    )
    events = with_bytes(events, upstream, backend.http, key_header=backend.key_header)
    return checked_drawings(events, upstream, request)


async def edit(backend: PictureServer, upstream: Upstream, request: ImageEditRequest) -> AsyncGenerator[Json]:
    """The events of an edit or of variations; see :class:`backends.base.EditImages`.

    OpenAI has retired its variations: there, and at Azure, a variation is an edit with a prompt of ours.
    """
    table = backend.parameters(upstream)
    if request.variation and not table.pictures.variations:
        tell(f"'{upstream.model}' has no variations, so it was asked for an edit: {VARY!r}")
        request = request.model_copy(update={"prompt": VARY, "variation": False})
    path = "/images/variations" if request.variation else "/images/edits"
    fields, files = edit_form(_body(backend, upstream, request), request, upstream, table)
    events = backend.typed_events(
        upstream,
        path,
        partial(image_events, made=EDITED),
        (f"{EDITED}.completed", f"{DRAWN}.completed"),
        room=_room(request),
        data=fields,
        files=files,
    )
    events = with_bytes(events, upstream, backend.http, key_header=backend.key_header)
    async with aclosing(checked_drawings(events, upstream, request)) as checked:
        async for event in checked:
            yield _as_edit(event)


def edit_form(
    body: Json, request: ImageEditRequest, upstream: Upstream, table: ParameterTable
) -> tuple[list[FormField], list[FormFile]]:
    """The multipart form of an edit, as OpenAI's SDKs write it. Raises UnsupportedParameter.

    A variation has one picture and few fields; a server that is no worker of this machine is sent those alone.
    """
    if request.variation and not table.pictures.own:
        body = {name: value for name, value in body.items() if name in _OF_VARIATIONS}
    if request.variation and (len(request.image) > 1 or request.mask or request.markup):
        raise UnsupportedParameter("A variation is of one picture, without a mask.", param="image")
    if request.markup is not None and table.pictures.own:
        raise UnsupportedParameter(f"'{upstream.model}' takes no 'markup'.", param="markup")
    body.pop("prompt", None) if request.variation else body.setdefault("prompt", request.prompt)
    name = "image" if len(request.image) == 1 else "image[]"
    files = [(name, _file(data, f"image{at}")) for at, data in enumerate(request.image, 1)]
    overlays = {"mask": request.mask, "markup": request.markup}
    files += [(extra, _file(data, extra)) for extra, data in overlays.items() if data is not None]
    return list(_fields(body)), files


def left_out(request: ImageEditRequest, table: ParameterTable) -> tuple[str, ...]:
    """The fields that the form of a variation lacks, beyond those that the server does not take."""
    if not request.variation or not table.pictures.variations or table.pictures.own:
        return ()
    sent = request.to_wire()
    named = sent.keys() - _OF_VARIATIONS - table.drops - table.pictures.drops - _NOT_SENT
    return tuple(sorted(name for name in named if sent[name] not in (None, *NEUTRAL.get(name, ()))))


def _body(backend: PictureServer, upstream: Upstream, request: ImageRequest) -> Json:
    body = backend.body(request, upstream)
    asked = body.pop("response_format", None)
    if asked is not None and backend.parameters(upstream).pictures.format:
        body["response_format"] = "b64_json"
    return body


def _room(request: ImageRequest) -> int:
    return (request.n or 1) * _PICTURE


def _file(data: bytes, stem: str) -> tuple[str, bytes, str]:
    kind = picture_kind(data)
    return f"{stem}.{kind}", data, f"image/{kind}"


def _fields(body: Mapping[str, Any], prefix: str = "") -> Iterator[FormField]:
    """The fields of a form for a JSON object; members of objects and items of lists are in brackets."""
    for name, value in body.items():
        place = f"{prefix}[{name}]" if prefix else name
        if isinstance(value, dict):
            yield from _fields(value, place)
        elif isinstance(value, list | tuple):
            yield from ((f"{place}[]", _text(item)) for item in value)
        elif value is not None:
            yield place, _text(value)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _as_edit(event: Json) -> Json:
    kind = str(event.get("type"))
    if not kind.startswith(f"{DRAWN}."):
        return event
    return {**event, "type": EDITED + kind.removeprefix(DRAWN)}
