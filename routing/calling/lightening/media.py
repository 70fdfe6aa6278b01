"""Lets a conversation go on with a model that cannot read the media which tools returned in it.

A user's own picture is part of the question, so a model that cannot see it is refused. The result of a tool comes
from an agent, which would send it again in every later turn: a note takes its place, and it is reported.
"""

from __future__ import annotations

from collections.abc import Set
from typing import TypeVar

from backends.adapting.results import named_media, without_media
from backends.wire.chat import ChatRequest
from catalog.errors import CapabilityMismatch, NoCandidate, RoundhouseError
from catalog.model import Capability
from routing.calling.job import Job
from routing.calling.lightening.rereading import reread, rewritten

T = TypeVar("T")

MEDIA = {
    "image_url": Capability.VISION,
    "input_audio": Capability.AUDIO_INPUT,
    "file": Capability.DOCUMENTS,
}


def without_unread_media(job: Job[T], request: ChatRequest, error: RoundhouseError) -> Job[T] | None:
    """The job without the media of tools that no model could read, by this error; None if that would not help."""
    facts = job.facts
    unread = _unread(error) & facts.features - facts.intent.require
    kinds = frozenset(kind for kind in named_media(request.messages) if MEDIA[kind] in unread)
    if not kinds:
        return None
    messages = without_media(request.messages, kinds)
    lighter = rewritten(request, messages)
    made = reread(job, lighter, lost=tuple(f"messages.tool.{kind}" for kind in sorted(kinds)))
    users_own = made.facts.features & {MEDIA[kind] for kind in kinds}
    return None if users_own else made


def _unread(error: RoundhouseError) -> Set[Capability]:
    """The media that the models asked cannot read; any, where the error does not say."""
    media = frozenset(MEDIA.values())
    lacks = getattr(error, "lacks", None)
    if lacks:
        return {kind for kind in media if kind in lacks}
    return media if isinstance(error, CapabilityMismatch | NoCandidate) else frozenset()
