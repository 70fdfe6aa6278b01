"""Handlers of Ollama's answers, imported at the first request, with the translations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from fastapi import Request
from starlette.responses import Response

from backends.headers import header_list
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
from server.edge.contracts import JSON_LINES
from server.edge.disconnect import Guard
from server.edge.services import runtime_of, services_of
from server.jobs import chat_job, completion_job, count_loading, embedding_job, permitted
from server.scope import STAND_IN
from server.wires.ollama.chat import to_chat
from server.wires.ollama.embed import to_embedding
from server.wires.ollama.generate import as_chat, is_completion, to_completion, to_turns
from server.wires.ollama.lines import AnswerLines, LineEncoder, Stopwatch, now
from server.wires.ollama.options import seconds_of
from server.wires.ollama.requests import (
    GivenMessage,
    KeepAlive,
    OllamaAnswerRequest,
    OllamaChatRequest,
    OllamaEmbeddingsRequest,
    OllamaEmbedRequest,
    OllamaGenerateRequest,
)
from server.wires.translation import Losses, TranslatedAssembler

MOST = 4096
"""Tokens of a completion that the caller does not bound: servers of OpenAI's wire would give 16."""


async def answer_chat(request: Request, body: OllamaChatRequest) -> Response:
    """Answer a conversation, as JSON lines unless ``stream`` is false."""
    call = _Call(request, body.model, body.keep_alive)
    given = body if body.messages else body.model_copy(update={"messages": _SOMETHING})
    chat = to_chat(given, model=call.model, keep_alive=call.forwarded(), losses=call.losses)
    job = chat_job(chat, origin_of(request))
    if not body.messages:
        return await call.settle(job, body.options, {"message": {"role": "assistant", "content": ""}})
    return await call.answer(body, job, lambda: call.lines(chats=True))


async def answer_generate(request: Request, body: OllamaGenerateRequest) -> Response:
    """Answer a prompt, or continue it with ``raw``, as JSON lines unless ``stream`` is false."""
    call = _Call(request, body.model, body.keep_alive)
    given = body.model_copy(update={"prompt": "."}) if body.empty else body
    turns = None
    if is_completion(given, chats=call.chats()):
        completion = to_completion(given, model=call.model, most=call.room(given), losses=call.losses)
        job = replace(completion_job(completion, origin_of(request)), left_out=call.losses.names)
    else:
        turns = to_turns(given)
        chat = to_chat(
            as_chat(given, turns, call.losses), model=call.model, keep_alive=call.forwarded(), losses=call.losses
        )
        job = chat_job(chat, origin_of(request))
    if body.empty:
        return await call.settle(job, body.options, {"response": ""})
    return await call.answer(body, job, lambda: replace(call.lines(chats=False), turns=turns))


async def answer_embed(request: Request, body: OllamaEmbedRequest) -> Response:
    """Embed each text; without one the model is loaded, or unloaded with a ``keep_alive`` of 0."""
    call = _Call(request, body.model, body.keep_alive)
    texts = [body.input] if isinstance(body.input, str) and body.input else list(body.input or ())
    job = call.embedding(texts or ["."], body)
    if not texts:
        return await call.settle(job, body.options, {**_NO_EMBEDDINGS, "model": body.model}, whole=True)
    value, headers = await call.embed(job)
    return json_response(value, headers=headers)


async def answer_embeddings(request: Request, body: OllamaEmbeddingsRequest) -> Response:
    """Embed one text; without one the model is loaded, or unloaded with a ``keep_alive`` of 0."""
    call = _Call(request, body.model, body.keep_alive)
    shared = {name: getattr(body, name) for name in ("options",) if name in body.model_fields_set}
    extras = body.model_extra or {}
    job = call.embedding([body.prompt or "."], OllamaEmbedRequest.model_construct(**extras, **shared))
    if not body.prompt:
        return await call.settle(job, body.options, {"embedding": []}, whole=True)
    value, headers = await call.embed(job)
    return json_response({"embedding": value["embeddings"][0]}, headers=headers)


