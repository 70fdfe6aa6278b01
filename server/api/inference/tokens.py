"""POST /tokenize, /detokenize and /apply-template: a local model's own tokenizer and chat template.

Requests and answers have the shapes of llama-server and of vLLM.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from backends.wire.chat import ChatRequest
from backends.wire.common import ModelName, Text, WireModel
from backends.wire.tokens import DetokenizedText, DetokenizeRequest, TemplatedPrompt, TokenizeRequest, TokenList
from catalog.errors import InvalidRequest
from catalog.types import Json
from server.answers.whole import SingleItem, answer_json
from server.edge.bodies import read_either
from server.edge.callers import origin_of, with_stand_in
from server.edge.contracts import Contract, route
from server.edge.errors import TEI
from server.edge.json_body import as_model
from server.edge.services import runtime_of
from server.jobs import chat_tokens_job, detokenize_job, template_job, texts_tokens_job, tokenize_job
from server.scope import WIRE
from server.wires.tei.answers import tokens as tei_tokens
from server.wires.tei.requests import TeiToken, TeiTokenizeRequest

router = APIRouter(tags=["tokens"])
MAX_TURNS = 10_000


class Templated(WireModel):
    """The fields of a chat that its template reads. ``add_generation_prompt`` begins the answer's turn."""

    model: ModelName = "auto"
    messages: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_TURNS)] | None = None
    tools: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None

    def chat(self) -> ChatRequest:
        """The chat to apply the template to. Raises InvalidRequest for one that cannot be continued so."""
        assert self.messages is not None
        ends = self.messages[-1].get("role") == "assistant"
        if self.continue_final_message and (self.add_generation_prompt or not ends):
            raise InvalidRequest(
                "Only an assistant's last message is continued, with 'add_generation_prompt' false.",
                param="continue_final_message",
            )
        names = ("model", "messages", "tools", "chat_template_kwargs", "add_generation_prompt")
        told = {name: value for name in names if (value := getattr(self, name)) is not None}
        rest = {name: value for name, value in (self.model_extra or {}).items() if name not in told}
        return as_model(ChatRequest, {**rest, **told})


class TokenizeAnyRequest(Templated):
    """A text (``content``; ``prompt`` in vLLM's form, ``text`` in Cohere's) or a chat to split into tokens.

    ``with_pieces`` and ``return_token_strs`` add each token's text. A ``prompt`` gets the tokens that the model
    puts around a text, unless ``add_special_tokens`` is false; ``content`` gets them with ``add_special``.
    """

    content: Text | None = None
    prompt: Text | None = None
    text_: Annotated[Text | None, Field(alias="text")] = None
    add_special: bool = False
    add_special_tokens: bool = True
    parse_special: bool = True
    with_pieces: bool = False
    return_token_strs: bool | None = None

    def text(self) -> TokenizeRequest:
        """The text to split. Raises InvalidRequest unless exactly one thing is given."""
        given = [name for name in ("content", "prompt", "text_", "messages") if getattr(self, name) is not None]
        if len(given) != 1:
            raise InvalidRequest("Give one of 'content', 'prompt', 'text' and 'messages'.", param="content")
        return TokenizeRequest(
            model=self.model,
            content=self.prompt if self.prompt is not None else self.content or self.text_ or "",
            add_special=self.add_special if self.prompt is None else self.add_special_tokens,
            parse_special=self.parse_special,
            with_pieces=self.with_pieces or bool(self.return_token_strs) or self.text_ is not None,
            **(self.model_extra or {}),
        )


@route(
    router,
    "POST",
    "/tokenize",
    Contract(
        reads=TokenizeAnyRequest,
        own_reading=True,
        answers=TokenList | list[list[TeiToken]],
        calls_model=True,
    ),
    "/v1/tokenize",
)
async def tokenize(request: Request) -> Response:
    """Split a text, or the prompt that a chat becomes, into token ids.

    A body with ``inputs`` is TEI's, and gets a list of tokens for each text.
    """
    body = with_stand_in(request, await read_either(request, partial(_kind, request)))
    origin = origin_of(request)
    if isinstance(body, TeiTokenizeRequest):
        tei = body
        job = texts_tokens_job(tei.texts(), origin)
        return await answer_json(request, job, SingleItem, lambda answer: tei_tokens(answer, tei))
    if body.messages is not None and body.content is body.prompt is body.text_ is None:
        job = chat_tokens_job(body.chat(), origin)
    else:
        job = tokenize_job(body.text(), origin)
    catalog = runtime_of(request).catalog

    def shape(answer: Json) -> Json:
        tokens = answer["tokens"]
        pieces = [token["piece"] for token in tokens] if tokens and isinstance(tokens[0], dict) else []
        ids = [token["id"] for token in tokens] if pieces else tokens
        row = catalog.get(answer.get("model", ""))
        cohere = {} if body.text_ is None else {"token_strings": [_text(piece) for piece in pieces]}
        return {
            **answer,
            "tokens": tokens if body.with_pieces else ids,
            "count": len(ids),
            "max_model_len": None if row is None else row.limits.context_window or row.limits.max_input_tokens,
            "token_strs": [_text(piece) for piece in pieces] if body.return_token_strs else None,
            **cohere,
        }

    return await answer_json(request, job, SingleItem, shape)


def _kind(request: Request, body: bytes) -> type[TokenizeAnyRequest] | type[TeiTokenizeRequest]:
    """The type of the body, whose errors are TEI's too if it is."""
    if b'"inputs"' not in body or any(name in body for name in (b'"content"', b'"prompt"', b'"messages"')):
        return TokenizeAnyRequest
    request.scope[WIRE] = TEI
    return TeiTokenizeRequest


def _text(piece: str | list[int]) -> str:
    return piece if isinstance(piece, str) else bytes(piece).decode(errors="replace")


@route(
    router,
    "POST",
    "/detokenize",
    Contract(reads=DetokenizeRequest, answers=DetokenizedText, calls_model=True),
    "/v1/detokenize",
)
async def detokenize(request: Request, body: DetokenizeRequest) -> Response:
    """Join token ids to a text."""
    job = detokenize_job(body, origin_of(request))
    return await answer_json(
        request, job, SingleItem, lambda answer: {**answer, **dict.fromkeys(("prompt", "text"), answer["content"])}
    )


class TemplateRequest(Templated):
    messages: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_TURNS)]


@route(
    router,
    "POST",
    "/apply-template",
    Contract(reads=TemplateRequest, answers=TemplatedPrompt, calls_model=True),
    "/v1/apply-template",
)
async def apply_template(request: Request, body: TemplateRequest) -> Response:
    """Give the text that a chat becomes for its model, without decoding anything."""
    return await answer_json(request, template_job(body.chat(), origin_of(request)), SingleItem)
