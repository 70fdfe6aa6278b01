"""Engine ``apple``: the language model of Apple Intelligence, which macOS holds in its own memory.

Apple's SDK for Python (``apple-fm-sdk``) asks the system; nothing is loaded or fetched here. A conversation is a
session of its own, made from the messages before the last. The SDK streams the whole text so far, and neither tool
calls nor forms other than text are asked of it. It counts tokens in later versions only; before, counts are
estimates by the length of the text.

Sources: Apple's documentation of the SDK, and the form of ``Transcript`` that it reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Any
from uuid import uuid4

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from backends.wire.chat import ChatRequest
from backends.workers.engines.common.chunks import Piece, PlainOutputParser, chat_events
from backends.workers.engines.common.detokenization import StopFilter
from backends.workers.engines.common.messages import messages_of
from backends.workers.engines.common.options import EngineOptions, read_options
from backends.workers.program.app import parse, serve_engine, stream_response
from backends.workers.program.threads import WorkerStats
from backends.workers.spec import Ready, WorkerSpec
from catalog.errors import (
    ContextLengthExceeded,
    EngineMissing,
    InvalidRequest,
    ModelTemporarilyUnavailable,
    ModelUnavailable,
    RequestFailed,
    UnsupportedParameter,
    UnsupportedValue,
)
from catalog.types import Json

NAME = "apple"
_BYTES_PER_TOKEN = 4
"""Bytes of a text per token, where the SDK does not count."""
_UNABLE = ("logprobs", "tools", "grammar")
"""Parameters that change an answer and that the system has nothing for."""
_CAUSES = {
    "APPLE_INTELLIGENCE_NOT_ENABLED": "turn on Apple Intelligence in the system's settings",
    "DEVICE_NOT_ELIGIBLE": "this Mac is not one that can run it",
    "MODEL_NOT_READY": "the system is still fetching it; try again later",
}


class AppleOptions(EngineOptions):
    """The ``options`` of a catalogue row."""

    permissive: bool = Field(
        default=False, description="relax the system's guardrails for texts that are only transformed"
    )


def serve(spec: WorkerSpec, ready: Ready) -> None:
    """Run the worker; see ``backends.workers.spec.EngineEntryPoint``. Raises as ``load`` does."""
    serve_engine(spec, AppleEngine(spec), ready)


class AppleEngine:
    """Serves the system's model: a session per request, ``slots`` at a time."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._options = read_options(AppleOptions, NAME, spec.options)
        self._slots = asyncio.Semaphore(spec.slots)
        self._stats = WorkerStats()

    @property
    def stats(self) -> WorkerStats:
        return self._stats

    def load(self) -> None:
        try:
            import apple_fm_sdk as sdk
        except ImportError as error:
            raise EngineMissing(NAME, extra=NAME, package=error.name) from None
        self._sdk: Any = sdk
        rails = sdk.SystemLanguageModelGuardrails
        chosen = rails.PERMISSIVE_CONTENT_TRANSFORMATIONS if self._options.permissive else rails.DEFAULT
        self._model = sdk.SystemLanguageModel(guardrails=chosen)
        available, reason = self._model.is_available()
        if not available:
            cause = _CAUSES.get(getattr(reason, "name", ""), "the system does not say why")
            raise ModelUnavailable(f"Apple's on-device model cannot be used: {cause}.")

    def close(self) -> None:
        """Nothing is held here."""

    def routes(self) -> Sequence[BaseRoute]:
        return [Route("/v1/chat/completions", self._chat, methods=["POST"])]

    async def _chat(self, http: Request) -> Response:
        request = parse(ChatRequest, await http.body())
        for name in _UNABLE:
            if getattr(request, name):
                raise UnsupportedParameter(f"Apple's on-device model has no '{name}'.", param=name)
        conversation = Conversation.of(request)
        with self._translated():
            prompt_tokens = await self._counted(conversation.text)
        events = chat_events(
            self._pieces(conversation, request),
            PlainOutputParser(),
            model=self._spec.model_id,
            prompt_tokens=prompt_tokens,
            options=request.stream_options,
        )
        return await stream_response(http, events, media_type="text/event-stream")

    async def _pieces(self, conversation: Conversation, request: ChatRequest) -> AsyncGenerator[Piece]:
        """The text as it comes. Closing this ends the system's work; a stop sequence closes the answer."""
        stops = StopFilter([request.stop] if isinstance(request.stop, str) else list(request.stop or ()))
        sent, count = "", 0
        async with self._counting():
            with self._translated():
                session = await self._session(conversation)
                answer = session.stream_response(conversation.prompt, options=self._sampling(request))
                async with aclosing(answer) as texts:
                    async for text in _growing(texts):
                        shown, sent = stops.feed(text[len(sent) :]), text
                        count = _estimated(sent)
                        if stops.found:
                            break
                        if shown:
                            yield Piece(shown, [], count)
                count = await self._counted(sent)
            if stops.found:
                yield Piece(shown, [], count, "stop", stops.sequence)
                return
            limit = request.output_limit
            yield Piece(stops.end(), [], count, "length" if limit is not None and count >= limit else "stop")

    async def _session(self, conversation: Conversation) -> Any:
        if not conversation.turns:
            return self._sdk.LanguageModelSession(instructions=conversation.instructions, model=self._model)
        transcript = await self._sdk.Transcript.from_dict(conversation.transcript())
        return self._sdk.LanguageModelSession.from_transcript(transcript, model=self._model)

    def _sampling(self, request: ChatRequest) -> Any:
        """The SDK's options. It takes one of ``top_k`` and ``top_p``; the first is the narrower."""
        sdk, sampling = self._sdk, None
        if request.temperature == 0:
            sampling = sdk.SamplingMode.greedy()
        elif request.top_k or request.top_p is not None or request.seed is not None:
            top_p = None if request.top_k else request.top_p
            sampling = sdk.SamplingMode.random(
                top=request.top_k or None, probability_threshold=top_p, seed=request.seed
            )
        return sdk.GenerationOptions(
            sampling=sampling,
            temperature=request.temperature or None,
            maximum_response_tokens=request.output_limit,
        )

    async def _counted(self, text: str) -> int:
        """The tokens of a text, by the system if the SDK asks it, else estimated."""
        count = getattr(self._model, "token_count", None)
        return _estimated(text) if count is None or not text else int(await count(text))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise the SDK's errors as ours."""
        sdk = self._sdk
        try:
            yield
        except sdk.ExceededContextWindowSizeError:
            limit = getattr(self._model, "context_size", None)
            raise ContextLengthExceeded(model=self._spec.model_id, limit=limit, requested=None) from None
        except (sdk.GuardrailViolationError, sdk.RefusalError):
            error = InvalidRequest("Apple's guardrails refused this request or its answer.", param="messages")
            error.code = "content_filter"
            raise error from None
        except sdk.UnsupportedLanguageOrLocaleError:
            raise InvalidRequest(
                "Apple's on-device model does not know the language of this request.", param="messages"
            ) from None
        except (sdk.RateLimitedError, sdk.AssetsUnavailableError) as error:
            raise ModelTemporarilyUnavailable(
                f"The system does not let its model answer now ({type(error).__name__})."
            ) from None
        except sdk.FoundationModelsError as error:
            raise RequestFailed(f"The system's model failed: {type(error).__name__}.") from None

    def _counting(self) -> _Counted:
        return _Counted(self._slots, self._stats)


