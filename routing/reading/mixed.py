"""Facts of embeddings with pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from backends.wire.embeddings import EmbeddingRequest
from backends.wire.seeing.embeddings import MixedEmbeddingRequest
from catalog.model import Capability
from routing.facts import Facts
from routing.reading.media import picture_tokens
from routing.reading.requests import NO_HEADERS, read_embedding


def read_mixed_embedding(
    request: MixedEmbeddingRequest, headers: Mapping[str, str] = NO_HEADERS, *, key: str = ""
) -> Facts:
    """Facts of texts and pictures to embed; a picture needs a model that sees. Raises InvalidRequest."""
    body = request.to_wire(input=None, messages=None)
    texts = EmbeddingRequest.model_validate({**body, "input": [text or "-" for text in request.items()]})
    facts = read_embedding(texts, headers, key=key)
    parts = [part for parts in request.contents() for part in parts if part.image_url is not None]
    pictures = [picture_tokens((part.image_url or {}).get("url")) for part in parts]
    return replace(
        facts,
        prompt_tokens=facts.prompt_tokens + sum(each.about for each in pictures),
        media_margin=sum(each.margin for each in pictures),
        features=frozenset({Capability.VISION}) if pictures else frozenset(),
    )
