"""Classifies and moderates texts with a chat model of llama.cpp, by the likelihoods of its answers.

The labels' tokens form a prefix tree. At each fork llama-server gives the probabilities of the next tokens in the
tree, with all others ruled out; a label's probability is the product along its path, so those of the labels sum to
1, and "not positive" is not taken for "positive". A model prefers some labels whatever the text, small models
strongly, so each probability is divided by the label's probability after texts without content: contextual
calibration, Zhao et al. 2021, "Calibrate Before Use" (https://arxiv.org/abs/2102.09690).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from backends.base import Upstream
from backends.http import HttpClient
from backends.http.errors import ErrorReader
from backends.local.merge import gathered
from backends.openai.backend import checked
from backends.parameters import refuse_forbidden
from backends.wire.classify import NO_LABELS, ClassifyRequest
from backends.wire.common import WireModel
from catalog.errors import InvalidRequest, UpstreamProtocolError
from catalog.moderation.categories import CATEGORIES
from catalog.types import Json

AT_ONCE = 4
"""The most texts of one request that are worked on at a time."""
NOTHING = ("N/A", "[MASK]", " ")
"""The texts without content: the article's, whose third is empty."""
_ONLY_THESE = 100.0
"""Added to the logits of a fork's tokens, which leaves less than 1e-30 for all others."""
_LIKELIEST = 512
"""Next tokens to ask for where one label is the beginning of another."""
_LEAST = 1e-12
"""The smallest probability of a branch, so that no label's is zero."""
_MAX_KNOWN = 64
_USED = frozenset({"model", "input", "labels", "routing", "strict"})

Probabilities = NDArray[np.float64]
Tokens = tuple[int, ...]


def left_out(request: WireModel) -> tuple[str, ...]:
    """The fields of a request that likelihoods do not use."""
    return tuple(sorted({*(request.model_extra or ()), *request.model_fields_set} - _USED))


class Likelihoods:
    """Classifies over the worker's own paths; ``root`` is the worker's address without ``/v1``."""

    def __init__(self, http: HttpClient, errors: ErrorReader) -> None:
        self._http = http
        self._errors = errors
        self._bias: OrderedDict[tuple[str, str, str, tuple[str, ...]], Probabilities] = OrderedDict()

    async def classify(self, root: Upstream, request: ClassifyRequest) -> Json:
        """See :class:`backends.base.Classify`.

        Raises ContextLengthExceeded for a text that does not fit, InvalidRequest for a forbidden field.
        """
        refuse_forbidden(request)
        if request.labels is None:
            raise InvalidRequest(NO_LABELS, param="labels")
        labels = tuple(label.strip() for label in request.labels)
        tree = await self._tree(root, labels, partial(_which, labels))
        bias = await self._bias_of(tree)
        found = await gathered([tree.probabilities(text) for text in request.texts()], at_once=AT_ONCE)
        used = sum(tokens for _, tokens in found)
        return {
            "data": [
                {"index": index, "scores": _shares(weights / bias)} for index, (weights, _) in enumerate(found)
            ],
            "labels": request.labels,
            "scoring": "likelihood",
            "usage": {"prompt_tokens": used, "total_tokens": used},
        }

    async def moderate(self, root: Upstream, texts: Sequence[str]) -> tuple[list[dict[str, float]], int]:
        """The probability of each category of OpenAI's for each text, and the number of prompt tokens.

        It is that of "yes" as the answer to a question about the text. A model that prefers "yes" for texts
        without content has its odds divided by those, so that such texts are not above a half. An empty text is
        not asked about. Raises ContextLengthExceeded for a text that does not fit.
        """
        scores: list[dict[str, float]] = [{} for _ in texts]
        used = 0
        for category, told in CATEGORIES.items():
            # The text comes first, so that the worker keeps it in its cache from one category to the next.
            tree = await self._tree(root, ("yes", "no"), partial(_whether, told))
            bias = await self._bias_of(tree, category)
            excess = max(1.0, bias[0] / max(bias[1], _LEAST))
            asked = [index for index, text in enumerate(texts) if text.strip()]
            found = await gathered([tree.probabilities(texts[index]) for index in asked], at_once=AT_ONCE)
            for index, ((yes, no), tokens) in zip(asked, found, strict=True):
                scores[index][category] = float(yes / (yes + no * excess))
                used += tokens
        return scores, used

    async def _tree(self, root: Upstream, labels: tuple[str, ...], ask: Callable[[str], str]) -> _LabelTree:
        paths = await gathered([self._tokens(root, label, special=False) for label in labels], at_once=AT_ONCE)
        return _LabelTree(self, root, labels, [tuple(path) for path in paths], ask)

    async def _bias_of(self, tree: _LabelTree, about: str = "") -> Probabilities:
        key = tree.root.uds or tree.root.base_url, tree.root.model, about, tree.labels
        known = self._bias.get(key)
        if known is None:
            found = await gathered([tree.probabilities(text) for text in NOTHING], at_once=AT_ONCE)
            known = self._bias[key] = np.mean([weights for weights, _ in found], axis=0)
            if len(self._bias) > _MAX_KNOWN:
                self._bias.popitem(last=False)
        return known

    # ---- the worker's paths

    async def prompt(self, root: Upstream, question: str) -> Tokens:
        """The tokens after which the model would answer."""
        body = {
            "messages": [{"role": "user", "content": question}],
            "chat_template_kwargs": {"enable_thinking": False},
        }
        filled = await self._post(root, "/apply-template", body)
        return tuple(await self._tokens(root, filled["prompt"], special=True))

    async def fork(self, root: Upstream, before: Tokens, onward: Sequence[int]) -> dict[int, float]:
        """The probability of each token of ``onward`` after ``before``, given that one of them comes."""
        only = {"logit_bias": [[token, _ONLY_THESE] for token in onward], "post_sampling_probs": True}
        return await self._next(root, before, len(onward), only)

    async def end(self, root: Upstream, before: Tokens, onward: Sequence[int]) -> float:
        """The probability that none of the tokens ``onward`` comes after ``before``."""
        likeliest = await self._next(root, before, _LIKELIEST, {})
        return 1.0 - sum(likeliest.get(token, 0.0) for token in onward)

    async def _next(self, root: Upstream, before: Tokens, count: int, more: Json) -> dict[int, float]:
        """The probabilities of the ``count`` likeliest tokens after ``before``."""
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
            first = answer["completion_probabilities"][0]
            if "top_probs" in first:
                return {int(row["id"]): float(row["prob"]) for row in first["top_probs"]}
            return {int(row["id"]): math.exp(row["logprob"]) for row in first["top_logprobs"]}
        except (IndexError, KeyError, TypeError, ValueError):
            raise UpstreamProtocolError(f"The worker of '{root.model}' sent no probabilities of tokens.") from None

    async def _tokens(self, root: Upstream, text: str, *, special: bool) -> list[int]:
        body = {"content": text, "add_special": special, "parse_special": special}
        tokens: list[int] = (await self._post(root, "/tokenize", body))["tokens"]
        return tokens

    async def _post(self, root: Upstream, path: str, body: Json) -> Json:
        return checked(await self._http.post_json(root, path, body, errors=self._errors), "", root)


