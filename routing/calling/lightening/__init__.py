"""Requests that no model could answer as they are, in forms that ask less of a model and keep the caller's word.

Looked at only once a request is refused, so that others cost nothing.
"""

from __future__ import annotations

from typing import TypeVar

from backends.native import refusal_of
from backends.wire.chat import ChatRequest
from catalog.errors import RoundhouseError
from routing.calling.job import Job
from routing.calling.lightening.media import without_unread_media
from routing.calling.lightening.schema import with_told_schema
from routing.calling.lightening.video import InFrames, with_frames

T = TypeVar("T")

__all__ = ["InFrames", "lightened"]


async def lightened(job: Job[T], error: RoundhouseError, frames: InFrames | None = None) -> Job[T] | None:
    """The job in a form that may be answered after this refusal; None if there is none.

    A strict request is answered as it is or not at all. ``frames`` makes pictures of videos; its errors are
    raised.
    """
    request = job.request
    if not isinstance(request, ChatRequest) or job.facts.intent.strict or refusal_of(request) is not None:
        return None
    if frames is not None and (seen := await with_frames(job, request, error, frames)) is not None:
        return seen
    return with_told_schema(job, request, error) or without_unread_media(job, request, error)
