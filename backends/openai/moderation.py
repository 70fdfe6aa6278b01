"""Verdicts of moderation in OpenAI's shape, from a provider's answer or from the scores of a classifier."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from secrets import token_hex
from types import MappingProxyType
from typing import Any

from backends.base import Upstream
from backends.wire.classify import ClassifyRequest
from backends.wire.moderation.request import ModerationRequest
from catalog.errors import CapabilityMismatch, UpstreamProtocolError
from catalog.model import Capability
from catalog.moderation.categories import CATEGORIES, Moderation
from catalog.types import Json

THRESHOLD = 0.75
"""The probability of "yes" from which a chat model flags a category; a small model's guesses stay below."""

_OTHER_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "hate_and_discrimination": "hate",
        "violence_and_threats": "violence",
        "dangerous_and_criminal_content": "illicit",
        "dangerous": "illicit/violent",
        "criminal": "illicit",
        "selfharm": "self-harm",
    }
)
"""Mistral's names of OpenAI's categories. Source: Mistral's page on moderation."""


def moderation_list(document: Json, request: ModerationRequest, upstream: Upstream) -> Json:
    """A provider's answer with every category of OpenAI's. Raises UpstreamProtocolError for another shape.

    A category that the provider does not judge is false, with a score of 0 and no applied input type. Its
    categories beyond OpenAI's stay, and do not flag a content.
    """
    rows = document.get("results")
    if not isinstance(rows, list) or len(rows) != len(request.texts()):
        raise _wrong(upstream, "a number of verdicts that differs from the number of contents")
    return _answer([_verdict_of(row, upstream) for row in rows], document.get("id"), document.get("usage"))


def _verdict_of(row: Any, upstream: Upstream) -> Json:
    categories, scores = (row.get(name) if isinstance(row, dict) else None for name in _MAPS)
    if not isinstance(categories, dict) or not isinstance(scores, dict):
        raise _wrong(upstream, "a verdict without categories and scores")
    if not all(isinstance(value, bool | None) for value in categories.values()):
        raise _wrong(upstream, "a category that is neither true nor false")
    if not all(type(score) in (int, float) and math.isfinite(score) for score in scores.values()):
        raise _wrong(upstream, "a score that is not a number")
    flags: dict[str, bool] = dict.fromkeys(CATEGORIES, False)
    found: dict[str, float] = dict.fromkeys(CATEGORIES, 0.0)
    judged: dict[str, list[str]] = {name: [] for name in CATEGORIES}
    types = row.get("category_applied_input_types")
    for own in categories.keys() | scores.keys():
        name = _OTHER_NAMES.get(own, own)
        flags[name] = flags.get(name, False) or bool(categories.get(own))
        found[name] = max(found.get(name, 0.0), scores.get(own, 0.0))
        given = types.get(own) if isinstance(types, dict) else None
        judged[name] = given if isinstance(given, list) else ["text"] if types is None else []
    told = row.get("flagged")
    flagged = told if isinstance(told, bool) else any(flags[name] for name in CATEGORIES)
    return {
        "flagged": flagged,
        "categories": flags,
        "category_scores": found,
        "category_applied_input_types": judged,
    }


_MAPS = ("categories", "category_scores")


def texts_of(request: ModerationRequest, upstream: Upstream) -> list[str]:
    """The texts to classify. Raises CapabilityMismatch for a picture, which no classifier of texts can judge."""
    if request.has_images:
        error = CapabilityMismatch(
            f"'{upstream.model}' judges texts alone; ask OpenAI's omni-moderation-latest about pictures.",
            param="input",
        )
        error.lacks = frozenset({Capability.VISION})
        raise error
    return request.texts()


async def by_classifier(
    classify: Callable[[Upstream, ClassifyRequest], Awaitable[Json]],
    upstream: Upstream,
    request: ModerationRequest,
    moderation: Moderation,
) -> Json:
    """The verdicts by the scores of a classifier's labels. A category has the highest score of its labels.

    An empty text has the score 0 everywhere. Raises as ``classify`` does, and as :func:`texts_of`.
    """
    texts = texts_of(request, upstream)
    classified: Json = {"data": []}
    if given := [text for text in texts if text.strip()]:
        fields = {"model": request.model, "input": given, "labels": list(moderation.labels)}
        asked = ClassifyRequest.model_validate({**(request.model_extra or {}), **fields})
        classified = await classify(upstream, asked)
    rows = iter(classified["data"])
    verdicts = []
    for text in texts:
        scores: dict[str, float] = {}
        if text.strip():
            for labelled, score in zip(moderation.labels.values(), next(rows)["scores"], strict=True):
                for category in labelled:
                    scores[category] = max(scores.get(category, 0.0), score)
        verdicts.append(scores)
    judged = {name for labelled in moderation.labels.values() for name in labelled}
    answer = by_scores(verdicts, moderation.threshold, judged)
    for name in ("usage", "scoring", "truncated"):
        if classified.get(name) is not None:
            answer[name] = classified[name]
    return answer


def by_scores(
    verdicts: Sequence[Mapping[str, float]], threshold: float, judged: Container[str] = CATEGORIES
) -> Json:
    """The answer for the scores of each text; a missing category has the score 0.

    ``judged`` are the categories that the model can tell.
    """
    results = []
    for scores in verdicts:
        found = {name: scores.get(name, 0.0) for name in CATEGORIES}
        flags = {name: score >= threshold for name, score in found.items()}
        results.append(
            {
                "flagged": any(flags.values()),
                "categories": flags,
                "category_scores": found,
                "category_applied_input_types": {name: ["text"] if name in judged else [] for name in CATEGORIES},
            }
        )
    return _answer(results)


def _answer(results: list[Json], name: object = None, usage: object = None) -> Json:
    answer: Json = {"id": name if isinstance(name, str) else f"modr-{token_hex(12)}", "results": results}
    return answer if usage is None else {**answer, "usage": usage}


def _wrong(upstream: Upstream, what: str) -> UpstreamProtocolError:
    return UpstreamProtocolError(f"The endpoint '{upstream.endpoint}' answered with {what}.")
