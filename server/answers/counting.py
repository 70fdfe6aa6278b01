"""The prompt tokens of a chat: counted by a local model or its provider, else estimated."""

from __future__ import annotations

import structlog
from starlette.requests import Request

from backends.native import refusal_of
from backends.registry import counts_tokens
from backends.wire.chat import ChatRequest
from backends.workers.pool import WorkerState
from catalog.errors import InvalidRequest, RoundhouseError
from catalog.model import Capability, Model, UpstreamSource
from catalog.types import Json
from routing.calling.job import Job
from routing.facts import Facts
from routing.reading.intent import is_auto
from server.edge.callers import caller_of
from server.edge.disconnect import Guard
from server.edge.services import runtime_of, services_of
from server.jobs import count_job, look_at_pictures, permitted
from server.runtime import Runtime

ESTIMATE = {"x-roundhouse-estimate": "true"}
"""The headers of a count that is an estimate."""


async def count_tokens(request: Request, job: Job[Json]) -> tuple[int, dict[str, str]]:
    """The prompt tokens of a chat's job, and the headers to answer with.

    Raises as :func:`server.jobs.permitted` and :func:`server.jobs.look_at_pictures`, ModelNotFound, and
    InvalidRequest of a model that counts.
    """
    runtime = runtime_of(request)
    facts = permitted(job.facts, caller_of(request), runtime.catalog)
    if not is_auto(facts.requested):
        runtime.catalog.resolve(facts.requested)
    if Capability.VISION in facts.features and isinstance(job.request, ChatRequest):
        await look_at_pictures(job.request)
    counter, refusal = _counter(runtime, facts), refusal_of(job.request)
    if counter is not None:
        try:
            async with (
                Guard(request, services_of(request).in_flight),
                runtime.dispatcher.open(count_job(job, counter.id)) as answer,
            ):
                async for counted in answer:
                    return int(counted["input_tokens"]), answer.headers()
        except InvalidRequest:
            raise
        except RoundhouseError:
            if refusal is not None:
                raise
            structlog.get_logger().warning("tokens estimated, because the model could not count", model=counter.id)
    if refusal is not None:
        raise refusal  # a part of the prompt is unknown here: an estimate would leave it out
    return facts.prompt_tokens, ESTIMATE


def _counter(runtime: Runtime, facts: Facts) -> Model | None:
    """The model that would answer, if its tokenizer counts here or its provider counts.

    A local one is loaded if the caller named it. Pictures and sounds are estimated for it, since only decoding
    tells their tokens.
    """
    plan = runtime.dispatcher.explain(facts)
    model = plan.candidates[0].model if plan.candidates else None
    if model is not None and isinstance(model.source, UpstreamSource):
        return model if counts_tokens(model, runtime.catalog) else None
    if facts.features & {Capability.VISION, Capability.AUDIO_INPUT, Capability.DOCUMENTS}:
        return None
    if model is None or model.engine != "llamacpp":
        return None
    workers = runtime.pool.snapshot().models
    loaded = any(view.model == model.id and view.state is WorkerState.READY for view in workers)
    return model if loaded or not is_auto(facts.requested) else None
