"""Texts under labels by a chat model of llama.cpp: how likely each label is as its answer.

The labels' tokens make a tree. At each fork llama-server is asked for the chances of the tokens that lead on, all
others ruled out; a label's chance is the product along its way, so the labels' chances sum to 1 and "not positive"
is not taken for "positive". A model prefers some labels whatever it reads, small ones strongly, so each chance is
divided by the label's chance for texts that say nothing: contextual calibration, Zhao et al. 2021, "Calibrate
Before Use" (https://arxiv.org/abs/2102.09690).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from backends.base import Upstream
from backends.http import HttpClient
from backends.http.errors import ErrorReader
from backends.local.merge import gathered
from backends.openai.backend import checked
from backends.parameters import refuse_forbidden
from backends.wire.classify import ClassifyRequest
from catalog.errors import UpstreamProtocolError
from catalog.types import Json

AT_ONCE = 4
"""Texts that are worked on at a time."""
NOTHING = ("N/A", "[MASK]", " ")
"""The texts that say nothing: the article's, whose third is empty."""
_ONLY_THESE = 100.0
"""Added to the logits of a fork's tokens: what is left for all others is below 1e-30."""
_LIKELIEST = 512
_LEAST = 1e-12
_MAX_KNOWN = 64
_USED = frozenset({"model", "input", "labels", "routing", "strict"})

Chances = NDArray[np.float64]
Tokens = tuple[int, ...]


def left_out(request: ClassifyRequest) -> tuple[str, ...]:
    """The fields of a request that likelihoods have no use for."""
    return tuple(sorted({*(request.model_extra or ()), *request.model_fields_set} - _USED))


class Likelihoods:
    """Classifies over the worker's own paths, to which the upstreams given here lead."""

    def __init__(self, http: HttpClient, errors: ErrorReader) -> None:
        self._http = http
        self._errors = errors
        self._bias: OrderedDict[tuple[str, str, tuple[str, ...]], Chances] = OrderedDict()

    async def classify(self, root: Upstream, request: ClassifyRequest) -> Json:
        """As :class:`backends.base.Classify`. Raises ContextLengthExceeded for a text that does not fit.

        Raises InvalidRequest for a field that no request may have.
        """
        refuse_forbidden(request)
        labels = tuple(label.strip() for label in request.labels)
        ways = await gathered([self._tokens(root, label, special=False) for label in labels], at_once=AT_ONCE)
        asked = _Asked(self, root, labels, [tuple(way) for way in ways])
        bias = await self._bias_of(asked)
        found = await gathered([asked.chances(text) for text in request.texts()], at_once=AT_ONCE)
        used = sum(tokens for _, tokens in found)
        return {
            "data": [
                {"index": index, "scores": _shares(chances / bias)} for index, (chances, _) in enumerate(found)
            ],
            "scoring": "likelihood",
            "usage": {"prompt_tokens": used, "total_tokens": used},
        }

    async def _bias_of(self, asked: _Asked) -> Chances:
        key = asked.root.uds or asked.root.base_url, asked.root.model, asked.labels
        known = self._bias.get(key)
        if known is None:
            found = await gathered([asked.chances(text) for text in NOTHING], at_once=AT_ONCE)
            known = self._bias[key] = np.mean([chances for chances, _ in found], axis=0)
            if len(self._bias) > _MAX_KNOWN:
                self._bias.popitem(last=False)
        return known

    # ---- the worker's paths

    async def prompt(self, root: Upstream, text: str, labels: Sequence[str]) -> Tokens:
        """The tokens after which the model would name a label."""
        said = (
            f"Which one of these labels describes the text best: {', '.join(labels)}?\n\nText: {text}\n\n"
            "Answer with the label alone."
        )
        body = {
            "messages": [{"role": "user", "content": said}],
            "chat_template_kwargs": {"enable_thinking": False},
        }
        told = await self._post(root, "/apply-template", body)
        return tuple(await self._tokens(root, told["prompt"], special=True))

    async def fork(self, root: Upstream, before: Tokens, onward: Sequence[int]) -> dict[int, float]:
        """The chance of each token of ``onward`` to come next, when it is one of them."""
        only = {"logit_bias": [[token, _ONLY_THESE] for token in onward], "post_sampling_probs": True}
        return await self._next(root, before, len(onward), only)

    async def end(self, root: Upstream, before: Tokens, onward: Sequence[int]) -> float:
        """The chance that none of the tokens ``onward`` comes next."""
        likeliest = await self._next(root, before, _LIKELIEST, {})
        return 1.0 - sum(likeliest.get(token, 0.0) for token in onward)

    async def _next(self, root: Upstream, before: Tokens, count: int, more: Json) -> dict[int, float]:
        body = {
            "prompt": list(before),
            "n_predict": 1,
            "n_probs": count,
            "temperature": 1.0,
            "samplers": ["temperature"],
            "cache_prompt": True,
            **more,
        }
        answer = await self._post(root, "/completion", body)
        try:
            said = answer["completion_probabilities"][0]
            if "top_probs" in said:
                return {int(row["id"]): float(row["prob"]) for row in said["top_probs"]}
            return {int(row["id"]): math.exp(row["logprob"]) for row in said["top_logprobs"]}
        except (IndexError, KeyError, TypeError, ValueError):
            raise UpstreamProtocolError(f"The worker of '{root.model}' told no chances of tokens.") from None

    async def _tokens(self, root: Upstream, text: str, *, special: bool) -> list[int]:
        body = {"content": text, "add_special": special, "parse_special": special}
        tokens: list[int] = (await self._post(root, "/tokenize", body))["tokens"]
        return tokens

    async def _post(self, root: Upstream, path: str, body: Json) -> Json:
        return checked(await self._http.post_json(root, path, body, errors=self._errors), "", root)


class _Asked:
    """The labels of one request, and the ways of their tokens."""

    def __init__(self, parent: Likelihoods, root: Upstream, labels: tuple[str, ...], ways: list[Tokens]) -> None:
        self.root = root
        self.labels = labels
        self._parent = parent
        self._ways = ways

    async def chances(self, text: str) -> tuple[Chances, int]:
        """The chance of each label after a text, and how many tokens were read for it."""
        before = await self._parent.prompt(self.root, text, self.labels)
        chances = np.ones(len(self._ways))
        forks: list[tuple[int, list[int]]] = [(0, list(range(len(self._ways))))]
        while forks:
            depth, members = forks.pop()
            ended = [member for member in members if len(self._ways[member]) == depth]
            onward: dict[int, list[int]] = {}
            for member in members:
                if len(self._ways[member]) > depth:
                    onward.setdefault(self._ways[member][depth], []).append(member)
            here = before + self._ways[members[0]][:depth]
            if ended and onward:
                end = min(max(await self._parent.end(self.root, here, list(onward)), _LEAST), 1.0)
                chances[ended] *= end
                chances[[member for group in onward.values() for member in group]] *= max(1.0 - end, _LEAST)
            if len(onward) > 1:
                told = await self._parent.fork(self.root, here, list(onward))
                for token, group in onward.items():
                    chances[group] *= max(told.get(token, 0.0), _LEAST)
            forks += [(depth + 1, group) for group in onward.values() if len(group) > 1]
        return chances / chances.sum(), len(before)


def _shares(weights: Chances) -> list[float]:
    return [float(share) for share in weights / weights.sum()]
