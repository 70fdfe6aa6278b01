"""A runtime without engines: backends that answer from a script, under the gate's real handlers."""

from __future__ import annotations

import asyncio
import base64
import struct
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

from backends.base import Upstream
from backends.grounding.request import GroundingChat
from backends.openai.moderation import by_scores
from backends.queueing import Need
from backends.wire.audio import SpeechRequest, TranscriptionRequest
from backends.wire.chat import ChatRequest
from backends.wire.classify import ClassifyRequest
from backends.wire.common import WireModel
from backends.wire.completions import CompletionRequest
from backends.wire.embeddings import EmbeddingRequest
from backends.wire.images import ImageEditRequest, ImageRequest
from backends.wire.moderation.request import ModerationRequest
from backends.wire.rerank import RerankRequest
from backends.wire.tokens import DetokenizeRequest, TokenizeRequest
from backends.wire.video.events import VideoItem, completed, progress
from backends.wire.video.request import DiscardRequest, VideoRequest
from backends.workers.pool import DeviceView, PoolSnapshot, WorkerState, WorkerView
from catalog.catalog import Catalog
from catalog.errors import RoundhouseError
from catalog.model import Capability, LibrarySource, Limits, Model, UpstreamSource
from catalog.types import Json
from routing.accounts.caps import SpendSettings
from routing.accounts.spend import Spend
from routing.accounts.virtual_keys import VirtualKeys
from routing.beliefs.estimator import Estimator
from routing.beliefs.learning import Learner
from routing.calling.answer import Answer
from routing.calling.job import Job
from routing.calling.traces import Traces, TraceSettings
from routing.clock import SystemClock
from routing.facts import Facts
from routing.outcomes import Outcome, Result, Usage
from routing.plan import Block, Candidate, Exclusion, Plan, Strategy
from routing.settings import RoutingSettings
from routing.state.sqlite import SqliteState
from server.catalog_updates import LiveCatalog
from server.runtime import Runtime
from server.settings import Settings
from server.storage.files import Files
from server.storage.settings import StorageSettings
from server.storage.storage import Storage

T = TypeVar("T")

CHAT = Model(
    id="parrot",
    aliases=("polly",),
    capabilities=frozenset({Capability.CHAT, Capability.COMPLETION}),
    source=LibrarySource(module="parrot"),
    engine="parrot",
    limits=Limits(context_window=4096),
)
VOICE = Model(
    id="songbird",
    capabilities=frozenset({Capability.SPEAK}),
    source=LibrarySource(module="songbird"),
    engine="speech",
    voices=("robin", "wren"),
    languages=("en",),
)
REMOTE = Model(
    id="cloud/oracle",
    provider="cloud",
    capabilities=frozenset({Capability.CHAT}),
    source=UpstreamSource(endpoint="cloud", model="oracle"),
    ends=date(2027, 1, 14),
    successor="parrot",
)


def chunk(text: str | None = None, *, finish: str | None = None, **extra: Any) -> Json:
    """One chunk of a chat answer."""
    delta: Json = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {**_HEAD, "object": "chat.completion.chunk", "choices": [choice], **extra}


def usage_chunk(prompt: int = 3, completion: int = 2) -> Json:
    """The chunk with usage that every backend sends last."""
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return {**_HEAD, "object": "chat.completion.chunk", "choices": [], "usage": usage}


_HEAD = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": "parrot"}
ANSWER: tuple[Json, ...] = (chunk("Hello"), chunk(" there"), chunk(finish="stop"), usage_chunk())

Script = Sequence[Json | RoundhouseError | asyncio.Event]


def picture(number: int) -> str:
    """The base64 of a drawn picture, which is a text."""
    return base64.b64encode(f"pic{number}".encode()).decode()


