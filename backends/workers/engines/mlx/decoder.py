"""Continuous batching with ``mlx_lm``'s BatchGenerator, in the one thread that owns the model.

MLX's arrays belong to the thread whose stream created them, so loading, prefill, decoding and the prompt cache all
run in that thread. Other threads send sequences to it and receive tokens through callbacks.
Source: mlx_lm/generate.py and mlx_lm/models/cache.py of mlx-lm 0.32.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from backends.workers.engines.common.chunks import Token
from backends.workers.engines.common.guidance import GrammarMask
from backends.workers.program.threads import WorkerStats
from catalog.errors import RoundhouseError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MlxSampling:
    """Sampling parameters. A ``seed`` makes the result independent of other sequences in the batch."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[int, float] = field(default_factory=dict)
    seed: int | None = None
    ignore_eos: bool = False
    top_logprobs: int = 0
    stop_tokens: frozenset[int] = frozenset()
    min_tokens: int = 0
    grammar: Callable[[], Any] | None = None
    """Makes a new llguidance ``LLMatcher`` that constrains the answer."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A loaded model: the network, the ids that end an answer, and the tokens that XTC never removes."""

    model: Any
    eos: frozenset[int]
    spared: tuple[int, ...] = ()


@dataclass(slots=True, eq=False)
class _Sequence:
    prompt: list[int]
    sampling: MlxSampling
    tell: Callable[[Token | Exception], None]
    uid: int | None = None
    gone: bool = False


class Decoder:
    """Decodes many sequences together; in ``stats``, those in the batch are active."""

    def __init__(
        self, load: Callable[[], Loaded], *, slots: int, prefill_batch: int, prefill_step: int, prompt_caches: int
    ) -> None:
        self.stats = WorkerStats()
        self._load = load
        self._sizes = {
            "completion_batch_size": slots,
            "prefill_batch_size": min(prefill_batch, slots),
            "prefill_step_size": prefill_step,
        }
        self._prompt_caches = prompt_caches
        self._inbox: queue.SimpleQueue[_Sequence | None] = queue.SimpleQueue()
        self._running: dict[int, _Sequence] = {}
        self._thread = threading.Thread(target=self._run, name="mlx", daemon=True)
        self._started: Future[None] = Future()

    def start(self) -> None:
        """Start the thread and load the model in it. Raises what loading raises."""
        self._thread.start()
        self._started.result()

    def close(self) -> None:
        """End the thread after the running step."""
        self._inbox.put(None)
        self._thread.join()

    async def decode(self, prompt: list[int], sampling: MlxSampling) -> AsyncGenerator[Token]:
        """Yield tokens, the last with its ``finish``. Closing this ends the sequence after the running step."""
        told: asyncio.Queue[Token | Exception] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(item: Token | Exception) -> None:
            loop.call_soon_threadsafe(told.put_nowait, item)

        sequence = _Sequence(prompt, sampling, tell)
        self.stats.queued += 1
        self._inbox.put(sequence)
        try:
            while True:
                item = await told.get()
                if isinstance(item, Exception):
                    raise item
                yield item
                if item.finish is not None:
                    return
        finally:
            sequence.gone = True
            self._inbox.put(sequence)

    # ---- in the decoder's thread

    def _run(self) -> None:
        try:
            loaded = self._load()
            from mlx_lm.models.cache import LRUPromptCache

            caches = LRUPromptCache(self._prompt_caches) if self._prompt_caches else None
            generator = self._generator(loaded)
        except BaseException as error:  # the boundary: start() raises it in the caller's thread
            self._started.set_exception(error)
            return
        self._started.set_result(None)
        while self._receive(generator, caches, loaded):
            try:
                self._step(generator, caches)
            except Exception as error:  # the boundary: a failed step ends its batch, not the worker
                _log.error("decoding failed", exc_info=error)
                self._fail_all()
                generator = self._generator(loaded)

    def _generator(self, loaded: Loaded) -> Any:
        import mlx.core as mx
        from mlx_lm.generate import BatchGenerator

        stream = mx.default_stream(mx.default_device())
        return BatchGenerator(loaded.model, stream=stream, **self._sizes)

    def _receive(self, generator: Any, caches: Any, loaded: Loaded) -> bool:
        """Process the inbox, blocking while there is nothing to decode. Returns False to end the thread."""
        while not self._running or not self._inbox.empty():
            sequence = self._inbox.get()
            if sequence is None:
                return False
            if sequence.gone:
                self._leave(sequence, generator)
            else:
                self._enter(sequence, generator, caches, loaded)
        return True

    def _enter(self, sequence: _Sequence, generator: Any, caches: Any, loaded: Loaded) -> None:
        self.stats.queued -= 1
        prompt, sampling = sequence.prompt, sequence.sampling
        cache, rest = caches.fetch_nearest_cache("", prompt) if caches else (None, prompt)
        if not rest:  # at least the last token must be processed again, to predict the next one
            cache, rest = None, prompt
        try:
            (sequence.uid,) = generator.insert(
                [list(rest)],
                max_tokens=[sampling.max_tokens],
                caches=[cache],
                all_tokens=[list(prompt[: len(prompt) - len(rest)])],
                samplers=[sampler(sampling, loaded.spared)],
                logits_processors=[processors(sampling, loaded.eos)],
                stop_sequences=[
                    _stops((frozenset() if sampling.ignore_eos else loaded.eos) | sampling.stop_tokens)
                ],
            )
        except Exception as error:  # the boundary: one request's parameters must not end the thread
            _log.error("a sequence was rejected", exc_info=error)
            self.stats.failed += 1
            sequence.tell(RoundhouseError("The worker failed at this request; its log says why."))
            return
        self._running[sequence.uid] = sequence
        self.stats.active += 1

    def _leave(self, sequence: _Sequence, generator: Any) -> None:
        if sequence.uid is not None and self._running.pop(sequence.uid, None) is not None:
            generator.remove([sequence.uid])
            self.stats.active -= 1
            self.stats.cancelled += 1

    def _step(self, generator: Any, caches: Any) -> None:
        _, responses = generator.next()
        for response in responses:
            sequence = self._running[response.uid]
            wanted = sequence.sampling.top_logprobs
            token = Token(
                id=response.token,
                logprob=response.logprobs[response.token].item(),
                top=tuple(likeliest(response.logprobs, wanted)) if wanted else (),
                finish=response.finish_reason,
            )
            if token.finish is not None:
                del self._running[response.uid]
                self.stats.active -= 1
                self.stats.done += 1
                if caches:
                    caches.insert_cache("", list(response.all_tokens), response.prompt_cache)
            sequence.tell(token)

    def _fail_all(self) -> None:
        failed, self._running = list(self._running.values()), {}
        self.stats.active -= len(failed)
        self.stats.failed += len(failed)
        for sequence in failed:
            sequence.tell(RoundhouseError("The worker failed while it decoded; its log says why."))


