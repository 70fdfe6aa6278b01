"""Lets models that see pictures alone answer about a video: they get frames of it.

A model that takes videos is asked first, by the plan; a refused request for want of one gets here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from backends.wire.chat import ChatRequest
from catalog.errors import CapabilityMismatch, NoCandidate, RoundhouseError
from catalog.model import Capability
from routing.calling.job import Job
from routing.calling.lightening.rereading import reread, rewritten

T = TypeVar("T")
InFrames = Callable[[ChatRequest], Awaitable[ChatRequest]]
"""Makes pictures of the videos of a chat. Raises the caller's errors for one that cannot be read."""
LOST = "messages.video_url"


async def with_frames(
    job: Job[T], request: ChatRequest, error: RoundhouseError, frames: InFrames
) -> Job[T] | None:
    """The job with pictures in the place of videos; None if those are not at fault."""
    asked = job.facts.features - job.facts.intent.require
    if Capability.VIDEO_INPUT not in asked or not _lacks_videos(error):
        return None
    seen = await frames(request)
    return reread(job, rewritten(seen, seen.messages), lost=(LOST,))


def _lacks_videos(error: RoundhouseError) -> bool:
    lacks = getattr(error, "lacks", None)
    if lacks:
        return Capability.VIDEO_INPUT in lacks
    return isinstance(error, CapabilityMismatch | NoCandidate)
