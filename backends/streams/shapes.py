"""Checks the shape of a chunk's parts and makes them regular, whichever upstream sent them.

Everything behind a backend (assembling, judging, translating, clients) relies on these types. The checks touch
what is read anyway, so a stream pays one comparison of types per field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from catalog.types import Json

PROGRESS = "prompt_progress"
"""The field of llama-server's chunks that tell how much of the prompt it has read (``return_progress``)."""


class WrongShape(ValueError):
    """A part of an answer has another type than OpenAI's wire gives it; the message names the part."""

    def __init__(self, name: str, value: Any, wanted: str) -> None:
        super().__init__(f"'{name}' is {_KINDS.get(type(value), 'of another type')}, not {wanted}")


_KINDS = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}
_TEXTS = frozenset({"content", "role", "refusal", "reasoning_content", "reasoning"})
LISTS = frozenset({"annotations", "grounding", "images", "server_tool_calls", "thinking_blocks"})
"""Lists of a delta whose entries are whole."""
_LOGPROBS: Mapping[str, frozenset[type]] = {
    "content": frozenset({dict}),
    "refusal": frozenset({dict}),
    "tokens": frozenset({str}),
    "token_logprobs": frozenset({int, float, type(None)}),
    "top_logprobs": frozenset({dict, type(None)}),
    "text_offset": frozenset({int}),
}


def regular_delta(delta: Json) -> None:
    """Check a message or a part of one; content that is a list of parts becomes text. Raises WrongShape."""
    for name, value in delta.items():
        if value is None:
            continue
        if name in _TEXTS:
            if type(value) is not str and (name != "content" or type(value) is not list):
                raise WrongShape(name, value, "a text")
        elif name == "tool_calls":
            _regular_calls(value)
        elif name == "function_call":
            _regular_function(value)
        elif name == "audio":
            _check_texts("audio", value, "id", "data", "transcript")
        elif name in LISTS:
            _check_objects(name, value)
            if name in _RESULTS:
                _RESULTS[name](value)
    if "reasoning" in delta and delta.get("reasoning_content") is None:
        # vLLM's name since 0.12, and OpenRouter's; both names stay, since callers read either.
        delta["reasoning_content"] = delta["reasoning"]
    if type(delta.get("content")) is list:
        _join_parts(delta)


def _check_objects(name: str, value: Any) -> None:
    if type(value) is not list or any(type(one) is not dict for one in value):
        raise WrongShape(name, value, "a list of objects")


def _regular_annotations(annotations: list[Json]) -> None:
    """Check what annotations cite. A missing place is the beginning, a missing title empty."""
    for one in annotations:
        place = one.get("url_citation")
        if place is None:
            continue
        if type(place) is not dict or type(place.get("url")) is not str:
            raise WrongShape("annotations.url_citation", place, "a citation with its url")
        for name in ("start_index", "end_index"):
            if type(place.get(name)) is not int:
                place[name] = 0
        if type(place.get("title")) is not str:
            place["title"] = ""


def _check_images(images: list[Json]) -> None:
    for one in images:
        held = one.get("image_url")
        if type(held) is not dict or type(held.get("url")) is not str:
            raise WrongShape("images.image_url", held, "a picture with its url")


def _check_items(items: list[Json]) -> None:
    for one in items:
        if type(one.get("type")) is not str:
            raise WrongShape("server_tool_calls.type", one.get("type"), "a text")
        action = one.get("action") or {}
        if type(action) is not dict:
            raise WrongShape("server_tool_calls.action", action, "an object")
        _check_objects("server_tool_calls.sources", action.get("sources") or [])
        _check_objects("server_tool_calls.outputs", one.get("outputs") or [])


_RESULTS = {"annotations": _regular_annotations, "images": _check_images, "server_tool_calls": _check_items}


def is_text(choice: Any) -> bool:
    """Whether a choice of a chat is one more part of its text and nothing else: nothing in it is irregular."""
    return (
        type(choice) is dict
        and type(delta := choice.get("delta")) is dict
        and len(delta) == 1
        and type(delta.get("content")) is str
        and type(choice.get("index")) is int
        and "finish_reason" in choice
        and choice["finish_reason"] is None
        and choice.get("logprobs") is None
    )


def regular_choice(choice: Any, *, chat: bool) -> int:
    """Check one choice of a chunk and return its index. Raises WrongShape.

    A missing index is 0, a missing delta or text empty. Some servers stream a chat as whole messages.
    """
    if type(choice) is not dict:
        raise WrongShape("choices", choice, "a list of objects")
    index = choice.get("index")
    if type(index) is not int or index < 0:
        if index is not None:
            raise WrongShape("index", index, "a position")
        index = choice["index"] = 0
    reason = choice.get("finish_reason")
    if reason is not None and type(reason) is not str:
        raise WrongShape("finish_reason", reason, "a text")
    if choice.get("logprobs") is not None:
        _check_logprobs(choice["logprobs"])
    if not chat:
        if type(choice.get("text")) is not str:
            if choice.get("text") is not None:
                raise WrongShape("text", choice["text"], "a text")
            choice["text"] = ""
        return index
    delta = choice.get("delta")
    if delta is None:
        delta = choice["delta"] = choice.pop("message", None) or {}
    if type(delta) is not dict:
        raise WrongShape("delta", delta, "an object")
    regular_delta(delta)
    return index


