"""Ids of files and of a provider's other objects in a request.

A file of the caller is sent as data, because no provider has it. Ids that are not known here may go to a provider
only for its account's own operator, or if the settings list them: the account is shared by all keys.
"""

from __future__ import annotations

import asyncio
import base64
import mimetypes
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path
from typing import Any

from backends.native import no_object
from backends.wire.chat import ChatRequest
from backends.wire.media import is_text
from backends.wire.responses import ResponsesRequest
from catalog.errors import InvalidRequest, NotFound, PayloadTooLarge
from catalog.types import Json
from routing.calling.job import Job
from server.callers import Caller, Origin
from server.jobs import chat_job
from server.runtime import Runtime
from server.storage.files import FILE
from server.storage.storage import Storage

MOST_BYTES = 32 << 20
"""Bytes of all files that one request may name."""
_HOLDERS = frozenset({"input_file", "input_image", "file", "container_upload", "computer_screenshot"})
"""Types of parts and sources that may name a file. A citation names one, too, but asks for nothing."""
_IDS = frozenset(
    {
        *("file_id", "file_ids", "vector_store_ids", "container", "container_id", "skill_id"),
        *("audio", "voice", "prompt", "previous_message_id"),
    }
)
"""Fields that name objects of a provider's account: an id, several, or an object with an ``id``."""
_NAMES_TOO = frozenset({"audio", "voice", "prompt"})
"""Those of them whose plain text is no id."""
_OFFERED = frozenset({"type", "skill_id", "version"})
"""Fields of a skill that Anthropic itself offers to every account."""
_UNREAD = frozenset({"annotations", "arguments", "metadata", "parameters", "input_schema", "schema", "results"})
"""Fields within which nothing is asked of a provider: sources, schemas, arguments, findings, notes."""


_CONTAINERS = frozenset({list, dict})


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
    extras = [message.model_extra or {} for message in body.messages]
    spoken = [{"audio": extra["audio"]} for extra in extras if "audio" in extra]
    if (name := withheld(runtime.storage, origin.caller, body.model_extra or {}, spoken)) is not None:
        raise no_object(name)
    if not any(
        part.file is not None
        for message in body.messages
        if isinstance(message.content, list)
        for part in message.content
    ):
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
    for name in dict.fromkeys(_file_ids(parts)):
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


def may_name(storage: Storage, caller: Caller, name: str) -> bool:
    """Whether a caller may name an object of a provider's account: an admin any, others the listed ones."""
    return caller.admin or any(fnmatchcase(name, pattern) for pattern in storage.settings.provider_ids)


def withheld(storage: Storage, caller: Caller, *parts: Any, filed: Any = ()) -> str | None:
    """The first id within parts of a request that names an object at a provider which the caller may not name.

    ``filed`` are parts whose files :func:`with_files` has seen to.
    """
    ids = chain((name for part in parts for name in _ids(part, filed=False)), _ids(filed, filed=True))
    return next((name for name in ids if not may_name(storage, caller, name)), None)


def objects_of_response(body: ResponsesRequest) -> list[Any]:
    """The parts of a Responses request beside its input that may name objects of a provider's account."""
    return [body.tools or [], {"prompt": body.prompt}, body.model_extra or {}]


def _ids(value: Any, *, filed: bool) -> Iterator[str]:
    if isinstance(value, list):
        for each in _containers(value):
            yield from _ids(each, filed=filed)
    elif isinstance(value, dict):
        if value.get("type") == "anthropic" and value.keys() <= _OFFERED:
            return
        done = _holder(value) if filed else None
        for name, held in value.items():
            if name in _IDS and not (done is value and name == "file_id"):
                yield from _named_by(name, held)
            if name not in _UNREAD and held is not done and isinstance(held, list | dict):
                yield from _ids(held, filed=filed)


def _named_by(field: str, held: Any) -> Iterator[str]:
    match held:
        case str() if field not in _NAMES_TOO:
            yield held
        case list():
            yield from (one for one in held if isinstance(one, str))
        case {"id": str(name)}:
            yield name


def _file_ids(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for each in _containers(value):
            yield from _file_ids(each)
    elif isinstance(value, dict):
        name = _holder(value).get("file_id")
        if isinstance(name, str) and name:
            yield name
        for held in _containers(list(value.values())):
            yield from _file_ids(held)


def _containers(values: list[Any]) -> Iterator[Any]:
    """The lists and objects among the values: a list may have millions of numbers, so most are not looked at."""
    if not _CONTAINERS.isdisjoint(map(type, values)):
        yield from (each for each in values if type(each) in _CONTAINERS)


def _holder(part: Json) -> Json:
    """The object with the ``file_id`` of a part, which a chat has within; an empty one if the part names none."""
    kind = part.get("type")
    if not isinstance(kind, str) or kind not in _HOLDERS:
        return {}
    inner = part.get("file")
    return inner if isinstance(inner, dict) else part


def _rewritten(value: Any, files: Mapping[str, _Upload]) -> Any:
    if isinstance(value, list):
        return [_rewritten(each, files) for each in value] if any(_containers(value)) else value
    if not isinstance(value, dict):
        return value
    name = _holder(value).get("file_id")
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


def _named(holder: Json, file: _Upload) -> Json:
    kept = {name: value for name, value in holder.items() if name != "file_id"}
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
