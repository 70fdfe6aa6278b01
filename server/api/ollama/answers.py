"""POST /api/chat, /api/generate, /api/embed and /api/embeddings.

A start imports no translation, so the handlers import theirs.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from server.edge.contracts import Contract, route
from server.wires.ollama.answers import OllamaChatLine, OllamaEmbedding, OllamaEmbeddings, OllamaGenerateLine
from server.wires.ollama.requests import (
    OllamaChatRequest,
    OllamaEmbeddingsRequest,
    OllamaEmbedRequest,
    OllamaGenerateRequest,
)

router = APIRouter(tags=["ollama"])


@route(
    router,
    "POST",
    "/api/chat",
    Contract(
        reads=OllamaChatRequest, answers=OllamaChatLine, lines=OllamaChatLine, calls_model=True, any_type=True
    ),
)
async def ollama_chat(request: Request, body: OllamaChatRequest) -> Response:
    """Answer a conversation, as JSON lines unless ``stream`` is false."""
    from server.api.ollama.calls import answer_chat

    return await answer_chat(request, body)


@route(
    router,
    "POST",
    "/api/generate",
    Contract(
        reads=OllamaGenerateRequest,
        answers=OllamaGenerateLine,
        lines=OllamaGenerateLine,
        calls_model=True,
        any_type=True,
    ),
)
async def ollama_generate(request: Request, body: OllamaGenerateRequest) -> Response:
    """Answer a prompt, or continue it with ``raw``, as JSON lines unless ``stream`` is false."""
    from server.api.ollama.calls import answer_generate

    return await answer_generate(request, body)


@route(
    router,
    "POST",
    "/api/embed",
    Contract(reads=OllamaEmbedRequest, answers=OllamaEmbeddings, calls_model=True, any_type=True),
)
async def ollama_embed(request: Request, body: OllamaEmbedRequest) -> Response:
    """Embed each text; without one the model is loaded, or unloaded with a ``keep_alive`` of 0."""
    from server.api.ollama.calls import answer_embed

    return await answer_embed(request, body)


@route(
    router,
    "POST",
    "/api/embeddings",
    Contract(reads=OllamaEmbeddingsRequest, answers=OllamaEmbedding, calls_model=True, any_type=True),
)
async def ollama_embeddings(request: Request, body: OllamaEmbeddingsRequest) -> Response:
    """Embed one text; without one the model is loaded, or unloaded with a ``keep_alive`` of 0."""
    from server.api.ollama.calls import answer_embeddings

    return await answer_embeddings(request, body)
