"""The items of a video in the making: events, and the bytes of the file between them.

``video.accepted`` comes first from a server that works on it without a connection, and names the work there;
``video.progress`` has a percentage. Then come the bytes of an MP4, and ``video.completed`` last, with the
length in seconds that the server charges for.
"""

from __future__ import annotations

from typing import Any, TypeGuard

from catalog.types import Json

ACCEPTED, PROGRESS, COMPLETED = "video.accepted", "video.progress", "video.completed"
VideoItem = Json | bytes


def accepted(name: str) -> Json:
    """The event of a server that has taken the work, which goes on there without a connection."""
    return {"type": ACCEPTED, "id": name}


def progress(percent: object) -> Json:
    """The event of progress; a server's own figure may be of any kind."""
    number = percent if isinstance(percent, int | float) and 0 <= percent <= 100 else 0
    return {"type": PROGRESS, "progress": int(number)}


def completed(seconds: float | None, **told: Any) -> Json:
    """The last event; ``seconds`` are those that were made, None where the server does not say."""
    return {"type": COMPLETED, "seconds": seconds, **told}


def is_event(item: VideoItem) -> TypeGuard[Json]:
    """Whether an item is an event, and no part of the file."""
    return not isinstance(item, bytes)