class FakeBackend:
    """Answers chats from ``script``: yields chunks, raises errors, waits for events."""

    def __init__(self) -> None:
        self.script: Script = ANSWER
        self.requests: list[Any] = []
        self.closed = asyncio.Event()
        self.started = asyncio.Event()
        self.video: Sequence[VideoItem | RoundhouseError | asyncio.Event] = (progress(50), completed(2.0))
        self.discarded: list[str] = []
        self.audio: Sequence[bytes | RoundhouseError | asyncio.Event] = (b"RIFF", b"data")
        self.audio_of: Callable[[str], Sequence[bytes | RoundhouseError | asyncio.Event]] = lambda _: self.audio
        self.transcript: Json = {
            "type": "transcript.text.done",
            "text": "Hello there. <Bye>",
            "language": "en",
            "duration": 3.5,
            "segments": [
                {"id": 0, "start": 0.0, "end": 1.5, "text": " Hello there."},
                {"id": 1, "start": 1.5, "end": 3.5, "text": " <Bye>"},
            ],
            "words": [{"word": "Hello", "start": 0.0, "end": 0.6}],
        }

    def dropped(self, request: WireModel, upstream: Upstream) -> tuple[str, ...]:
        return ()

    async def chat(self, upstream: Upstream, request: ChatRequest) -> AsyncIterator[Json]:
        found = (chunk('{"boxes": []}'), chunk(finish="stop"), usage_chunk())
        async for item in self._play(request, found if isinstance(request, GroundingChat) else self.script):
            yield {**item}

    async def complete(self, upstream: Upstream, request: CompletionRequest) -> AsyncIterator[Json]:
        async for item in self._play(request, self.script):
            choices = [
                {"index": c["index"], "text": c["delta"].get("content", ""), "finish_reason": c["finish_reason"]}
                for c in item["choices"]
            ]
            yield {**item, "object": "text_completion", "choices": choices}

    async def embed(self, upstream: Upstream, request: EmbeddingRequest) -> Json:
        self.requests.append(request)
        vector: Any = [0.5, -0.25]
        if request.encoding_format == "base64":
            vector = base64.b64encode(struct.pack("<2f", *vector)).decode()
        data = [{"object": "embedding", "index": i, "embedding": vector} for i, _ in enumerate(request.items())]
        return {
            "object": "list",
            "model": "parrot",
            "data": data,
            "usage": {"prompt_tokens": 1, "total_tokens": 1},
        }

    async def rerank(self, upstream: Upstream, request: RerankRequest) -> Json:
        self.requests.append(request)
        results = [{"index": i, "relevance_score": i / 10} for i, _ in enumerate(request.documents)]
        return {"model": "parrot", "results": results, "scoring": "similarity", "usage": {"total_tokens": 9}}

    async def classify(self, upstream: Upstream, request: ClassifyRequest) -> Json:
        self.requests.append(request)
        labels = request.labels or ["fine", "toxic"]
        data = [{"index": i, "scores": [0.25, 0.5, 0.25][: len(labels)]} for i, _ in enumerate(request.texts())]
        return {
            "model": "parrot",
            "data": data,
            "labels": labels,
            "scoring": "similarity",
            "usage": {"total_tokens": 9},
        }

    async def moderate(self, upstream: Upstream, request: ModerationRequest) -> Json:
        self.requests.append(request)
        return {
            **by_scores([{"violence": 0.9} for _ in request.texts()], 0.5),
            "model": "parrot",
            "scoring": "likelihood",
        }

    async def transcribe(self, upstream: Upstream, request: TranscriptionRequest) -> AsyncIterator[Json]:
        self.requests.append(request)
        yield {"type": "transcript.text.delta", "delta": "Hello there."}
        yield {"type": "transcript.text.delta", "delta": " <Bye>"}
        yield self.transcript

    async def speak(self, upstream: Upstream, request: SpeechRequest) -> AsyncIterator[bytes]:
        async for item in self._play(request, self.audio_of(request.input)):
            yield item

    async def draw(self, upstream: Upstream, request: ImageRequest) -> AsyncIterator[Json]:
        self.requests.append(request)
        for number in range(request.n or 1):
            yield {"type": "image_generation.completed", "b64_json": picture(number), "usage": {"total_tokens": 4}}

    async def edit(self, upstream: Upstream, request: ImageEditRequest) -> AsyncIterator[Json]:
        self.requests.append(request)
        for number in range(request.n or 1):
            yield {"type": "image_edit.completed", "b64_json": picture(number), "usage": {"total_tokens": 4}}

    async def film(self, upstream: Upstream, request: VideoRequest) -> AsyncIterator[VideoItem]:
        async for item in self._play(request, self.video):
            yield item

    async def discard(self, upstream: Upstream, request: DiscardRequest) -> Json:
        self.discarded.append(request.accepted)
        return {"deleted": True}

    async def apply_template(self, upstream: Upstream, request: ChatRequest) -> Json:
        self.requests.append(request)
        return {
            "model": "parrot",
            "prompt": "".join(f"<{message.role}>{message.content}" for message in request.messages),
        }

    async def properties(self, upstream: Upstream) -> Json:
        told = {"chat_template": "{{ x }}", "eos_token": "</s>", "model": "parrot"}
        return {**told, "default_generation_settings": {"n_ctx": 4096}}

    async def tokenize(self, upstream: Upstream, request: TokenizeRequest) -> Json:
        self.requests.append(request)
        if request.with_pieces:
            return {"tokens": [{"id": ord(letter), "piece": letter} for letter in request.content]}
        return {"tokens": [ord(letter) for letter in request.content]}

    async def detokenize(self, upstream: Upstream, request: DetokenizeRequest) -> Json:
        return {"content": "".join(map(chr, request.tokens))}

    async def _play(self, request: Any, script: Sequence[Any]) -> AsyncIterator[Any]:
        self.requests.append(request)
        self.started.set()
        try:
            for item in script:
                if isinstance(item, RoundhouseError):
                    raise item
                if isinstance(item, asyncio.Event):
                    await item.wait()
                else:
                    yield item
        finally:
            self.closed.set()


