"""Videos as records: OpenAI's object, and what the work on it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from backends.wire.video.request import VideoRequest
from catalog.types import Json
from routing.state.records import Record, new_id
from server.callers import Caller
from server.storage.files import Files

VIDEO = "video"
"""The kind of the records. Their files are named by their id and one of the endings below."""
QUEUED, RUNNING = "queued", "in_progress"
MP4, THUMBNAIL, SPRITESHEET, IMAGE, SOURCE = "mp4", "thumbnail", "spritesheet", "image", "source"
INTERNAL = "internal"
"""The member of a record's body that no caller is shown."""
_NO_SIZE = "auto"
"""The size of a video until its model has chosen one."""


class VideoError(TypedDict):
    """Why a video was not made."""

    code: str
    message: str
    type: NotRequired[str | None]
    param: NotRequired[str | None]


class VideoNotes(TypedDict, total=False):
    """How a video was made: the headers of other answers, for work that goes on after its request."""

    trace: str
    reason: str
    dropped: list[str]
    seed: int
    fps: float


VideoObject = TypedDict(
    "VideoObject",
    {
        "id": str,
        "object": Literal["video"],
        "model": str,
        "status": Literal["queued", "in_progress", "completed", "failed"],
        "progress": int,
        "created_at": int,
        "completed_at": int | None,
        "expires_at": int | None,
        "prompt": str,
        "seconds": str,
        "size": str,
        "remixed_from_video_id": str | None,
        "error": VideoError | None,
        "x-roundhouse": NotRequired[VideoNotes],
    },
)
"""A video of OpenAI's API; times are Unix seconds, ``progress`` is a percentage."""


@dataclass(frozen=True, slots=True)
class SourceVideo:
    """A finished video that another is made from.

    ``accepted``, ``model`` and ``key`` are its name at the server that made it, and the key that it was made with.
    """

    id: str | None = None
    accepted: str | None = None
    key: str | None = None


def new_video(
    files: Files, caller: Caller, body: VideoRequest, headers: Mapping[str, str], source: SourceVideo | None = None
) -> Record:
    """The record of a new video. Of the caller's ``headers`` those that state an intent are kept."""
    now = int(files.storage.now())
    name = new_id(VIDEO)
    told: Json = {
        "id": name,
        "object": "video",
        "model": body.model,
        "status": QUEUED,
        "progress": 0,
        "created_at": now,
        "completed_at": None,
        "expires_at": None,
        "prompt": body.prompt,
        "seconds": body.seconds,
        "size": body.size or _NO_SIZE,
        "remixed_from_video_id": source.id if source is not None and body.task == "remix" else None,
        "error": None,
    }
    internal: Json = {
        "request": body.to_wire(seconds=body.seconds),
        "task": body.task,
        "image_type": body.image_type if body.image is not None else None,
        "headers": {name: value for name, value in headers.items() if name.lower().startswith("x-roundhouse-")},
        "source_id": None if source is None else source.accepted,
        "resized": body.resized,
        "key": None if source is None else source.key,
        "begun": False,
        "accepted": None,
    }
    record = files.storage.new(VIDEO, name, {"video": told, INTERNAL: internal, "bytes": 0}, caller)
    return replace(record, status=QUEUED)


def request_of(record: Record, *, image: bytes | None, source: bytes | None) -> VideoRequest:
    """The request that a record was made of, with what was sent in files."""
    internal = record.body[INTERNAL]
    given: dict[str, Any] = {**internal["request"], "image": image, "source": source}
    given |= {"task": internal["task"], "source_id": internal["source_id"], "accepted": internal["accepted"]}
    given["resized"] = internal.get("resized", False)
    if internal["image_type"] is not None:
        given["image_type"] = internal["image_type"]
    return VideoRequest.model_validate(given)


def changed(
    record: Record, status: str | None = None, internal: Json | None = None, video: Json | None = None
) -> Record:
    """The record with its status, and some members of what the work needs and of the video's object, replaced."""
    told, kept = {**record.body["video"], **(video or {})}, {**record.body[INTERNAL], **(internal or {})}
    return record.changed(status=status, video=told, **{INTERNAL: kept})


def delete_files(files: Files, name: str) -> None:
    """Delete the files of a video."""
    for ending in (MP4, THUMBNAIL, SPRITESHEET, IMAGE, SOURCE):
        files.path(f"{name}.{ending}").unlink(missing_ok=True)