class _Counted:
    """Holds one of the slots, and counts the request in the worker's statistics."""

    def __init__(self, slots: asyncio.Semaphore, stats: WorkerStats) -> None:
        self._slots = slots
        self._stats = stats

    async def __aenter__(self) -> None:
        self._stats.queued += 1
        try:
            await self._slots.acquire()
        finally:
            self._stats.queued -= 1
        self._stats.active += 1

    async def __aexit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        self._slots.release()
        self._stats.active -= 1
        if kind is None:
            self._stats.done += 1
        elif issubclass(kind, (asyncio.CancelledError, GeneratorExit)):
            self._stats.cancelled += 1
        else:
            self._stats.failed += 1


class Conversation:
    """A chat as the SDK takes it: instructions, the turns before, and the prompt to answer."""

    def __init__(self, instructions: str | None, turns: Sequence[tuple[str, str]], prompt: str) -> None:
        self.instructions = instructions
        self.turns = turns
        self.prompt = prompt

    @classmethod
    def of(cls, request: ChatRequest) -> Conversation:
        """Read a request. Raises CapabilityMismatch for what is no text, and for a chat that ends otherwise."""
        instructions: list[str] = []
        turns: list[tuple[str, str]] = []
        for message in messages_of(request, NAME):
            role, text = message["role"], str(message.get("content") or "")
            if role in ("system", "developer"):
                instructions.append(text)
            elif role == "user":
                turns.append(("user", text))
            elif role == "assistant" and not message.get("tool_calls"):
                turns.append(("response", text))
            else:
                raise UnsupportedValue("Apple's on-device model takes no tool calls here.", param="messages")
        if not turns or turns[-1][0] != "user":
            raise UnsupportedValue(
                "Apple's on-device model answers a user's message, which must be the last.", param="messages"
            )
        return cls("\n\n".join(instructions) or None, turns[:-1], turns[-1][1])

    @property
    def text(self) -> str:
        """Everything that the model reads."""
        return "\n".join([self.instructions or "", *(text for _, text in self.turns), self.prompt])

    def transcript(self) -> Json:
        """The instructions and the turns before, as ``Transcript.from_dict`` reads them."""
        told = [] if self.instructions is None else [("instructions", self.instructions)]
        return {
            "version": 1,
            "type": "FoundationModels.Transcript",
            "transcript": {"entries": [_entry(role, text) for role, text in (*told, *self.turns)]},
        }


_OF_ROLE: dict[str, Json] = {"user": {"options": {}}, "response": {"assets": []}}


def _entry(role: str, text: str) -> Json:
    of_role = _OF_ROLE.get(role, {})
    contents = [{"type": "text", "text": text, "id": str(uuid4()).upper()}]
    return {"id": str(uuid4()).upper(), "role": role, "contents": contents, **of_role}


async def _growing(texts: AsyncIterator[str]) -> AsyncIterator[str]:
    """The texts that go on from those before. Raises RequestFailed if the last one does not.

    What was sent cannot be taken back, so a text that the system revises is waited for.
    """
    known = last = ""
    async for last in texts:
        if last.startswith(known):
            known = last
            yield known
    if last != known:
        raise RequestFailed("The system revised an answer that was sent in part; ask again.")


def _estimated(text: str) -> int:
    return -(-len(text.encode()) // _BYTES_PER_TOKEN)
