"""The endpoints, one file per resource. A handler makes a job of a request and formats its answer."""

from server.api.inference import (
    audio,
    classify,
    completions,
    embeddings,
    images,
    messages,
    rerank,
    responses,
    tokens,
)
from server.api.management import admin, models, outcomes, route, system, usage, workers
from server.api.stored import files, uploads

ROUTERS = (
    completions.router,
    embeddings.router,
    rerank.router,
    classify.router,
    audio.router,
    images.router,
    tokens.router,
    responses.router,
    messages.router,
    files.router,
    uploads.router,
    route.router,
    outcomes.router,
    usage.router,
    admin.router,
    workers.router,
    models.router,
    system.router,
)
"""Every router of the app, in the order in which paths are matched."""
