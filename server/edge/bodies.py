"""Reads bodies and queries: counted, within a time limit, and only of supported media types."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Container, Mapping
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, TypeVar, get_args, get_origin

import orjson
import structlog
from pydantic import BaseModel, ValidationError
from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, Headers
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from catalog.errors import InvalidRequest, PayloadTooLarge, RequestTimeout, Unavailable, UnsupportedMediaType
from server.edge.disconnect import ClientGone
from server.edge.json_body import SHORT, from_validation, parse
from server.edge.services import services_of
from server.scope import BODY_HERE
from server.settings import TimeoutSettings

M = TypeVar("M", bound=BaseModel)
LOGGED = 10_000
"""Characters of a body that are logged, if bodies are logged."""


async def read_json(request: Request, model: type[M], *, optional: bool = False, any_type: bool = False) -> M:
    """The request's JSON body as ``model``; if it is ``optional`` and missing, the model's defaults.

    With ``any_type`` its media type does not matter, as curl sends JSON under another. A page of another site can
    send such types unasked, but a browser adds its Origin then, so a body with an Origin needs the right type.

    Raises UnsupportedMediaType, PayloadTooLarge, RequestTimeout, InvalidRequest, or ClientGone.
    """
    headers = request.headers
    if optional and headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
        return model()
    body = await read_body(request, any_type=any_type and "origin" not in headers)
    return parse(model, body) if len(body) <= SHORT else await asyncio.to_thread(parse, model, body)


async def read_either(request: Request, choose: Callable[[bytes], type[M]]) -> M:
    """The request's JSON body as the model that ``choose`` names for its bytes. Raises as :func:`read_json`."""
    body = await read_body(request)
    model = choose(body)
    return parse(model, body) if len(body) <= SHORT else await asyncio.to_thread(parse, model, body)


def read_query(request: Request, model: type[M]) -> M:
    """The request's query parameters as ``model``; unknown ones are ignored. Raises InvalidRequest.

    ``name[]=a&name[]=b`` is a list and ``name[key]=a`` an object, as OpenAI's SDKs write them. A list may also be
    ``name=a&name=b``, ``name[0]=a&name[1]=b`` or ``name=a,b``, as other clients write it.
    """
    given: dict[str, Any] = dict(request.query_params)
    validate = model.model_validate_strings
    lists = _lists(model)
    if any("[" in name or name in lists for name in given):
        given = _nested(request.query_params.multi_items(), lists)
        validate = model.model_validate  # the other takes no lists
    try:
        return validate(given)
    except ValidationError as error:
        raise from_validation(error, given) from None


@cache
def _lists(model: type[BaseModel]) -> frozenset[str]:
    """The names of a model's fields that are lists."""
    kinds = {name: field.annotation for name, field in model.model_fields.items()}
    return frozenset(
        name for name, kind in kinds.items() if list in (get_origin(kind), *map(get_origin, get_args(kind)))
    )


def check_query(request: Request, model: type[BaseModel] | None, ignored: Container[str] = ()) -> None:
    """Raises InvalidRequest for a query parameter that ``model`` does not have; without a model, for every one.

    ``ignored`` are names that clients send everywhere.
    """
    known = () if model is None else tuple(model.model_fields)
    for name in request.query_params:
        if name.partition("[")[0] not in known and name not in ignored:
            told = f"Known: {', '.join(known)}" if known else "This endpoint has none"
            raise InvalidRequest(f"There is no query parameter '{name[:80]}'. {told}.", param=name[:80])


def _nested(pairs: list[tuple[str, str]], lists: Container[str]) -> dict[str, Any]:
    read: dict[str, Any] = {}
    for name, value in pairs:
        outer, bracket, inner = name.partition("[")
        if bracket and not inner.endswith("]"):
            read[name] = value
            continue
        key = inner[:-1]
        if not bracket and outer not in lists:
            read[outer] = value
        elif not key or (outer in lists and key.isdecimal()):
            values = read.setdefault(outer, [])
            if isinstance(values, list):
                values += filter(None, value.split(",")) if outer in lists else (value,)
        else:
            members = read.setdefault(outer, {})
            if isinstance(members, dict):
                members[key] = value
    return read


async def read_body(request: Request, *, any_type: bool = False) -> bytes:
    """The bytes of the request's JSON body. Raises as :func:`read_json`, except InvalidRequest."""
    _check_encoding(request.headers)
    if not any_type:
        _check_type(request.headers, "application/json")
    settings = services_of(request).settings.server
    receive = counted(request, settings.limits.body_bytes, settings.timeouts)
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    body: bytes = message.get("body", b"")
    if message.get("more_body", False):
        pieces = [body]
        while message.get("more_body", False):
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            pieces.append(message.get("body", b""))
        body = b"".join(pieces)
    if services_of(request).settings.log.prompts:
        _log_body(body)
    return body