def _which(labels: Sequence[str], text: str) -> str:
    question = f"Which one of these labels describes the text best: {', '.join(labels)}?"
    return f"{question}\n\nText: {text}\n\nAnswer with the label alone."


def _whether(told: str, text: str) -> str:
    return f"Text: {text}\n\nIs this true: the text {told}? Answer with yes or no alone."


class _LabelTree:
    """The labels of one request, with the paths of their tokens."""

    def __init__(
        self,
        parent: Likelihoods,
        root: Upstream,
        labels: tuple[str, ...],
        paths: list[Tokens],
        ask: Callable[[str], str],
    ) -> None:
        self.root = root
        self.labels = labels
        self._parent = parent
        self._paths = paths
        self._ask = ask

    async def probabilities(self, text: str) -> tuple[Probabilities, int]:
        """The probability of each label after a text, shape (labels,), and the number of the prompt's tokens."""
        before = await self._parent.prompt(self.root, self._ask(text))
        weights = np.ones(len(self._paths))
        forks: list[tuple[int, list[int]]] = [(0, list(range(len(self._paths))))]
        while forks:
            depth, members = forks.pop()
            ended = [member for member in members if len(self._paths[member]) == depth]
            onward: dict[int, list[int]] = {}
            for member in members:
                if len(self._paths[member]) > depth:
                    onward.setdefault(self._paths[member][depth], []).append(member)
            here = before + self._paths[members[0]][:depth]
            if ended and onward:
                end = min(max(await self._parent.end(self.root, here, list(onward)), _LEAST), 1.0)
                weights[ended] *= end
                weights[[member for group in onward.values() for member in group]] *= max(1.0 - end, _LEAST)
            if len(onward) > 1:
                branches = await self._parent.fork(self.root, here, list(onward))
                for token, group in onward.items():
                    weights[group] *= max(branches.get(token, 0.0), _LEAST)
            forks += [(depth + 1, group) for group in onward.values() if len(group) > 1]
        return weights / weights.sum(), len(before)


def _shares(weights: Probabilities) -> list[float]:
    return [float(share) for share in weights / weights.sum()]
