"""Vectors, scores, audio and pictures of the fake OpenAI."""

from __future__ import annotations

import base64
import hashlib
import io
import struct
import wave
import zlib
from typing import Any

from openai.types.image_edit_params import ImageEditParamsBase

from catalog.moderation.categories import CATEGORIES
from catalog.types import Json

TRANSCRIPT = "The quick brown fox."


def vector(text: str, dimensions: int) -> list[float]:
    """A unit vector that depends on nothing but the text."""
    seed = hashlib.shake_256(text.encode()).digest(dimensions)
    raw = [byte - 127.5 for byte in seed]
    norm = sum(value * value for value in raw) ** 0.5
    return [value / norm for value in raw]


def embeddings(body: Json) -> Json:
    """OpenAI's list of embeddings."""
    if "messages" in body:
        content = [part for message in body["messages"] for part in message["content"]]
        body = {**body, "input": " ".join(part.get("text") or part["image_url"]["url"][-40:] for part in content)}
    given = body["input"]
    many = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
    texts = [item if isinstance(item, str) else " ".join(map(str, item)) for item in many]
    rows = []
    for index, text in enumerate(texts):
        numbers = vector(text, body.get("dimensions") or 8)
        value: Any = numbers
        if body.get("encoding_format") == "base64":
            value = base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()
        rows.append({"object": "embedding", "index": index, "embedding": value})
    tokens = sum(len(text.split()) for text in texts)
    return {
        "object": "list",
        "data": rows,
        "model": body["model"],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def rerank(body: Json) -> Json:
    """Scores by the share of the query's words that a document has, best first."""
    query = set(body["query"].lower().split())
    rows = []
    for index, document in enumerate(body["documents"]):
        text = document if isinstance(document, str) else document["text"]
        rows.append(
            {"index": index, "relevance_score": len(query & set(text.lower().split())) / max(1, len(query))}
        )
    rows.sort(key=lambda row: -row["relevance_score"])
    rows = rows[: body.get("top_n")]
    return {"id": "rerank-fake", "model": body["model"], "results": rows, "usage": {"total_tokens": len(query)}}


OWN_LABELS = ["fine", "toxic"]
"""The labels of a classifier that was trained on some."""


def classification(body: Json) -> Json:
    """Jina's list: a label counts once, and once more for each of its words that the text has."""
    rows = []
    for index, given in enumerate(body["input"]):
        words = (given if isinstance(given, str) else given["text"]).lower().split()
        counts = {
            label: 1 + sum(word in words for word in label.lower().split())
            for label in body.get("labels") or OWN_LABELS
        }
        told = [{"label": label, "score": count / sum(counts.values())} for label, count in counts.items()]
        best = max(told, key=lambda said: said["score"])
        rows.append(
            {
                "object": "classification",
                "index": index,
                "prediction": best["label"],
                "score": best["score"],
                "predictions": told,
            }
        )
    return {"usage": {"total_tokens": 7}, "data": rows}


_OF_PICTURES = frozenset(
    {"self-harm", "self-harm/instructions", "self-harm/intent", "sexual", "violence", "violence/graphic"}
)
"""Categories that OpenAI judges in pictures too."""


def moderation(body: Json) -> Json:
    """A verdict per content: it is violent if a text of it has the word "kill"."""
    given = body["input"]
    contents = [given] if isinstance(given, str) or not isinstance(given[0], str) else given
    results = []
    for content in contents:
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        violent = any("kill" in part.get("text", "") for part in parts)
        types = sorted({"image" if part["type"] == "image_url" else "text" for part in parts})
        flags = {name: violent and name == "violence" for name in CATEGORIES}
        results.append(
            {
                "flagged": violent,
                "categories": flags,
                "category_scores": {name: 0.9 if flag else 0.1 for name, flag in flags.items()},
                "category_applied_input_types": {
                    name: types if name in _OF_PICTURES else [one for one in types if one == "text"]
                    for name in CATEGORIES
                },
            }
        )
    return {"id": "modr-fake", "model": body["model"], "results": results}


def wav(seconds: float = 0.1, rate: int = 24_000) -> bytes:
    """Silence as a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as audio:
        audio.setnchannels(1)
        audio.setsampwidth(2)
        audio.setframerate(rate)
        audio.writeframes(b"\0\0" * int(seconds * rate))
    return file.getvalue()


def png() -> bytes:
    """A picture of one red pixel."""

    def block(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0\xff\0\0")
    return b"\x89PNG\r\n\x1a\n" + block(b"IHDR", head) + block(b"IDAT", pixels) + block(b"IEND", b"")


def diarized_transcript() -> Json:
    """``diarized_json`` of the transcript, of one speaker."""
    turn = {"type": "transcript.text.segment", "id": "seg_1", "speaker": "A", "start": 0.0, "end": 2.0}
    segments = [{**turn, "text": TRANSCRIPT}]
    return {"task": "transcribe", "duration": 2.0, "text": TRANSCRIPT, "segments": segments}


def verbose_transcript(granularities: list[str]) -> Json:
    """``verbose_json`` of the transcript."""
    spoken = TRANSCRIPT.split()
    document: Json = {
        "task": "transcribe",
        "language": "english",
        "duration": 2.0,
        "text": TRANSCRIPT,
        "usage": {"type": "duration", "seconds": 2},
    }
    if "segment" in granularities or not granularities:
        document["segments"] = [
            {
                "id": 0,
                "seek": 0,
                "start": 0.0,
                "end": 2.0,
                "text": TRANSCRIPT,
                "tokens": [1, 2, 3],
                "temperature": 0.0,
                "avg_logprob": -0.2,
                "compression_ratio": 1.0,
                "no_speech_prob": 0.01,
            }
        ]
    if "word" in granularities:
        document["words"] = [
            {"word": word, "start": at * 0.5, "end": at * 0.5 + 0.4} for at, word in enumerate(spoken)
        ]
    return document


def images(body: Json) -> Json:
    """OpenAI's list of images."""
    data = base64.b64encode(png()).decode()
    return {
        "created": 1_760_000_000,
        "data": [{"b64_json": data} for _ in range(body.get("n") or 1)],
        "background": "opaque",
        "output_format": "png",
        "quality": "low",
        "size": "1024x1024",
        "usage": {
            "input_tokens": 5,
            "input_tokens_details": {"image_tokens": 0, "text_tokens": 5},
            "output_tokens": 10,
            "total_tokens": 15,
        },
    }


_PROMPTED = frozenset(ImageEditParamsBase.__annotations__) - {"image", "mask", "markup"} | {"stream"}


def mistake_in_edit(body: Json, files: dict[str, bytes]) -> str | None:
    """The refusal of the form of an edit by OpenAI, None for one that it takes."""
    if unknown := {name.partition("[")[0] for name in body} - _PROMPTED:
        return f"Unknown parameter: '{min(unknown)}'."
    names = {name.partition("#")[0] for name in files}
    if unknown := names - {"image", "image[]", "mask", "markup"}:
        return f"Unknown parameter: '{min(unknown)}'."
    if names.isdisjoint({"image", "image[]"}):
        return "Missing required parameter: 'image'."
    return None if body.get("prompt") else "Missing required parameter: 'prompt'."


def typed_form(body: Json) -> Json:
    """The texts of a form as the types of their fields."""
    counts: Json = {name: int(body[name]) for name in ("n", "partial_images") if name in body}
    return {**body, **counts, "stream": body.get("stream") == "true"}