@asynccontextmanager
async def read_form(
    request: Request,
    *,
    limit: int | None = None,
    folder: Path | None = None,
    files: int = 1,
    or_json: bool = False,
) -> AsyncIterator[FormData]:
    """The request's multipart form, with at most so many files; leaving the block deletes its temporary files.

    ``limit`` is the most bytes of the body, by default that of audio. With a ``folder`` the file is written there
    as it arrives, and has a name. ``or_json``: the endpoint reads that, too, and says so. Raises as
    :func:`read_json` does, and Unavailable for a disk that fails.
    """
    _check_encoding(request.headers)
    _check_type(request.headers, "multipart/form-data", or_json=or_json)
    settings = services_of(request).settings.server
    receive = counted(request, limit or settings.limits.audio_bytes, settings.timeouts)
    stream = Request(request.scope, receive).stream()
    bounds = {"max_fields": settings.limits.form_fields, "max_part_size": settings.limits.form_field_bytes}
    try:
        if folder is None:
            form = await _WholeForm(request.headers, stream, max_files=files, **bounds).parse()
        else:
            form = await _ToFolder(folder, request.headers, stream, max_files=files, **bounds).parse()
    except ClientDisconnect:
        raise ClientGone from None
    except OSError as error:
        raise Unavailable(f"The disk cannot take the file at the moment ({error.strerror}). Try again.") from None
    except (MultiPartException, FormParserError) as error:
        reason = getattr(error, "message", "it cannot be parsed")
        raise InvalidRequest(f"The multipart form is not valid: {reason}") from None
    except (UnicodeError, LookupError):
        raise InvalidRequest("The multipart form has a field that is not text in its charset.") from None
    if services_of(request).settings.log.prompts:
        _log_body(orjson.dumps(_told(form)))
    try:
        yield form
    finally:
        await form.close()


class _WholeForm(MultiPartParser):
    """Parses a form, and refuses one without its end (RFC 2046, 5.1.1): its last part may be cut, and is lost."""

    _ended = False

    def on_end(self) -> None:
        self._ended = True

    async def parse(self) -> FormData:
        form = await super().parse()
        if not self._ended:
            await form.close()
            raise MultiPartException("it has no closing boundary ('--BOUNDARY--'), so its end is missing.")
        return form


class _ToFolder(_WholeForm):
    """Parses a form and writes its files to a folder: the system's temporary one may be small, or in memory."""

    def __init__(self, folder: Path, *arguments: Any, **bounds: Any) -> None:
        super().__init__(*arguments, **bounds)
        self._folder = folder

    def on_headers_finished(self) -> None:
        super().on_headers_finished()
        if (upload := self._current_part.file) is not None:
            upload.file.close()
            file = NamedTemporaryFile(dir=self._folder, suffix=".tmp")  # noqa: SIM115 - closed with the form
            upload.file = file  # type: ignore[assignment]
            self._files_to_close_on_error.append(file)  # type: ignore[arg-type]


def counted(request: Request, limit: int, timeouts: TimeoutSettings) -> Receive:
    """A ``receive`` that refuses a body over ``limit`` bytes, whatever its Content-Length says, and a slow one."""
    scope, receive = request.scope, request.receive
    declared = request.headers.get("content-length")
    if declared is not None and declared.isascii() and declared.isdigit() and int(declared[:20]) > limit:
        raise _too_large(limit)
    loop = asyncio.get_running_loop()
    began = loop.time()
    seen = 0

    async def read() -> Message:
        if BODY_HERE in scope:
            return within(await receive())
        try:
            # A byte now and then keeps a body from being idle, so it must also keep to a rate (as in Apache's
            # mod_reqtimeout).
            due = began + min(timeouts.body, timeouts.body_idle + seen / timeouts.body_rate)
            async with asyncio.timeout_at(min(due, loop.time() + timeouts.body_idle)):
                message = await receive()
        except TimeoutError:
            raise RequestTimeout("The body did not come in time.") from None
        return within(message)

    def within(message: Message) -> Message:
        nonlocal seen
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            if seen > limit:
                raise _too_large(limit)
        return message

    return read


def _log_body(body: bytes) -> None:
    text = body[: 4 * LOGGED].decode("utf-8", "replace")[:LOGGED]
    structlog.get_logger("server.edge.bodies").info("request body", bytes=len(body), body=text)


def _told(form: FormData) -> Mapping[str, Any]:
    """A form's fields for the log; of a file its name and size."""
    return {
        name: value if isinstance(value, str) else {"filename": value.filename, "bytes": value.size}
        for name, value in form.multi_items()
    }


def _too_large(limit: int) -> PayloadTooLarge:
    size = f"{limit / 1_048_576:g} MiB" if limit >= 1_048_576 else f"{limit} bytes"
    return PayloadTooLarge(f"The body is over the limit of {size}. Send less, or raise it in [server.limits].")


def _check_encoding(headers: Headers) -> None:
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedMediaType("Compressed bodies are not read. Send the body without Content-Encoding.")


def _check_type(headers: Headers, wanted: str, *, or_json: bool = False) -> None:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == wanted or (wanted == "application/json" and kind.endswith("+json")):
        return
    read = f"{wanted} or application/json" if or_json else wanted
    raise UnsupportedMediaType(f"This endpoint reads {read}. Send the header 'Content-Type: {wanted}'.")
