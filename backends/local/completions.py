"""Adapts completions of llama-server to OpenAI's API: ``n``, ``best_of``, ``echo`` and ``suffix``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backends.local.logprobs import legacy_logprobs
from backends.wire.completions import CompletionRequest
from catalog.errors import InvalidRequest, UnsupportedParameter
from catalog.types import Json

DEFAULT_MAX_TOKENS = 16
"""OpenAI's default; without a bound, llama-server would fill its context window."""

Prompt = str | list[int]


@dataclass(frozen=True, slots=True)
class ChoiceCall:
    """One call: the ``index`` of the choice it makes, its prompt and the prompt's ``position``, and its body."""

    index: int
    position: int
    prompt: Prompt
    body: Json


def prompts_of(request: CompletionRequest) -> list[Prompt]:
    """The prompts, one or many."""
    prompt: Any = request.prompt
    if isinstance(prompt, str) or isinstance(prompt[0], int):
        return [prompt]
    return list(prompt)


def calls_of(request: CompletionRequest, body: Json) -> list[ChoiceCall]:
    """The calls that answer a request, ``best_of`` (or ``n``) for each prompt.

    Raises InvalidRequest or UnsupportedParameter for parameters that exclude each other.
    """
    count = request.n or 1
    tries = request.best_of or count
    if tries < count:
        raise InvalidRequest("best_of must not be smaller than n.", param="best_of")
    if request.suffix is not None and request.logprobs is not None:
        raise UnsupportedParameter("Local models give no logprobs together with a suffix.", param="logprobs")
    single = {name: value for name, value in body.items() if name not in _OURS}
    single.setdefault("max_tokens", DEFAULT_MAX_TOKENS)
    if request.logprobs is not None or tries > count:
        single["logprobs"] = max(1, request.logprobs or 0)
    calls: list[ChoiceCall] = []
    for position, prompt in enumerate(prompts_of(request)):
        for number in range(tries):
            own = {**single, "prompt": prompt}
            if request.seed is not None:
                own["seed"] = (request.seed + number) % 2**32
            calls.append(ChoiceCall(position * tries + number, position, prompt, own))
    return calls


def refuse_empty(tokens: int, model: str) -> None:
    """Raises InvalidRequest for an empty prompt without ``tokens``: some models have none that begins a text."""
    if not tokens:
        raise InvalidRequest(
            f"'{model}' has no token that begins a text, so it cannot go on from an empty prompt. Send a prompt "
            "of one character at least.",
            param="prompt",
        )


_OURS = frozenset({"n", "best_of", "echo", "suffix", "stream_options"})


@dataclass(slots=True)
class TextWriter:
    """Makes the chunks of one choice regular: index, legacy logprobs with offsets, a completion's id."""

    index: int
    logprobs: int | None
    offset: int = 0

    def regular(self, chunk: Json) -> Json:
        chunk.pop("timings", None)
        chunk["object"] = "text_completion"
        chunk["id"] = "cmpl-" + str(chunk.get("id", "")).removeprefix("chatcmpl-").removeprefix("cmpl-")
        for choice in chunk.get("choices") or ():
            given = choice.get("logprobs")
            choice["index"] = self.index
            choice["logprobs"] = (
                legacy_logprobs(given, top=self.logprobs, offset=self.offset)
                if self.logprobs is not None
                else None
            )
            self.offset += len(choice.get("text") or "")
        return chunk


def mean_logprob(chunks: list[Json]) -> float:
    """The mean log probability of a choice's tokens, by which ``best_of`` chooses."""
    values = [
        value
        for chunk in chunks
        for choice in chunk.get("choices") or ()
        for value in (choice.get("logprobs") or {}).get("token_logprobs") or ()
    ]
    return sum(values) / len(values) if values else float("-inf")


def infill_body(call: ChoiceCall, suffix: str) -> Json:
    """The body of llama-server's ``/infill``: text between a prefix and a suffix."""
    body = {name: value for name, value in call.body.items() if name not in ("prompt", "max_tokens", "model")}
    return {**body, "input_prefix": call.prompt, "input_suffix": suffix, "n_predict": call.body["max_tokens"]}


def infill_chunk(event: Json, head: Json) -> Json:
    """The completion chunk of an event of llama-server's native stream."""
    finish = None
    if event.get("stop"):
        finish = "length" if event.get("stop_type") == "limit" else "stop"
    choice = {"index": 0, "text": event.get("content") or "", "logprobs": None, "finish_reason": finish}
    chunk = {**head, "choices": [choice]}
    if finish is not None:
        used, made = event.get("tokens_evaluated", 0), event.get("tokens_predicted", 0)
        chunk["usage"] = {"prompt_tokens": used, "completion_tokens": made, "total_tokens": used + made}
    return chunk
