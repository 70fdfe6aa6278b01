"""/v1/models/pulls: administrators fetch models in the background and follow the progress."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response
from typing_extensions import TypedDict

from backends.wire.common import AS_COUNT, OwnBody
from catalog.errors import InvalidRequest, NotFound, RoundhouseError, Unavailable
from catalog.types import Json
from server.answers.streams import DONE, event, stream_items
from server.answers.whole import json_response
from server.edge.callers import caller_of
from server.edge.contracts import Contract, route
from server.edge.services import runtime_of
from server.models.pulls import Pulls, shown
from server.runtime import Runtime
from server.storage.storage import Page, listed

router = APIRouter(tags=["models"])


class PullRequest(OwnBody):
    """``model`` is a model of the catalogue, ``starter``, or ``hub:OWNER/REPOSITORY[:QUANTISATION]``.

    ``name`` is the id of a repository's model, by default made of its file's name. With ``stream`` the answer is
    the progress as events; the pull goes on without the client.
    """

    model: Annotated[str, Field(min_length=1, max_length=512)]
    name: Annotated[str, Field(pattern=r"^[\w][\w./:@+-]{0,199}$")] | None = None
    revision: Annotated[str, Field(pattern=r"^[\w][\w./-]{0,127}$")] = "main"
    stream: bool = False


class PullProblem(TypedDict):
    code: str
    message: str


class ModelPull(TypedDict):
    """A pull; times are Unix seconds.

    ``stage`` is what is done with ``file``, ``models`` are the ids that are ready, ``total_bytes`` are those of
    all files, if they are known.
    """

    id: str
    object: Literal["model.pull"]
    status: Literal["queued", "in_progress", "completed", "cancelling", "cancelled", "failed"]
    model: str
    name: str | None
    revision: str
    created_at: int
    ended_at: int | None
    stage: Literal["cached", "metadata", "downloading", "verifying", "preparing", "done"] | None
    file: str | None
    completed_bytes: int
    total_bytes: int | None
    models: list[str]
    error: PullProblem | None


class ModelPullList(TypedDict):
    object: Literal["list"]
    data: list[ModelPull]
    first_id: str | None
    last_id: str | None
    has_more: bool


class PullListQuery(BaseModel):
    """A page of the pulls, the newest first; ``after`` is the id of the one before it."""

    limit: Annotated[int, Field(ge=1, le=100), AS_COUNT] = 20
    after: str | None = Field(default=None, max_length=128)


class PullQuery(BaseModel):
    """``stream``: the progress as events, from now to the end."""

    stream: bool = False


@route(
    router,
    "POST",
    "/v1/models/pulls",
    Contract(
        reads=PullRequest,
        answers=ModelPull,
        streams=ModelPull,
        admin=True,
        raises=(InvalidRequest, NotFound, Unavailable),
    ),
)
async def create_pull(request: Request, body: PullRequest) -> Response:
    """Fetch a model in the background, or join the pull of it that is at work. Once complete, it is in force."""
    pulls = pulls_of(runtime_of(request))
    record = await pulls.begin(caller_of(request), body.model, revision=body.revision, model_id=body.name)
    return _progress(request, pulls, record.id) if body.stream else json_response(shown(record))


@route(router, "GET", "/v1/models/pulls", Contract(query=PullListQuery, answers=ModelPullList, admin=True))
async def list_pulls(request: Request, query: PullListQuery) -> Response:
    """List the pulls into this machine's models, of all administrators."""
    rows, more = await pulls_of(runtime_of(request)).page(Page(query.limit, after=query.after))
    return json_response(listed([shown(row) for row in rows], more))


@route(
    router,
    "GET",
    "/v1/models/pulls/{pull_id}",
    Contract(query=PullQuery, answers=ModelPull, streams=ModelPull, admin=True),
)
async def retrieve_pull(request: Request, pull_id: str, query: PullQuery) -> Response:
    """Tell how far a pull is, or with ``stream`` follow it."""
    pulls = pulls_of(runtime_of(request))
    record = await pulls.found(pull_id)
    return _progress(request, pulls, record.id) if query.stream else json_response(shown(record))


@route(router, "POST", "/v1/models/pulls/{pull_id}/cancel", Contract(answers=ModelPull, admin=True))
async def cancel_pull(request: Request, pull_id: str) -> Response:
    """Stop a pull. What was fetched stays, and a later pull goes on from there."""
    return json_response(shown(await pulls_of(runtime_of(request)).cancel(pull_id)))


def pulls_of(runtime: Runtime) -> Pulls:
    """The pulls of this machine. Raises NotFound where another process has the models."""
    if runtime.pulls is None:
        raise NotFound("This server keeps no models.")
    return runtime.pulls


class _Encoder:
    """Encodes the states of a pull as events; the last one is ``[DONE]``."""

    def encode(self, item: Json) -> bytes:
        return event(item)

    def finish(self) -> bytes:
        return DONE

    def fail(self, error: RoundhouseError) -> bytes | None:
        return event(error.to_body())


def _progress(request: Request, pulls: Pulls, name: str) -> Response:
    async def states() -> AsyncGenerator[Json]:
        async for record in pulls.follow(name):
            yield shown(record)

    return stream_items(request, states(), _Encoder())
