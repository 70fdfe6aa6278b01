"""Lets models that see pictures alone answer about a video: they get frames of it.

A model that takes videos is asked first, by the plan; a refused request for want of one gets here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from backends.wire.chat import ChatRequest
from catalog.errors import CapabilityMismatch, NoCandidate, RoundhouseError
from catalog.model import Capability
from routing.calling.job import Job
from routing.calling.lightening.rereading import reread, rewritten
from routing.reading.media import TOKENS_PER_IMAGE, TOKENS_PER_SMALL_IMAGE

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
    made = reread(job, rewritten(seen, seen.messages), lost=(LOST,))
    # Frames are small unless detail is asked for, and then they are counted as other pictures.
    small = _undetailed(seen) - _undetailed(request)
    tokens = made.facts.prompt_tokens - small * (TOKENS_PER_IMAGE - TOKENS_PER_SMALL_IMAGE)
    return replace(made, facts=replace(made.facts, prompt_tokens=tokens))


def _undetailed(request: ChatRequest) -> int:
    """The pictures of a chat without a ``detail``."""
    parts = [part for message in request.messages if isinstance(message.content, list) for part in message.content]
    return sum(part.image_url is not None and part.image_url.get("detail") is None for part in parts)


def _lacks_videos(error: RoundhouseError) -> bool:
    lacks = getattr(error, "lacks", None)
    if lacks:
        return Capability.VIDEO_INPUT in lacks
    return isinstance(error, CapabilityMismatch | NoCandidate)
