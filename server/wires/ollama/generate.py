"""Translates ``/api/generate`` into a chat, or into a completion where no chat template may apply."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from backends.wire.completions import CompletionRequest
from catalog.errors import InvalidRequest, UnsupportedParameter
from catalog.types import Json
from catalog.validation import wording
from server.edge.json_body import with_whole_numbers
from server.wires.ollama.chat import FOREIGN, shared_fields
from server.wires.ollama.context import Turn, decode_context
from server.wires.ollama.options import option_place
from server.wires.ollama.requests import GivenMessage, OllamaChatRequest, OllamaGenerateRequest
from server.wires.translation import Losses


def is_completion(request: OllamaGenerateRequest, *, chats: bool = True) -> bool:
    """Whether the prompt goes to the model without a chat template.

    That is a raw one, one with a text that follows the answer, and any to a model that does not chat. Raises
    InvalidRequest for fields that exclude each other, and UnsupportedParameter for a template.
    """
    if request.template:
        raise UnsupportedParameter(
            "A request cannot bring a template. Send the finished prompt, with 'raw': true.", param="template"
        )
    if request.raw is True:
        kind = "A raw prompt"
    elif request.suffix:
        kind = "A prompt with a 'suffix'"
    elif not chats:
        kind = "A prompt for a model that does not chat"
    else:
        return False
    for name in ("system", "context", "images"):
        if getattr(request, name):
            raise InvalidRequest(f"{kind} is taken as it is, without '{name}'.", param=name)
    return True


def to_turns(request: OllamaGenerateRequest) -> list[Turn]:
    """The conversation that the request adds to, and its prompt."""
    turns = decode_context(request.context or ())
    if request.system:
        turns = [("system", request.system), *(turn for turn in turns if turn[0] != "system")]
    return [*turns, ("user", request.prompt or "")]


def as_chat(request: OllamaGenerateRequest, turns: list[Turn], losses: Losses) -> OllamaChatRequest:
    """The request as a chat of these turns; its pictures belong to the last one.

    Fields of a chat alone, such as ``tools``, are left out and noted.
    """
    messages = [GivenMessage.model_construct(role=role, content=text) for role, text in turns]
    if request.images:
        messages[-1] = messages[-1].model_copy(update={"images": request.images})
    shared = {name: getattr(request, name) for name in _SHARED if name in request.model_fields_set}
    extras = request.model_extra or {}
    foreign = extras.keys() & OllamaChatRequest.model_fields.keys()
    losses.add(*(name for name in extras if name in foreign))
    kept = {name: value for name, value in extras.items() if name not in foreign}
    return OllamaChatRequest.model_construct(**{**kept, **shared, "messages": messages})


_SHARED = ("format", "options", "think", "logprobs", "top_logprobs")


def to_completion(request: OllamaGenerateRequest, *, model: str, most: int, losses: Losses) -> CompletionRequest:
    """Translate a request without a chat template.

    ``most`` bounds the tokens of an answer that the caller does not bound. Raises InvalidRequest.
    """
    fields = shared_fields(request, losses)
    losses.add(*(name for name in FOREIGN if name in fields))
    if request.think is not None:
        losses.add("think")
    body: Json = {name: value for name, value in fields.items() if name not in FOREIGN}
    body = {"max_tokens": most, **body, "model": model, "prompt": request.prompt or ""}
    if request.suffix:
        body["suffix"] = request.suffix
    if request.logprobs or request.top_logprobs:
        body["logprobs"] = request.top_logprobs or 0
    return _validated(body)


def _validated(body: Json) -> CompletionRequest:
    try:
        return CompletionRequest.model_validate(body)
    except ValidationError as wrong:
        if with_whole_numbers(wrong, body):
            return _validated(body)
        first: Any = wrong.errors(include_url=False)[0]
        where = option_place(wording.place(first))
        raise InvalidRequest(f"{where}: {wording.describe(first, value=False)}", param=where) from None
