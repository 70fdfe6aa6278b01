"""The endpoints, one file per resource. A handler makes a job of a request and formats its answer."""

from server.api import console
from server.api.inference import (
    audio,
    classify,
    completions,
    embeddings,
    grounding,
    image_edits,
    images,
    infill,
    messages,
    moderations,
    properties,
    realtime,
    rerank,
    responses,
    tokens,
)
from server.api.management import (
    admin,
    calibrations,
    keys,
    logs,
    models,
    outcomes,
    pulls,
    recommendations,
    registration,
    route,
    system,
    traces,
    usage,
    workers,
)
from server.api.ollama import answers as ollama_answers
from server.api.ollama import models as ollama_models
from server.api.ollama import store as ollama_store
from server.api.retrieval import cohere, score, tei
from server.api.stored import batches, conversations, files, message_batches, uploads, videos, voices
from server.api.stored import completions as stored_chats
from server.api.stored import responses as stored_responses

ROUTERS = (
    completions.router,
    stored_chats.router,
    embeddings.router,
    rerank.router,
    classify.router,
    score.router,
    tei.router,
    cohere.router,
    moderations.router,
    audio.router,
    realtime.router,
    images.router,
    image_edits.router,
    grounding.router,
    tokens.router,
    infill.router,
    properties.router,
    responses.router,
    stored_responses.router,
    conversations.router,
    messages.router,
    ollama_answers.router,
    ollama_models.router,
    ollama_store.router,
    files.router,
    batches.router,
    message_batches.router,
    uploads.router,
    videos.router,
    voices.router,
    route.router,
    traces.router,
    outcomes.router,
    usage.router,
    keys.router,
    logs.router,
    recommendations.router,
    admin.router,
    calibrations.router,
    workers.router,
    pulls.router,
    registration.router,
    models.router,
    system.router,
    console.router,
)
"""Every router of the app, in the order in which paths are matched."""