def _check_logprobs(logprobs: Any) -> None:
    if type(logprobs) is not dict:
        raise WrongShape("logprobs", logprobs, "an object")
    for name, value in logprobs.items():
        if value is None or name not in _LOGPROBS:
            continue
        if type(value) is not list or not _LOGPROBS[name].issuperset(map(type, value)):
            raise WrongShape(f"logprobs.{name}", value, "a list with an entry for each token")
        if name in ("content", "refusal"):
            for entry in value:
                _check_token(entry)
                top = entry.get("top_logprobs")
                if top is not None and (type(top) is not list or any(type(one) is not dict for one in top)):
                    raise WrongShape("top_logprobs", top, "a list of objects")
                for one in top or ():
                    _check_token(one)


def _check_token(entry: Json) -> None:
    if type(entry.get("token")) is not str or type(entry.get("logprob")) not in (int, float):
        raise WrongShape("logprobs", entry, "a token with its log probability")
    given = entry.get("bytes")
    if given is not None and (type(given) is not list or not {int}.issuperset(map(type, given))):
        raise WrongShape("bytes", given, "a list of numbers")


def _regular_calls(calls: Any) -> None:
    if type(calls) is not list:
        raise WrongShape("tool_calls", calls, "a list")
    for call in calls:
        if type(call) is not dict:
            raise WrongShape("tool_calls", call, "a list of objects")
        index = call.get("index")
        if index is not None and (type(index) is not int or index < 0):
            raise WrongShape("tool_calls.index", index, "a position")
        for name in ("id", "type"):
            if call.get(name) is not None and type(call[name]) is not str:
                raise WrongShape(f"tool_calls.{name}", call[name], "a text")
        if call.get("function") is not None:
            _regular_function(call["function"])
        if call.get("custom") is not None:
            _check_texts("custom", call["custom"], "name", "input")


def _check_texts(name: str, holder: Any, *texts: str) -> None:
    if type(holder) is not dict:
        raise WrongShape(name, holder, "an object")
    for text in texts:
        if holder.get(text) is not None and type(holder[text]) is not str:
            raise WrongShape(f"{name}.{text}", holder[text], "a text")


def _regular_function(function: Any) -> None:
    """Check a called function. Arguments as an object, as some servers send them, become JSON text."""
    if type(function) is not dict:
        raise WrongShape("function", function, "an object")
    name, arguments = function.get("name"), function.get("arguments")
    if name is not None and type(name) is not str:
        raise WrongShape("function.name", name, "a text")
    if type(arguments) is dict:
        function["arguments"] = orjson.dumps(arguments).decode()
    elif arguments is not None and type(arguments) is not str:
        raise WrongShape("function.arguments", arguments, "a text")


def _join_parts(delta: Json) -> None:
    """Make text of content in parts. Thinking, which Mistral sends as such a part, is reasoning."""
    texts: list[str] = []
    thoughts: list[str] = []
    for part in delta["content"]:
        kind = part.get("type") if type(part) is dict else None
        if kind == "thinking":
            inner = part.get("thinking")
            thoughts += [_text_of(one) for one in (inner if type(inner) is list else [inner])]
        else:
            texts.append(_text_of(part))
    delta["content"] = "".join(texts)
    if thoughts:
        delta["reasoning_content"] = (delta.get("reasoning_content") or "") + "".join(thoughts)


def _text_of(part: Any) -> str:
    text = part.get("text") if type(part) is dict else part
    if type(text) is not str:
        raise WrongShape("content", part, "a list of texts")
    return text


# ---- events with types


def regular_event(event: Json) -> None:
    """Check an event of a transcript or of a picture. Raises WrongShape; an unknown type of event passes."""
    kind = event.get("type")
    if type(kind) is not str:
        raise WrongShape("type", kind, "a text")
    if kind == "transcript.text.delta":
        _need_text(event, "delta")
    elif kind == "transcript.text.done":
        _need_text(event, "text")
        if event.get("language") is not None:
            _need_text(event, "language")
        _check_times(event, "segments", "text")
        _check_times(event, "words", "word")
    elif kind in _PICTURES:
        if event.get("b64_json") is None and event.get("url") is None:
            raise WrongShape("b64_json", None, "a picture")
        for name in ("b64_json", "url"):
            if event.get(name) is not None:
                _need_text(event, name)


_PICTURES = frozenset(
    f"{made}.{state}" for made in ("image_generation", "image_edit") for state in ("completed", "partial_image")
)


def _need_text(event: Json, name: str) -> None:
    if type(event.get(name)) is not str:
        raise WrongShape(name, event.get(name), "a text")


def _check_times(event: Json, name: str, text: str) -> None:
    """Check a list of segments or words: each has a text, a start and an end."""
    listed = event.get(name)
    if listed is None:
        return
    if type(listed) is not list:
        raise WrongShape(name, listed, "a list")
    for entry in listed:
        if type(entry) is not dict or type(entry.get(text)) is not str:
            raise WrongShape(name, entry, "a list of texts with times")
        for at in ("start", "end"):
            if type(entry.get(at)) not in (int, float, type(None)) or (entry.get(at) or 0) < 0:
                raise WrongShape(f"{name}.{at}", entry[at], "a time")