_SOMETHING = [GivenMessage(role="user", content=".")]
"""The conversation in whose place an empty request is checked."""
_NO_EMBEDDINGS: Json = {"embeddings": [], "total_duration": 0, "load_duration": 0, "prompt_eval_count": 0}


class _Call:
    """One request: its model, the time it takes, and what is done with the model's idle time.

    An answer names the model as the client did, except that of a stand-in, which names the model itself.

    Only an administrator sets idle times; for others ``keep_alive`` is left out, and named. Raises InvalidRequest
    for one that is no duration.
    """

    def __init__(self, request: Request, model: str, keep_alive: KeepAlive | None) -> None:
        self._request = request
        self._runtime = runtime_of(request)
        self._named = None if STAND_IN in request.scope else model
        self.model = model
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

    def embedding(self, texts: list[str], body: OllamaEmbedRequest) -> Job[Json]:
        """The job of embedding texts. Raises InvalidRequest."""
        home, keep_alive = self._home(), self.forwarded()
        embedding = to_embedding(
            texts, body, model=self.model, home=home, keep_alive=keep_alive, losses=self.losses
        )
        return replace(embedding_job(embedding, origin_of(self._request)), left_out=self.losses.names)

    async def embed(self, job: Job[Json]) -> tuple[Json, dict[str, str]]:
        """Embed texts; ``(Ollama's object, headers)``."""
        found, headers = await whole(self._request, job, SingleItem)
        answered = headers["x-roundhouse-model"]
        self._watch.begin(answered)
        if self._keep_alive is not None:
            self._keep(answered)
        times = self._watch.times(found.get("usage") or {})
        value = {
            "model": self._named or answered,
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

    async def settle(
        self, job: Job[Json], options: Mapping[str, Any] | None, empty: Json, *, whole: bool = False
    ) -> Response:
        """Load the model, or unload it with a ``keep_alive`` of 0, and answer with ``empty``.

        ``job`` is that of the request with something to answer: a load of a model that could not answer it is
        refused. ``whole`` says that ``empty`` is the answer, without Ollama's members of a line. No option changes
        how a model is loaded, so each is named as dropped. Raises NotPermitted for an unloading by another than
        an administrator, and as :meth:`load`.
        """
        dropped = dict.fromkeys([*job.left_out, *(f"options.{name}" for name in options or ())])
        headers = {"x-roundhouse-dropped": header_list(dropped)} if dropped else {}
        unloads = self._seconds == 0
        await (self._unload() if unloads else self._load(job))
        if whole:
            return json_response(empty, headers=headers)
        head = {"model": self._named or self.model, "created_at": now(), **empty, "done": True}
        return json_response({**head, "done_reason": "unload" if unloads else "load"}, headers=headers)

    async def _unload(self) -> None:
        if self._keep_alive is None:
            raise NotPermitted("Unloading a model needs an admin key (admin_keys in the settings).")
        row = self._allowed()
        if row is not None and not row.local:
            raise CapabilityMismatch(
                f"'{row.id}' is served by another server; only local models are unloaded here.", param="model"
            )
        if row is not None:
            busy = any(view.model == row.id and view.busy for view in self._runtime.pool.snapshot().models)
            if busy:
                self._runtime.pool.keep(row.id, 0)  # it leaves once the present calls have ended
            else:
                await self._runtime.pool.unload(row.id)

    async def _load(self, job: Job[Json]) -> None:
        """Load a local model now; another server's, and what the router will choose, need none.

        Raises ModelNotFound, NotPermitted, CapabilityMismatch, RateLimited, and as :meth:`WorkerPool.load`.
        """
        row = self._allowed()
        self._runtime.dispatcher.explain(permitted(job.facts, caller_of(self._request), self._runtime.catalog))
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
        for view in self._runtime.pool.snapshot().models:
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
