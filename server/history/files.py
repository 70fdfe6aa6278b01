"""Files of the caller in a request: they are sent as data, because no provider has them.

Ids that are not known here are a provider's (:mod:`server.storage.provider_objects`).
"""

from __future__ import annotations

import asyncio
import base64
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backends.wire.chat import ChatRequest
from backends.wire.media import is_text
from backends.wire.responses import ResponsesRequest
from catalog.errors import InvalidRequest, NotFound, PayloadTooLarge
from catalog.types import Json
from routing.calling.job import Job
from server.callers import Caller, Origin
from server.jobs import chat_job
from server.runtime import Runtime
from server.storage.addresses import containers
from server.storage.files import FILE
from server.storage.provider_objects import file_ids, first_withheld, holder, may_name, refuse, refuse_addresses

MOST_BYTES = 32 << 20
"""Bytes of all files that one request may name."""
_OF_ANSWERS = frozenset({"server_tool_calls", "extra_content", "reasoning_details", "images"})
"""Fields of a message in which an earlier answer goes back, beside those that are not read."""
_PLAIN = 2
"""Fields of a part that is a text alone: its type and the text."""


@dataclass(frozen=True, slots=True)
class _Upload:
    name: str
    media_type: str
    content: bytes

    @property
    def base64(self) -> str:
        return base64.b64encode(self.content).decode()

    @property
    def url(self) -> str:
        return f"data:{self.media_type};base64,{self.base64}"


def names_objects(body: ChatRequest) -> bool:
    """Whether :func:`with_uploads` has anything to do for a chat: most have plain messages alone."""
    return bool(body.model_extra) or any(
        message.model_extra or isinstance(message.content, list) for message in body.messages
    )


async def with_uploads(job: Job[Json], body: ChatRequest, origin: Origin, runtime: Runtime) -> Job[Json]:
    """The job of a chat, with the caller's files in place of their ids.

    Raises as :func:`with_files`, and InvalidRequest for another object of a provider's that the caller may not
    name.
    """
    own = body.model_extra or {}
    extras = [message.model_extra for message in body.messages if message.model_extra]
    spoken = [{name: held for name, held in extra.items() if name not in _OF_ANSWERS} for extra in extras]
    parts = [
        part.model_dump(exclude_unset=True)
        for message in body.messages
        if isinstance(message.content, list)
        for part in message.content
        if part.type != "text" or len(part.model_fields_set) > _PLAIN
    ]
    refuse(first_withheld(runtime.storage, origin.caller, (own, spoken), parts))
    refuse_addresses(runtime.storage, origin.caller, own, extras, parts)
    if next(file_ids(parts), None) is None:
        return job
    wire = body.to_wire()
    filed = await with_files(wire["messages"], runtime, origin.caller)
    if filed is wire["messages"]:
        return job
    return replace(chat_job(type(body).model_validate({**wire, "messages": filed}), origin), kept=job.kept)


async def with_files(parts: list[Any], runtime: Runtime, caller: Caller) -> list[Any]:
    """Messages or items with the caller's files in place of their ids; the same list if there are none.

    Raises NotFound for a file that the caller may not use, PayloadTooLarge for more than ``MOST_BYTES``, and
    InvalidRequest for a file that would have to be in a provider's container.
    """
    files: dict[str, _Upload] = {}
    left = MOST_BYTES
    for name in dict.fromkeys(file_ids(parts)):
        record = await runtime.storage.records.get(FILE, name)
        if record is None and may_name(runtime.storage, caller, name):
            continue
        path = runtime.files.path(name)
        if record is None or record.owner != caller.id or not path.is_file():
            raise NotFound(f"There is no file {name[:100]!r} for this key.", param="file_id")
        left -= record.body["bytes"]
        if left < 0:
            raise PayloadTooLarge(f"The files of a request have at most {MOST_BYTES:,} bytes together.")
        files[name] = await asyncio.to_thread(_read, path, record.body["filename"])
    return _rewritten(parts, files) if files else parts


def objects_of_response(body: ResponsesRequest) -> list[Any]:
    """The parts of a Responses request beside its input that may name objects of a provider's account."""
    return [body.tools or [], {"prompt": body.prompt}, body.model_extra or {}]


def _rewritten(value: Any, files: Mapping[str, _Upload]) -> Any:
    if isinstance(value, list):
        return [_rewritten(each, files) for each in value] if any(containers(value)) else value
    if not isinstance(value, dict):
        return value
    name = holder(value).get("file_id")
    if isinstance(name, str) and name in files:
        return _with_data(value, files[name])
    return {name: _rewritten(held, files) for name, held in value.items()}


def _with_data(part: Json, file: _Upload) -> Json:
    if isinstance(part.get("file"), dict):
        return {**part, "file": _named(part["file"], file)}
    match part["type"]:
        case "input_file":
            return _named(part, file)
        case "input_image" | "computer_screenshot":
            return {**{name: value for name, value in part.items() if name != "file_id"}, "image_url": file.url}
        case "container_upload":
            raise InvalidRequest(
                "A file that is kept here cannot go into a provider's container; send it in a message.",
                param="messages",
            )
        case _ if is_text(file.media_type):
            return {"type": "text", "media_type": "text/plain", "data": file.content.decode(errors="replace")}
        case _:
            return {"type": "base64", "media_type": file.media_type, "data": file.base64}


def _named(part: Json, file: _Upload) -> Json:
    kept = {name: value for name, value in part.items() if name != "file_id"}
    return {"filename": file.name, **kept, "file_data": file.url}


def _read(path: Path, name: str) -> _Upload:
    """The file, of the type of its name's ending, else of its first bytes."""
    content = path.read_bytes()
    guessed = mimetypes.guess_type(name)[0]
    if guessed is None and content.startswith(b"%PDF-"):
        guessed = "application/pdf"
    if guessed is None:
        try:
            content.decode()
        except UnicodeDecodeError:
            guessed = "application/octet-stream"
    return _Upload(name, guessed or "text/plain", content)
