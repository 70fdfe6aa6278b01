"""Wraps ``llama_cpp.Llama`` for the engine ``llama-cpp-python``: prompts, tokens, sampling, logprobs, grammars.

Source: llama_cpp/llama.py, llama_chat_format.py and llama_grammar.py of llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np

from backends.workers.engines.common.chunks import Token
from backends.workers.engines.common.guidance import GrammarMask, matcher_factory
from catalog.errors import (
    CapabilityMismatch,
    EngineMissing,
    InvalidRequest,
    ModelUnavailable,
)
from catalog.types import Json


@dataclass(frozen=True, slots=True)
class LlamaSampling:
    """Sampling parameters. The defaults are llama-server's, so that a GGUF behaves the same in both engines."""

    max_tokens: int
    seed: int
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    ignore_eos: bool = False
    top_logprobs: int | None = None
    """Number of likeliest alternatives per token; ``None``: no logprobs at all."""
    stop_tokens: frozenset[int] = frozenset()
    min_tokens: int = 0
    grammar: Callable[[], Any] | None = None
    """Makes a new llguidance ``LLMatcher`` that constrains the answer."""


class LlamaModel:
    """A loaded GGUF. ``decode`` may run in one thread at a time; the other methods are thread-safe."""

    def __init__(self, model_id: str, settings: Mapping[str, Any], template: str | None) -> None:
        """Load the model; ``template`` replaces its own chat template. Raises EngineMissing, ModelUnavailable."""
        try:
            import llama_cpp
        except ImportError as error:
            raise EngineMissing("llama-cpp-python", extra="llama-cpp-python", package=error.name) from None
        self._library = llama_cpp
        self._id = model_id
        try:
            self._llama = llama_cpp.Llama(**settings)
        except (ValueError, RuntimeError, AssertionError, OSError) as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise ModelUnavailable(f"llama_cpp cannot open '{model_id}': {reason}") from error
        self.window: int = self._llama.n_ctx()
        self._vocabulary: int = self._llama.n_vocab()
        self._vocab = self._llama._model.vocab
        self._ends = frozenset(
            token for token in range(self._vocabulary) if llama_cpp.llama_vocab_is_eog(self._vocab, token)
        )
        self._formatter = self._chat_formatter(template)
        self._guide: Any = None
        self._guiding = Lock()

    # ---- prompts and tokens

    def chat_prompt(self, messages: list[Json], arguments: Mapping[str, Any]) -> list[int]:
        """Tokenise a chat. Raises CapabilityMismatch without a template, InvalidRequest if it fails."""
        if self._formatter is None:
            raise CapabilityMismatch(f"'{self._id}' has no chat template.", param="model")
        from jinja2.exceptions import TemplateError

        try:
            text = self._formatter(messages=messages, **arguments).prompt
        except (TemplateError, TypeError, ValueError) as error:
            raise InvalidRequest(
                f"The model's chat template refuses these messages: {str(error)[:200]}", param="messages"
            ) from error
        return self.tokenize(text, bos=False, special=True)

    def prompt(self, given: Any) -> list[int]:
        """Tokenise a completion's prompt. Raises InvalidRequest for none, several, or unknown tokens."""
        ids = self.tokenize(given, bos=True, special=True) if isinstance(given, str) else given
        if not ids or not all(isinstance(token, int) for token in ids):
            raise InvalidRequest("A worker takes one prompt, and it must not be empty.", param="prompt")
        self.check(ids, "prompt")
        return list(ids)

    def check(self, ids: Sequence[int], param: str) -> None:
        """Check token ids. Raises InvalidRequest for one outside the vocabulary."""
        if ids and not 0 <= min(ids) <= max(ids) < self._vocabulary:
            raise InvalidRequest(f"A token is not one of this model's {self._vocabulary}.", param=param)

    def tokenize(self, text: str, *, bos: bool, special: bool) -> list[int]:
        ids: list[int] = self._llama.tokenize(text.encode(), add_bos=bos, special=special)
        return ids

    def raw(self, ids: list[int]) -> bytes:
        """Return the bytes of tokens, including special ones; tokenising them gives the same tokens."""
        return b"".join(self._piece(token, special=True) for token in ids)

    def text(self, ids: list[int]) -> str:
        """Return the text of tokens without special ones; U+FFFD replaces incomplete characters."""
        return b"".join(self._piece(token, special=False) for token in ids).decode(errors="replace")

    def bias(self, given: Any) -> dict[int, float]:
        """Parse ``logit_bias``. Raises InvalidRequest for a token outside the vocabulary."""
        bias = {int(token): float(value) for token, value in dict(given or {}).items()}
        self.check(tuple(bias), "logit_bias")
        return bias

    def stops(self, given: Sequence[int] | None) -> frozenset[int]:
        """The tokens that end an answer beside the model's own. Raises InvalidRequest for an unknown one."""
        self.check(given or (), "stop_token_ids")
        return frozenset(given or ())

    def grammar(self, grammar: str) -> Callable[[], Any]:
        """Make the function that starts a Lark grammar. Raises UnsupportedParameter if it does not compile."""
        from llguidance.llamacpp import lltokenizer_from_vocab

        with self._guiding:
            if self._guide is None:
                self._guide = lltokenizer_from_vocab(self._vocab)
        return matcher_factory(self._guide, grammar)

    # ---- decoding

    def decode(self, prompt: list[int], sampling: LlamaSampling) -> Iterator[Token]:
        """Yield tokens until the model ends or ``max_tokens``; the last one has its ``finish``."""
        self._llama.set_seed(sampling.seed)
        generated = self._llama.generate(
            prompt,
            top_k=max(0, sampling.top_k),
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            typical_p=sampling.typical_p,
            temp=sampling.temperature,
            repeat_penalty=sampling.repeat_penalty,
            frequency_penalty=sampling.frequency_penalty,
            presence_penalty=sampling.presence_penalty,
            logits_processor=self._processors(sampling),
        )
        for count, token in enumerate(generated, start=1):
            logprob, top = self._logprobs(token, sampling.top_logprobs)
            if token in self._ends or token in sampling.stop_tokens:
                yield Token(token, logprob, top, "stop")
                return
            last = count == sampling.max_tokens
            yield Token(token, logprob, top, "length" if last else None)
            if last:
                return

    def _logprobs(self, token: int, count: int | None) -> tuple[float, tuple[tuple[int, float], ...]]:
        if count is None:
            return 0.0, ()
        # The logits are still those of this token: the next step runs when the generator continues.
        pointer = self._library.llama_get_logits_ith(self._llama.ctx, -1)
        logits = np.ctypeslib.as_array(pointer, shape=(self._vocabulary,)).astype(np.float64)
        logprobs = logits - np.logaddexp.reduce(logits)
        best = np.argsort(-logprobs)[:count]
        return float(logprobs[token]), tuple((int(each), float(logprobs[each])) for each in best)

    def _processors(self, sampling: LlamaSampling) -> Any:
        """The functions that change the scores [vocabulary] of the next token, given the tokens before it."""
        made: list[Callable[[Any, Any], Any]] = []
        bias = dict(sampling.logit_bias)
        if sampling.ignore_eos:
            bias |= dict.fromkeys(self._ends, -np.inf)
        if bias:
            made.append(_adding(bias))
        if sampling.min_tokens:
            made.append(_later(self._ends | sampling.stop_tokens, sampling.min_tokens))
        if sampling.grammar is not None:
            made.append(_bound(GrammarMask(sampling.grammar(), self._ends)))
        return self._library.LogitsProcessorList(made) if made else None

    def _piece(self, token: int, *, special: bool) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            written: int = self._library.llama_token_to_piece(self._vocab, token, buffer, size, 0, special)
            if written >= 0:
                return buffer.raw[:written]
            size = -written

    def _chat_formatter(self, template: str | None) -> Any:
        template = template or self._llama.metadata.get("tokenizer.chat_template")
        if template is None:
            return None
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        def written(token: int) -> str:
            return self._piece(token, special=True).decode(errors="replace") if token >= 0 else ""

        return Jinja2ChatFormatter(
            template=template,
            bos_token=written(self._llama.token_bos()),
            eos_token=written(self._llama.token_eos()),
        )


def _adding(bias: Mapping[int, float]) -> Callable[[Any, Any], Any]:
    places, values = np.array(list(bias)), np.array(list(bias.values()), dtype=np.float32)

    def add(_: Any, scores: Any) -> Any:
        biased = scores.copy()
        biased[places] += values
        return biased

    return add


def _later(ends: frozenset[int], least: int) -> Callable[[Any, Any], Any]:
    """A function that keeps the ends of an answer away from its first ``least`` tokens."""
    count, places = 0, sorted(ends)

    def wait(_: Any, scores: Any) -> Any:
        nonlocal count
        count += 1
        if count > least:
            return scores
        later = scores.copy()
        later[places] = -np.inf
        return later

    return wait


def _bound(mask: GrammarMask) -> Callable[[Any, Any], Any]:
    def bind(tokens: Any, scores: Any) -> Any:
        return np.where(mask.allowed(int(tokens[-1]), len(scores)), scores, -np.inf).astype(np.float32)

    return bind
