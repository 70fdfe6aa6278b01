"""Chats with sound on either side: which of them the models hear and speak themselves, and which this server."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

from backends.wire.chat import ChatRequest, Message
from catalog.errors import RoundhouseError
from catalog.model import Model
from catalog.types import Json
from routing.calling.job import Job
from routing.choosing.filters import SPOKEN
from routing.reading.intent import is_auto
from server.answers.hearing import Hearing, hears
from server.answers.speaking import Speaking, as_text, said, voicing_of
from server.callers import Caller, Origin
from server.jobs import Opens, chat_job, open_job, permitted
from server.runtime import Runtime

_SPEAKS = re.compile(r"\b(?:audio|tts|omni|realtime)\b")
"""In the names of models that answer with sound: OpenAI's, Gemini's, Qwen's."""


def with_texts(body: ChatRequest) -> ChatRequest:
    """The chat with texts in place of references to what this server spoke; the same object if it has none.

    Raises InvalidRequest for a reference that was changed.
    """
    if not any(map(_refers, body.messages)):
        return body
    return body.model_copy(update={"messages": [_with_text(message) for message in body.messages]})


def _refers(message: Message) -> bool:
    return message.role == "assistant" and "audio" in (message.model_extra or ())


def _with_text(message: Message) -> Message:
    text = said((message.model_extra or {}).get("audio")) if _refers(message) else None
    if text is None:
        return message
    copy = message.model_copy(update={"content": message.content or text})
    (copy.model_extra or {}).pop("audio", None)
    copy.__pydantic_fields_set__.discard("audio")
    return copy


def with_sound(
    runtime: Runtime, job: Job[Json], caller: Caller, origin: Origin, opens: Opens[Json] = open_job
) -> tuple[Job[Json], Opens[Json]]:
    """The job of a chat, and what opens it: a chat without sound is opened as ever.

    Raises as :func:`server.answers.speaking.voicing_of`.
    """
    chat = job.request
    if "modalities" in job.facts.parameters and isinstance(chat, ChatRequest):
        voicing = voicing_of(chat)
        if voicing is not None and not _speaks(runtime, job, caller):
            made = chat_job(as_text(chat), origin, kept=job.kept)
            job = replace(job, facts=made.facts, request=made.request, judge=made.judge)
            opens = partial(Speaking, origin=origin, voicing=voicing, opens=_heard(job, origin, opens))
            return job, opens
    return job, _heard(job, origin, opens)


def _heard(job: Job[Json], origin: Origin, opens: Opens[Json]) -> Opens[Json]:
    return partial(Hearing, origin=origin, opens=opens) if hears(job) else opens


def _speaks(runtime: Runtime, job: Job[Json], caller: Caller) -> bool:
    """Whether a model that may answer does so with sound by itself."""
    try:
        if not is_auto(job.facts.requested):
            return any(map(speaks_itself, runtime.catalog.replicas(job.facts.requested)))
        facts = permitted(job.facts, caller, runtime.catalog)
        return any(speaks_itself(each.model) for each in runtime.dispatcher.explain(facts).candidates)
    except RoundhouseError:
        return True  # opening raises it


def speaks_itself(model: Model) -> bool:
    """Whether a model answers with sound: by its tag, ``parameters`` or name. None of this machine does."""
    if model.local:
        return False
    named = _SPEAKS.search(model.id.casefold().replace("_", "-")) is not None
    return named or SPOKEN in model.tags or "modalities" in (model.parameters or ())
