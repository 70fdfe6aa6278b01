"""Translates embeddings to and from Vertex AI's three methods: ``embedContent``, its batch, and ``predict``.

Gemini's models have the first two, other makers' (``...-maas``) the first, older ones the last. A text that is too
long is refused: Google's default is to cut it silently. Source: the code of google-genai.
"""

from __future__ import annotations

from backends.base import Upstream
from backends.clouds.vertex.addresses import name_of
from backends.google import embeddings as gemini
from backends.wire.embeddings import EmbeddingRequest
from catalog.types import Json

MAX_INSTANCES = 250
"""The most texts of one call of ``predict``."""

Call = tuple[str, Json]
"""A method and its body."""


def translate(request: EmbeddingRequest, upstream: Upstream) -> tuple[list[Call], tuple[str, ...]]:
    """``(calls, names of the dropped parameters)``. Raises CapabilityMismatch for token ids."""
    bodies, dropped = gemini.translate(request, upstream)
    rows = [row for body in bodies for row in body["requests"]]
    name = name_of(upstream.model)
    if "gemini" not in name and "maas" not in name:
        return [_predict(rows[at : at + MAX_INSTANCES]) for at in range(0, len(rows), MAX_INSTANCES)], dropped
    contents = [_content(row) for row in rows]
    if len(contents) == 1 or "maas" in name:
        return [("embedContent", content) for content in contents], dropped
    size = gemini.MAX_BATCH
    batches = (contents[at : at + size] for at in range(0, len(contents), size))
    return [("batchEmbedContents", {"requests": batch}) for batch in batches], dropped


def regular(answer: Json) -> Json:
    """An answer of any of the methods in the shape of Gemini's batch."""
    if "predictions" in answer:
        found = [one["embeddings"] for one in answer["predictions"]]
        counts = [one.get("statistics", {}).get("token_count") for one in found]
        known = all(isinstance(count, int | float) for count in counts)
        usage = {"promptTokenCount": int(sum(counts))} if known else {}
        return {"embeddings": found, "usageMetadata": usage}
    if "embedding" in answer:
        return {**answer, "embeddings": [answer["embedding"]]}
    return answer


def _content(row: Json) -> Json:
    config = {name: row[name] for name in ("taskType", "outputDimensionality") if name in row}
    return {"content": row["content"], "embedContentConfig": {**config, "autoTruncate": False}}


def _predict(rows: list[Json]) -> Call:
    instances = []
    for row in rows:
        instance: Json = {"content": row["content"]["parts"][0]["text"]}
        if "taskType" in row:
            instance["task_type"] = row["taskType"]
        instances.append(instance)
    parameters: Json = {"autoTruncate": False}
    if "outputDimensionality" in rows[0]:
        parameters["outputDimensionality"] = rows[0]["outputDimensionality"]
    return "predict", {"instances": instances, "parameters": parameters}