def sampler(sampling: MlxSampling, spared: tuple[int, ...]) -> Callable[[Any], Any]:
    """Make a function that samples from log probabilities [1, vocabulary], with its own random key if seeded."""
    import mlx.core as mx
    from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p, apply_xtc

    if sampling.temperature == 0:
        return lambda logprobs: mx.argmax(logprobs, axis=-1)
    keys = _keys(sampling.seed)

    def choose(logprobs: Any) -> Any:
        if 0 < sampling.top_p < 1:
            logprobs = apply_top_p(logprobs, sampling.top_p)
        if sampling.min_p > 0:
            logprobs = apply_min_p(logprobs, sampling.min_p)
        if sampling.xtc_probability > 0:
            logprobs = apply_xtc(logprobs, sampling.xtc_probability, sampling.xtc_threshold, list(spared))
        if 0 < sampling.top_k < logprobs.shape[-1]:
            logprobs = apply_top_k(logprobs, sampling.top_k)
        return mx.random.categorical(logprobs / sampling.temperature, key=next(keys))

    return choose


def _keys(seed: int | None) -> Iterator[Any]:
    import mlx.core as mx

    if seed is None:
        while True:
            yield None
    key = mx.random.key(seed % 2**64)
    while True:
        key, use = mx.random.split(key)
        yield use


def processors(sampling: MlxSampling, eos: frozenset[int]) -> list[Callable[[Any, Any], Any]]:
    """Make the functions that modify the logits [1, vocabulary] of one sequence before sampling."""
    import mlx.core as mx
    from mlx_lm.sample_utils import make_logits_processors

    penalty = sampling.repeat_penalty
    made: list[Callable[[Any, Any], Any]] = make_logits_processors(
        logit_bias=sampling.logit_bias or None,
        repetition_penalty=None if penalty == 1 else penalty,
        repetition_context_size=64,
        presence_penalty=sampling.presence_penalty,
        presence_context_size=sampling.max_tokens,
        frequency_penalty=sampling.frequency_penalty,
        frequency_context_size=sampling.max_tokens,
    )
    ends = (frozenset() if sampling.ignore_eos else eos) | sampling.stop_tokens
    if sampling.ignore_eos:
        made.append(lambda _, logits: logits.at[:, mx.array(sorted(eos))].add(-float("inf")))
    if sampling.min_tokens and ends:
        made.append(_later(mx.array(sorted(ends)), sampling.min_tokens))
    if sampling.grammar is not None:
        made.append(_bound(GrammarMask(sampling.grammar(), ends)))
    return made


def _bound(mask: GrammarMask) -> Callable[[Any, Any], Any]:
    import mlx.core as mx

    def bind(tokens: Any, logits: Any) -> Any:
        allowed = mask.allowed(int(tokens[-1].item()), logits.shape[-1])
        return mx.where(mx.array(allowed), logits, -float("inf"))

    return bind


def _later(ends: Any, least: int) -> Callable[[Any, Any], Any]:
    """A function that keeps the ends of an answer away from its first ``least`` tokens."""
    count = 0

    def wait(_: Any, logits: Any) -> Any:
        nonlocal count
        count += 1
        return logits if count > least else logits.at[:, ends].add(-float("inf"))

    return wait


def _stops(eos: frozenset[int]) -> Any:
    from mlx_lm.generate import StopSequences

    return StopSequences([(token,) for token in sorted(eos)])


def likeliest(logprobs: Any, count: int) -> Iterator[tuple[int, float]]:
    """The likeliest tokens with their log probabilities, in descending order."""
    import mlx.core as mx

    found = mx.argpartition(-logprobs, kth=count - 1)[:count]
    values = logprobs[found]
    return iter(sorted(zip(found.tolist(), values.tolist(), strict=True), key=lambda pair: -pair[1]))
