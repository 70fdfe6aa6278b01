"""Prompts before embedded and ranked texts, for workers that do not write them: llama-server and vLLM.

Our own engine ``onnx`` does, by the options in its model's folder.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from backends.base import Upstream
from backends.wire.embeddings import EmbeddingRequest
from backends.wire.rerank import RerankRequest
from backends.wire.seeing.embeddings import MixedEmbeddingRequest
from backends.workers.engines.common.prompts import Prompts
from catalog.types import Json


async def with_prompts(
    upstream: Upstream, request: EmbeddingRequest, ids: Callable[[Upstream, str], Awaitable[list[int]]]
) -> EmbeddingRequest:
    """The request with the row's prompt before each input; ``ids`` splits it for inputs of token ids."""
    if not _is_ours(upstream, request.input_type, request.instruction):
        return request
    before = Prompts.model_validate(upstream.prompts).before(request.input_type, request.instruction)
    given: list[str] | list[list[int]] = [before + item for item in request.items() if isinstance(item, str)]
    if not given:
        first = await ids(upstream, before) if before else []
        given = [[*first, *item] for item in request.items() if not isinstance(item, str)]
    return EmbeddingRequest.model_validate({**_without_choice(request), "input": given})


def with_query_prompt(upstream: Upstream, request: RerankRequest) -> RerankRequest:
    """The request with the row's prompts before the query and each document."""
    if upstream.engine == "onnx" or not (upstream.prompts or request.instruction):
        return request
    prompts = Prompts.model_validate(upstream.prompts)
    document = prompts.before("document")
    fields = _without_choice(request)
    fields["query"] = prompts.before("query", request.instruction) + request.query
    fields["documents"] = [
        document + item if isinstance(item, str) else {**item, "text": f"{document}{item.get('text', '')}"}
        for item in request.documents
    ]
    return RerankRequest.model_validate(fields)


def without_effect(
    upstream: Upstream, request: EmbeddingRequest | MixedEmbeddingRequest | RerankRequest
) -> tuple[str, ...]:
    """The parameters that choose a prompt which the row does not have."""
    kind = None if isinstance(request, RerankRequest) else request.input_type
    if not _is_ours(upstream, kind, request.instruction):
        return ()
    return tuple(Prompts.model_validate(upstream.prompts).without_effect(kind, request.instruction))


def _without_choice(request: EmbeddingRequest | RerankRequest) -> Json:
    return request.model_dump(exclude_unset=True, exclude={"input_type", "instruction"})


def _is_ours(upstream: Upstream, kind: str | None, instruction: str | None) -> bool:
    return upstream.engine != "onnx" and bool(kind or instruction)