class FakeAnswer(Answer[T]):
    """An answer whose first item has arrived."""

    def __init__(self, job: Job[T], first: T, rest: AsyncIterator[T]) -> None:
        self.trace, self._first, self._rest, self.model = job.trace, first, rest, CHAT
        self._before = job.spent

    def headers(self) -> dict[str, str]:
        return {
            "x-roundhouse-model": "parrot",
            "x-roundhouse-trace": self.trace,
            "x-roundhouse-reason": "named by the caller",
            "x-roundhouse-attempts": "1",
        }

    @property
    def provider_key(self) -> str | None:
        return "digest-of-a-key"

    @property
    def spent(self) -> float:
        return self._before + 0.25

    @property
    def dropped(self) -> tuple[str, ...]:
        return ()

    async def resume(self, error: RoundhouseError) -> None:
        raise error

    async def __aiter__(self) -> AsyncIterator[T]:
        yield self._first
        async for item in self._rest:
            yield item


class FakeDispatcher:
    """Calls the one backend; ``gate`` delays every answer, as a load or a queue would."""

    def __init__(self, backend: FakeBackend, traces: Traces) -> None:
        self.backend = backend
        self.traces = traces
        self.gate: asyncio.Event | None = None
        self.waiting = asyncio.Event()
        self.left = asyncio.Event()
        self.facts: list[Facts] = []
        self.left_out: list[tuple[str, ...]] = []
        self.kept: list[tuple[str, ...]] = []
        self.spent: list[float] = []
        self.plan: Callable[[Facts], Plan] = lambda _: PLAN

    @asynccontextmanager
    async def open(self, job: Job[T]) -> AsyncIterator[Answer[T]]:
        self.facts.append(job.facts)
        self.left_out.append(job.left_out)
        self.kept.append(job.kept)
        self.spent.append(job.spent)
        self.traces.start(job.trace, job.facts, PLAN)
        try:
            if self.gate is not None:
                self.waiting.set()
                await self.gate.wait()
            upstream = Upstream("local", "openai", "http://fake", "parrot")
            items = job.operation.call(self.backend, upstream, job.request)
            try:
                yield FakeAnswer(job, await anext(items), items)
            finally:
                close: Callable[[], Any] = getattr(items, "aclose")  # noqa: B009
                await close()
            self._record(job, Result.SUCCESS, Usage())
        except (asyncio.CancelledError, RoundhouseError) as error:
            ended = Result.CANCELLED if isinstance(error, asyncio.CancelledError) else Result.FAILED
            self._record(job, ended, Usage(input=3, output=1, known=False))
            raise
        finally:
            self.left.set()

    def _record(self, job: Job[Any], result: Result, usage: Usage) -> None:
        at = time.time()
        self.traces.record(
            Outcome(job.trace, 1, "parrot", "local", job.facts, result, at=at, first_chunk=0.1, usage=usage)
        )

    def explain(self, facts: Facts) -> Plan:
        self.facts.append(facts)
        return self.plan(facts)


