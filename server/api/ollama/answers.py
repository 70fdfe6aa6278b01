"""POST /api/chat, /api/generate, /api/embed and /api/embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fastapi import APIRouter, Request
from starlette.responses import Response

from catalog.catalog import Catalog
from catalog.errors import CapabilityMismatch, NotPermitted
from catalog.model import Capability, Model, UpstreamSource
from catalog.types import Json
from routing.accounts.costs import longest_prompt
from routing.calling.job import Job
from routing.reading.intent import is_auto
from routing.reading.tokens import estimate_tokens
from server.answers.streams import stream_bytes
from server.answers.whole import SingleItem, answer_json, json_response, whole
from server.edge.callers import caller_of, origin_of
from server.edge.contracts import JSON_LINES, Contract, route
from server.edge.disconnect import Guard
from server.edge.services import runtime_of, services_of
from server.jobs import chat_job, completion_job, count_loading, embedding_job
from server.wires.ollama.answers import (
    OllamaChatLine,
    OllamaEmbedding,
    OllamaEmbeddings,
    OllamaGenerateLine,
)
from server.wires.ollama.chat import to_chat
from server.wires.ollama.embed import to_embedding
from server.wires.ollama.generate import as_chat, is_completion, to_completion, to_turns
from server.wires.ollama.lines import AnswerLines, LineEncoder, Stopwatch, now
from server.wires.ollama.names import own_name
from server.wires.ollama.options import seconds_of
from server.wires.ollama.requests import (
    KeepAlive,
    OllamaAnswerRequest,
    OllamaChatRequest,
    OllamaEmbeddingsRequest,
    OllamaEmbedRequest,
    OllamaGenerateRequest,
)
from server.wires.translation import Losses, TranslatedAssembler

router = APIRouter(tags=["ollama"])
MOST = 4096
"""Tokens of a completion that the caller does not bound: servers of OpenAI's wire would give 16."""


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
    call = _Call(request, body.model, body.keep_alive)
    if not body.messages:
        return await call.settle({"message": {"role": "assistant", "content": ""}})
    chat = to_chat(body, model=call.model, keep_alive=call.forwarded(), losses=call.losses)
    return await call.answer(body, chat_job(chat, origin_of(request)), lambda: call.lines(chats=True))


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
    call = _Call(request, body.model, body.keep_alive)
    if not body.empty and is_completion(body, chats=call.chats()):
        completion = to_completion(body, model=call.model, most=call.room(body), losses=call.losses)
        job = replace(completion_job(completion, origin_of(request)), left_out=call.losses.names)
        return await call.answer(body, job, lambda: call.lines(chats=False))
    if body.empty:
        return await call.settle({"response": ""})
    turns = to_turns(body)
    chat = to_chat(
        as_chat(body, turns, call.losses), model=call.model, keep_alive=call.forwarded(), losses=call.losses
    )
    job = chat_job(chat, origin_of(request))
    return await call.answer(body, job, lambda: replace(call.lines(chats=False), turns=turns))


@route(
    router,
    "POST",
    "/api/embed",
    Contract(reads=OllamaEmbedRequest, answers=OllamaEmbeddings, calls_model=True, any_type=True),
)
async def ollama_embed(request: Request, body: OllamaEmbedRequest) -> Response:
    """Embed each text; without one the model is loaded."""
    call = _Call(request, body.model, body.keep_alive)
    texts = [body.input] if isinstance(body.input, str) else list(body.input or ())
    if not any(texts):
        await call.load()
        return json_response({**_NO_EMBEDDINGS, "model": body.model})
    value, headers = await call.embed(texts, body)
    return json_response(value, headers=headers)


@route(
    router,
    "POST",
    "/api/embeddings",
    Contract(reads=OllamaEmbeddingsRequest, answers=OllamaEmbedding, calls_model=True, any_type=True),
)
async def ollama_embeddings(request: Request, body: OllamaEmbeddingsRequest) -> Response:
    """Embed one text; without one the model is loaded."""
    call = _Call(request, body.model, body.keep_alive)
    if not body.prompt:
        await call.load()
        return json_response({"embedding": []})
    shared = {name: getattr(body, name) for name in ("options",) if name in body.model_fields_set}
    extras = body.model_extra or {}
    value, headers = await call.embed([body.prompt], OllamaEmbedRequest.model_construct(**extras, **shared))
    return json_response({"embedding": value["embeddings"][0]}, headers=headers)


_NO_EMBEDDINGS: Json = {"embeddings": [], "total_duration": 0, "load_duration": 0, "prompt_eval_count": 0}


