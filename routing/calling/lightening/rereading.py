"""A job with another request than the caller's, for models that cannot answer that one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from backends.wire.chat import ChatRequest, Message, TranslatedChat
from routing.calling.job import Job
from routing.reading.requests import read_chat

T = TypeVar("T")


def rewritten(request: ChatRequest, messages: Sequence[Message], *, without: str | None = None) -> ChatRequest:
    """The request with other messages and without this field, sent to every provider in this form."""
    changed = request.model_copy(update={"messages": list(messages)} | ({without: None} if without else {}))
    changed.__pydantic_fields_set__.discard(without or "")
    return changed.without_original() if isinstance(changed, TranslatedChat) else changed


def reread(job: Job[T], request: ChatRequest, *, lost: tuple[str, ...] = ()) -> Job[T]:
    """The job of this request, with the caller's intent and limits. ``lost`` names what the request lacks."""
    facts = job.facts
    read = read_chat(request, key=facts.key)
    told = replace(
        read,
        intent=facts.intent,
        allowed=facts.allowed,
        task=facts.intent.task or read.task,
        output_tokens=facts.output_tokens,
        tokens_only=facts.tokens_only,
    )
    return replace(job, facts=told, request=request, left_out=(*job.left_out, *lost), further=True)
