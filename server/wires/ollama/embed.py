"""Translates Ollama's embedding requests."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from backends.wire.embeddings import EmbeddingRequest
from backends.wire.sampling import OLLAMA_OPTIONS
from catalog.errors import InvalidRequest
from catalog.types import Json
from catalog.validation import wording
from server.wires.ollama.requests import OllamaEmbedRequest
from server.wires.translation import Losses, split_extras


def to_embedding(
    texts: list[str],
    request: OllamaEmbedRequest,
    *,
    model: str,
    home: str,
    keep_alive: Any = None,
    losses: Losses,
) -> EmbeddingRequest:
    """Translate the request for ``model``, whose ``home`` is ``local`` or the protocol of its server.

    Local models and other Ollamas cut a text that is too long, unless ``truncate`` is false; other servers refuse
    it. Raises InvalidRequest.
    """
    for position, text in enumerate(texts):
        if not text:
            where = f"input[{position}]"
            raise InvalidRequest(f"{where}: a text must not be empty.", param=where)
    extras, left_out = split_extras(request.model_extra or {}, frozenset())
    losses.add(*left_out)
    body: Json = {**extras, "model": model, "input": texts}
    if request.dimensions:
        body["dimensions"] = request.dimensions
    if keep_alive is not None:
        body["keep_alive"] = keep_alive
    options = {name: value for name, value in (request.options or {}).items() if value is not None}
    taken = {name: value for name, value in options.items() if name in OLLAMA_OPTIONS and home == "ollama"}
    if taken:
        body["options"] = taken
    losses.add(*(f"options.{name}" for name in options if name not in taken))
    if home in ("local", "ollama"):
        body["truncate"] = request.truncate is not False
    elif request.truncate:
        losses.add("truncate")
    try:
        return EmbeddingRequest.model_validate(body)
    except ValidationError as wrong:
        first: Any = wrong.errors(include_url=False)[0]
        where = wording.place(first)
        raise InvalidRequest(f"{where}: {wording.describe(first, value=False)}", param=where) from None