class _Call:
    """One request: the model by our own name, the time it takes, and what is done with the model's idle time.

    Only an administrator sets idle times; for others ``keep_alive`` is left out, and named. Raises InvalidRequest
    for one that is no duration.
    """

    def __init__(self, request: Request, model: str, keep_alive: KeepAlive | None) -> None:
        self._request = request
        self._runtime = runtime_of(request)
        self._named = model
        self.model = own_name(model, self._runtime.catalog)
        self.losses = Losses()
        self._keep_alive = keep_alive
        self._seconds = None if keep_alive is None else seconds_of(keep_alive)
        if self._seconds is not None and not caller_of(request).admin:
            self.losses.add("keep_alive")
            self._keep_alive = None
        self._watch = Stopwatch(services_of(request).clock, self._loading)

    # ---- answers

    def lines(self, *, chats: bool) -> AnswerLines:
        """The lines of the answer."""
        keep = None if self._keep_alive is None else self._keep
        return AnswerLines(self._named, self._watch, chats=chats, keep=keep)

    async def answer(
        self, body: OllamaAnswerRequest, job: Job[Json], lines: Callable[[], AnswerLines]
    ) -> Response:
        """The answer of a job: JSON lines, or one object."""
        if body.streams:
            return await stream_bytes(self._request, job, LineEncoder(lines()), JSON_LINES)
        return await answer_json(self._request, job, lambda: TranslatedAssembler(lines(), whole=AnswerLines.whole))

    async def embed(self, texts: list[str], body: OllamaEmbedRequest) -> tuple[Json, dict[str, str]]:
        """Embed texts; ``(Ollama's object, headers)``."""
        home, keep_alive = self._home(), self.forwarded()
        embedding = to_embedding(
            texts, body, model=self.model, home=home, keep_alive=keep_alive, losses=self.losses
        )
        job = replace(embedding_job(embedding, origin_of(self._request)), left_out=self.losses.names)
        found, headers = await whole(self._request, job, SingleItem)
        answered = headers["x-roundhouse-model"]
        self._watch.begin(answered)
        if self._keep_alive is not None:
            self._keep(answered)
        times = self._watch.times(found.get("usage") or {})
        value = {
            "model": self._named,
            "embeddings": [row["embedding"] for row in found["data"]],
            **{name: times.get(name, 0) for name in ("total_duration", "load_duration", "prompt_eval_count")},
        }
        return {**value, "truncated": found["truncated"]} if found.get("truncated") else value, headers

    def room(self, body: OllamaGenerateRequest) -> int:
        """The most tokens of a completion that the caller does not bound."""
        row = self._row()
        if row is None or row.limits.context_window is None:
            return MOST
        written = longest_prompt(estimate_tokens(f"{body.prompt or ''}{body.suffix or ''}"))
        return max(1, min(MOST, row.limits.max_output_tokens or MOST, row.limits.context_window - written))

    def chats(self) -> bool:
        """Whether the model takes chats, as far as its row says; a base model takes only prompts."""
        row = self._row()
        return row is None or Capability.CHAT in row.capabilities or Capability.COMPLETION not in row.capabilities

    # ---- loading

    async def settle(self, empty: Json) -> Response:
        """Load the model, or unload it with a ``keep_alive`` of 0, and answer with an empty text.

        Raises NotPermitted for an unloading by another than an administrator, and as :meth:`load`.
        """
        head = {"model": self._named, "created_at": now(), **empty, "done": True}
        if self._seconds != 0:
            await self.load()
            return json_response({**head, "done_reason": "load"})
        if self._keep_alive is None:
            raise NotPermitted("Unloading a model needs an admin key (admin_keys in the settings).")
        row = self._allowed()
        if row is not None and not row.local:
            raise CapabilityMismatch(
                f"'{row.id}' is served by another server; only local models are unloaded here.", param="model"
            )
        if row is not None:
            busy = any(view.model == row.id and view.busy for view in self._runtime.pool.snapshot().workers)
            if busy:
                self._runtime.pool.keep(row.id, 0)  # it leaves once the present calls have ended
            else:
                await self._runtime.pool.unload(row.id)
        return json_response({**head, "done_reason": "unload"})

    async def load(self) -> None:
        """Load a local model now; another server's, and what the router will choose, need none.

        Raises ModelNotFound, NotPermitted, RateLimited, and as :meth:`WorkerPool.load`.
        """
        row = self._allowed()
        if row is None or not row.local:
            return
        await count_loading(self._runtime, caller_of(self._request), row)
        async with Guard(self._request, services_of(self._request).in_flight):
            await self._runtime.pool.load(row, keep_alive=None if self._keep_alive is None else self._seconds)

    def forwarded(self) -> KeepAlive | None:
        """The ``keep_alive`` to send on, which only another Ollama takes."""
        return self._keep_alive if self._home() == "ollama" else None

    def _keep(self, model: str) -> None:
        if self._seconds is not None:
            self._runtime.pool.keep(model, self._seconds)

    def _loading(self, model: str, since: float) -> float:
        """The seconds that loading a model has taken, if it was loaded after ``since``."""
        for view in self._runtime.pool.snapshot().workers:
            if view.model == model and view.started_at is not None and view.started_at >= since:
                return view.load_seconds or 0.0
        return 0.0

    # ---- the model

    def _home(self) -> str:
        """``local``, or the protocol of the model's server; empty if the router chooses or no model is known."""
        row = self._row()
        if row is None:
            return ""
        return _protocol(row, self._runtime.catalog)

    def _row(self) -> Model | None:
        """The model of the request's name; ``None`` if the router chooses, and for an unknown one."""
        catalog = self._runtime.catalog
        return None if is_auto(self.model) or not catalog.knows(self.model) else catalog.resolve(self.model)

    def _allowed(self) -> Model | None:
        """The model that the request names; ``None`` if the router chooses. Raises ModelNotFound, NotPermitted."""
        if is_auto(self.model):
            return None
        row = self._runtime.catalog.resolve(self.model)
        if not caller_of(self._request).allows(row.id, self._runtime.catalog):
            raise NotPermitted.of_model(row.id)
        return row


def _protocol(row: Model, catalog: Catalog) -> str:
    return catalog.endpoint(row.source.endpoint).protocol if isinstance(row.source, UpstreamSource) else "local"