PLAN = Plan(
    candidates=(Candidate(CHAT, 0.9, 0.8, 1.5, 0.0, "local", "it is loaded"),),
    excluded=(Exclusion("cloud/oracle", "no_key", "no key is set for the endpoint 'cloud'"),),
    strategy=Strategy.PROFILE,
    reason="the best score",
)


class FakePool:
    """A pool with one ready worker that records loads."""

    def __init__(self) -> None:
        self.view = WorkerView(
            model="parrot",
            engine="parrot",
            device="cpu",
            state=WorkerState.READY,
            pid=1,
            memory=1000,
            restarts=2,
            queued=3,
        )
        self.loaded: list[tuple[str, float | None]] = []
        self.chosen: list[tuple[Mapping[str, Any] | None, bool]] = []
        self.forced: list[bool] = []
        self.kept: list[tuple[str, float]] = []

    @asynccontextmanager
    async def lease(self, model: Model, need: Need) -> AsyncIterator[Upstream]:
        yield Upstream("local", "openai", "http://fake", model.id)

    def snapshot(self) -> PoolSnapshot:
        return PoolSnapshot((self.view,), (DeviceView("cpu", "CPU", 100, 80, 10),))

    async def load(
        self,
        model: Model,
        *,
        keep_alive: float | None = None,
        options: Mapping[str, Any] | None = None,
        force: bool = False,
    ) -> WorkerView:
        self.loaded.append((model.id, keep_alive))
        self.chosen.append((options, force))
        return self.view

    async def unload(self, model_id: str, *, force: bool = False) -> bool:
        self.forced.append(force)
        return model_id == "parrot"

    def keep(self, model_id: str, seconds: float) -> None:
        self.kept.append((model_id, seconds))

    async def log(self, model_id: str, *, lines: int = 200) -> str:
        return f"the last {lines} lines of {model_id}\n"

    async def drain(self, deadline: float) -> None:
        return None


def fake_runtime(folder: Path | None = None) -> tuple[Runtime, FakeBackend, FakeDispatcher, FakePool]:
    """A runtime and its fake parts. A caller that uses the state in ``folder`` must start it."""
    backend = FakeBackend()
    clock = SystemClock()
    state = SqliteState((folder or Path("/nowhere")) / "state.sqlite3")
    traces = Traces(TraceSettings(), clock)
    dispatcher, pool = FakeDispatcher(backend, traces), FakePool()
    catalog = Catalog.load(builtin=False, user_models=(CHAT, VOICE, REMOTE), user_endpoints=CLOUD)
    storage = Storage(state.records, StorageSettings(), clock)
    keys = VirtualKeys(state, clock)
    runtime = Runtime(
        live=LiveCatalog(catalog),
        pool=pool,
        dispatcher=dispatcher,
        downloaded=lambda _: True,
        has_key=lambda _: False,
        unavailable=lambda row: None if row.local else Block("no_key", "no key is set for the endpoint 'cloud'"),
        traces=traces,
        learner=Learner(Estimator(RoutingSettings())),
        spend=Spend(state, SpendSettings(), clock, key_caps=keys.caps),
        storage=storage,
        files=Files(storage, (folder or Path("/nowhere")) / "files"),
        keys=keys,
        reload=_reload,
    )
    return runtime, backend, dispatcher, pool


async def _reload(settings: Settings) -> None:
    return None


CLOUD: tuple[Json, ...] = ({"id": "cloud", "base_url": "https://cloud.example/v1"},)
