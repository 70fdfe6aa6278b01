"""Converts llama-server's logprobs to OpenAI's two shapes.

Source: OpenAI's API reference, llama.cpp's page on its server.
"""

from __future__ import annotations

from typing import Any

from catalog.types import Json

_FIELDS = ("token", "logprob", "bytes")


def chat_logprobs(given: Json | None, top: int) -> Json | None:
    """``logprobs`` of a chat's choice, with OpenAI's fields alone and ``top`` alternatives of a token at most."""
    if not given or not given.get("content"):
        return None
    content = [{**_entry(item), "top_logprobs": _entries(item)[:top]} for item in given["content"]]
    return {"content": content, "refusal": None}


def _entries(item: Json) -> list[Json]:
    return [_entry(top) for top in item.get("top_logprobs") or ()]


def _entry(item: Json) -> Json:
    return {name: item.get(name) for name in _FIELDS}


def legacy_logprobs(given: Json | None, *, top: int, offset: int) -> Json | None:
    """``logprobs`` of a completion's choice: four lists. ``offset`` is the first token's position in the text."""
    if given and given.get("tokens"):
        return _moved(given, top=top, offset=offset)
    if not given or not given.get("content"):
        return None
    tokens: list[str] = []
    offsets: list[int] = []
    for item in given["content"]:
        offsets.append(offset)
        tokens.append(item["token"])
        offset += len(item["token"])
    tops: list[Any] | None = None
    if top > 0:
        tops = [
            None
            if item.get("logprob") is None  # the first token of a prompt
            else {each["token"]: each["logprob"] for each in _entries(item)[:top]}
            for item in given["content"]
        ]
    return {
        "tokens": tokens,
        "token_logprobs": [item["logprob"] for item in given["content"]],
        "top_logprobs": tops,
        "text_offset": offsets,
    }


def _moved(given: Json, *, top: int, offset: int) -> Json:
    """Lists that already have OpenAI's shape (vLLM), with offsets counted from ``offset``."""
    offsets: list[int] = []
    for token in given["tokens"]:
        offsets.append(offset)
        offset += len(token)
    return {
        "tokens": given["tokens"],
        "token_logprobs": given["token_logprobs"],
        "top_logprobs": given.get("top_logprobs") if top > 0 else None,
        "text_offset": offsets,
    }
