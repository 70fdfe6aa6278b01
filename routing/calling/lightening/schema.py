"""A JSON schema for models whose server takes none: the model is told the schema, and the answer is checked.

An answer that breaks the schema is an error, and one in a fence of Markdown loses the fence.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import TypeVar, cast

from backends.adapting.restoring import TELL_JSON, Restoration, Restorer
from backends.wire.chat import ChatRequest, ContentPart, Message
from catalog.errors import AnswerInvalid, CapabilityMismatch, NoCandidate, RoundhouseError, UnsupportedParameter
from catalog.model import Capability
from catalog.types import Json
from routing.calling.job import Job
from routing.calling.lightening.rereading import reread, rewritten
from routing.calling.operations import CHAT, CHAT_WITH_PICTURES, Operation
from routing.calling.watching.validation import conforms

T = TypeVar("T")


def with_told_schema(job: Job[T], request: ChatRequest, error: RoundhouseError) -> Job[T] | None:
    """The job with its schema told to the model; None if the schema is not at fault, or not one of an object."""
    if Capability.JSON_SCHEMA not in job.facts.features - job.facts.intent.require or not _lacks_schema(error):
        return None
    wanted = request.response_format
    schema = None if wanted is None or wanted.json_schema is None else wanted.json_schema.schema_
    if (
        job.facts.tokens_only
        or job.operation not in (CHAT, CHAT_WITH_PICTURES)
        or schema is None
        or schema.get("type") != "object"
    ):
        return None
    told = f"{TELL_JSON} The object must fit this JSON schema: {json.dumps(schema, ensure_ascii=False)}"
    lighter = rewritten(request, _instructed(request.messages, told), without="response_format")
    return replace(
        reread(job, lighter),
        operation=cast("Operation[T]", _checking(cast("Operation[Json]", job.operation), schema)),
    )


def _lacks_schema(error: RoundhouseError) -> bool:
    lacks = getattr(error, "lacks", None)
    if lacks:
        return Capability.JSON_SCHEMA in lacks
    if isinstance(error, UnsupportedParameter):
        return error.param == "response_format"
    return isinstance(error, CapabilityMismatch | NoCandidate)


def _instructed(messages: list[Message], told: str) -> list[Message]:
    """The messages with the instruction at the end of the first system message, or in one of their own."""
    first = messages[0]
    if first.role not in ("system", "developer"):
        return [Message(role="system", content=told), *messages]
    content = first.content
    if isinstance(content, list):
        content = [*content, ContentPart(type="text", text=told)]
    else:
        content = f"{content}\n\n{told}" if content else told
    return [first.model_copy(update={"content": content}), *messages[1:]]


def _checking(operation: Operation[Json], schema: Json) -> Operation[Json]:
    return replace(
        operation, call=lambda backend, upstream, body: _checked(operation.call(backend, upstream, body), schema)
    )


async def _checked(chunks: AsyncIterator[Json], schema: Json) -> AsyncGenerator[Json]:
    """The chunks, whose texts have the form. Raises AnswerInvalid for a finished text that has not."""
    restorer = Restorer(Restoration(json_object=True))
    texts: dict[int, list[str]] = {}
    async with aclosing(cast("AsyncGenerator[Json]", chunks)):
        async for chunk in chunks:
            restorer.restore(chunk)
            for choice in chunk.get("choices") or ():
                pieces = texts.setdefault(choice["index"], [])
                if text := choice["delta"].get("content"):
                    pieces.append(text)
                if choice.get("finish_reason") == "stop" and pieces and not _fits("".join(pieces), schema):
                    raise AnswerInvalid("The model's answer does not fit the JSON schema that was asked for.")
            yield chunk


def _fits(text: str, schema: Json) -> bool:
    try:
        return conforms(json.loads(text), schema) is not False
    except ValueError:
        return True  # the text of an answer that calls tools
