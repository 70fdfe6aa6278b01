"""POST /infill: code between a prefix and a suffix, in llama-server's shape. Editors' plug-ins ask it.

Source: llama.cpp's page on its server.
"""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response
from typing_extensions import TypedDict

from backends.streams.assemble import CompletionAssembler
from backends.wire.common import ModelName, Text, WireModel
from backends.wire.completions import CompletionRequest
from catalog.errors import RoundhouseError, StreamBroken
from catalog.types import Json
from server.answers.streams import event, stream_events
from server.answers.whole import answer_json
from server.edge.callers import origin_of
from server.edge.contracts import Contract, route
from server.edge.json_body import as_model
from server.jobs import completion_job

router = APIRouter(tags=["completions"])
MOST = 2048
"""Tokens to fill in where the caller sets no bound, which is no bound at all in llama-server."""


class InfillFile(WireModel):
    """A file of the repository, as context."""

    filename: Text | None = None
    text: Text


class InfillRequest(WireModel):
    """A gap to fill. ``prompt`` is the beginning of the text in the gap; samplers are those of /v1/completions."""

    model: ModelName = "auto"
    input_prefix: Text
    input_suffix: Text
    input_extra: Annotated[list[InfillFile], Field(max_length=1000)] | None = None
    prompt: Text | None = None
    n_predict: Annotated[int, Field(ge=-1, le=10_000_000)] | None = None
    stream: bool | None = None

    def completion(self) -> CompletionRequest:
        """The completion with a suffix. Raises InvalidRequest for a further field that it cannot have."""
        bound = MOST if self.n_predict is None or self.n_predict < 0 else self.n_predict
        fields: Json = {
            **(self.model_extra or {}),
            "model": self.model,
            "prompt": self.input_prefix + (self.prompt or ""),
            "suffix": self.input_suffix,
            "max_tokens": bound,
            "stream": bool(self.stream),
        }
        if self.input_extra:
            fields["input_extra"] = [file.model_dump(exclude_none=True) for file in self.input_extra]
        return as_model(CompletionRequest, fields)


class Infilled(TypedDict):
    """The text of the gap, or a piece of it; the last piece has ``stop`` true and the counts."""

    index: int
    content: str
    stop: bool
    model: str
    stop_type: NotRequired[str]
    truncated: NotRequired[bool]
    tokens_predicted: NotRequired[int]
    tokens_evaluated: NotRequired[int]


@route(
    router,
    "POST",
    "/infill",
    Contract(reads=InfillRequest, answers=Infilled, streams=Infilled, calls_model=True),
)
async def infill(request: Request, body: InfillRequest) -> Response:
    """Fill in text between a prefix and a suffix, by a model that was trained for it."""
    job = completion_job(body.completion(), origin_of(request))
    if body.stream:
        return await stream_events(request, job, InfillEncoder())
    return await answer_json(request, job, CompletionAssembler, _whole)


def _whole(answer: Json) -> Json:
    choice = answer["choices"][0]
    return _ended(choice["text"], choice["finish_reason"], answer["model"], answer.get("usage"))


def _ended(text: str, reason: str, model: str, usage: Json | None) -> Json:
    told: dict[str, Any] = {
        "index": 0,
        "content": text,
        "stop": True,
        "model": model,
        "stop_type": "limit" if reason == "length" else "eos",
        "truncated": False,
    }
    if usage is not None:
        told["tokens_predicted"] = usage["completion_tokens"]
        told["tokens_evaluated"] = usage["prompt_tokens"]
    return told


class InfillEncoder:
    """Encodes chunks of a completion as llama-server's events."""

    def __init__(self) -> None:
        self._reason = ""
        self._model = ""
        self._usage: Json | None = None

    def encode(self, item: Json) -> bytes:
        self._usage = item.get("usage") or self._usage
        self._model = item.get("model") or self._model
        pieces = []
        for choice in item.get("choices") or ():
            self._reason = choice.get("finish_reason") or self._reason
            if choice.get("text"):
                pieces.append(event({"index": 0, "content": choice["text"], "stop": False, "model": self._model}))
        return b"".join(pieces)

    def finish(self) -> bytes:
        if not self._reason:
            raise StreamBroken("The stream ended without a finish_reason; the answer is incomplete.")
        return event(_ended("", self._reason, self._model, self._usage))

    def fail(self, error: RoundhouseError) -> bytes | None:
        return event(error.to_body())
