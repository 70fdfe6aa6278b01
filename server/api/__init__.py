"""The endpoints, one file per resource. A handler reads, asks the dispatcher, and shapes the answer."""

from server.api import (
    admin,
    audio,
    chat,
    classify,
    completions,
    embeddings,
    health,
    images,
    messages,
    metrics,
    models,
    reference,
    rerank,
    responses,
    root,
    routing,
    tokens,
)

ROUTERS = (
    chat.router,
    completions.router,
    embeddings.router,
    rerank.router,
    classify.router,
    audio.router,
    images.router,
    tokens.router,
    responses.router,
    messages.router,
    routing.router,
    admin.router,
    models.router,
    root.router,
    reference.router,
    health.router,
    metrics.router,
)
"""Every router of the app, in the order in which paths are matched."""
