"""POST /v1/classify: the request, and the part of the answer for each text.

Source of the shapes: Jina's API reference (https://api.jina.ai/redoc, "Classification").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StringConstraints

from backends.wire.common import MAX_TEXT, Identifier, ModelName, WireModel

MAX_INPUTS = 1024
MAX_LABELS = 256
NonEmpty = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"\S")]


def _distinct(labels: list[str]) -> list[str]:
    if len({label.strip() for label in labels}) < len(labels):
        raise ValueError("the labels must differ, by more than spaces around them")
    return labels


def classification(index: int, scores: Sequence[float], labels: Sequence[str]) -> dict[str, Any]:
    """The answer for one text: the likeliest label, and all labels with their scores in the request's order."""
    best = max(range(len(labels)), key=scores.__getitem__)
    return {
        "object": "classification",
        "index": index,
        "prediction": labels[best],
        "score": scores[best],
        "predictions": [{"label": label, "score": score} for label, score in zip(labels, scores, strict=True)],
    }


Labels = Annotated[list[Label], Field(min_length=2, max_length=MAX_LABELS), AfterValidator(_distinct)]
NO_LABELS = "Give 'labels' to choose from; only a trained classifier has labels of its own."


class ClassifyRequest(WireModel):
    """Texts to classify by ``labels``, or by those of a trained classifier. An input is a text or an object with
    ``text``.
    """

    model: ModelName = "auto"
    input: NonEmpty | Annotated[list[NonEmpty | dict[str, Any]], Field(min_length=1, max_length=MAX_INPUTS)]
    labels: Labels | None = None
    user: Identifier | None = None

    def texts(self) -> list[str]:
        """The texts, in order. An object without a text in ``text`` counts as empty."""
        items = [self.input] if isinstance(self.input, str) else self.input
        texts = (item if isinstance(item, str) else item.get("text") for item in items)
        return [text if isinstance(text, str) else "" for text in texts]
