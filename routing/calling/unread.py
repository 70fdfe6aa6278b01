"""Lets a conversation go on with a model that cannot read the media which tools returned in it.

A user's own picture is part of the question, so a model that cannot see it is refused. The result of a tool comes
from an agent, which would send it again in every later turn: a note takes its place, and it is reported.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace
from typing import TypeVar

from backends.adapting.results import named_media, without_media
from backends.native import refusal_of
from backends.wire.chat import ChatRequest, TranslatedChat
from catalog.errors import CapabilityMismatch, NoCandidate, RoundhouseError
from catalog.model import Capability
from routing.calling.job import Job
from routing.reading.requests import read_chat

T = TypeVar("T")

MEDIA = {
    "image_url": Capability.VISION,
    "input_audio": Capability.AUDIO_INPUT,
    "file": Capability.DOCUMENTS,
}


def without_unread_media(job: Job[T], error: RoundhouseError) -> Job[T] | None:
    """The job without the media of tools that no model could read, by this error; None if that would not help."""
    request, facts = job.request, job.facts
    if not isinstance(request, ChatRequest) or facts.intent.strict or refusal_of(request) is not None:
        return None
    unread = _unread(error) & facts.features - facts.intent.require
    kinds = frozenset(kind for kind in named_media(request.messages) if MEDIA[kind] in unread)
    if not kinds:
        return None
    messages = without_media(request.messages, kinds)
    if isinstance(request, TranslatedChat):
        lighter: ChatRequest = request.rewritten(messages)
    else:
        lighter = request.model_copy(update={"messages": messages})
    read = read_chat(lighter, key=facts.key)
    if read.features & {MEDIA[kind] for kind in kinds}:
        return None  # the user sent some, too
    told = replace(
        read,
        intent=facts.intent,
        allowed=facts.allowed,
        task=facts.intent.task or read.task,
        capability=facts.capability,
        output_tokens=facts.output_tokens,
        tokens_only=facts.tokens_only,
    )
    lost = tuple(f"messages.tool.{kind}" for kind in sorted(kinds))
    return replace(job, facts=told, request=lighter, left_out=(*job.left_out, *lost), further=True)


def _unread(error: RoundhouseError) -> Set[Capability]:
    """The media that the models asked cannot read; any, where the error does not say."""
    media = frozenset(MEDIA.values())
    lacks = getattr(error, "lacks", None)
    if lacks:
        return media & lacks
    return media if isinstance(error, CapabilityMismatch | NoCandidate) else frozenset()
