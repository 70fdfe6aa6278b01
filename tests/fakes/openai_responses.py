"""The fake's Responses API. Source: OpenAI's API reference, and the types of its SDK, which check each request."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

from openai.types.responses.response_create_params import (
    ResponseCreateParamsNonStreaming,
    ResponseCreateParamsStreaming,
)
from pydantic import ConfigDict, TypeAdapter, ValidationError

from catalog.types import Json
from tests.fakes.openai_chat import CITED, CREATED, answer, citation, served_tier, token_logprob, words

ENCRYPTED = "gAAAAAB-encrypted-by-the-fake"
SEARCHED: Json = {
    "id": "ws_1", "type": "web_search_call", "status": "completed",
    "action": {
        "type": "search", "query": "speed of foxes", "queries": ["speed of foxes"],
        "sources": [{"type": "url", "url": CITED["url"]}],
    },
}  # fmt: skip
THOUGHT = "The user wants an answer, so I answer."


@cache
def _spec(streamed: bool) -> TypeAdapter[Any]:
    kind = ResponseCreateParamsStreaming if streamed else ResponseCreateParamsNonStreaming
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the SDK has types that allow extra fields
        return TypeAdapter(list[kind], config=ConfigDict(extra="forbid"))  # type: ignore[valid-type]


def mistake_in(body: Json) -> str | None:
    """The first objection of the SDK's types to a request; they forbid extra fields."""
    try:
        _read(_spec(body.get("stream") is True).validate_python([body]))
    except ValidationError as wrong:
        first = wrong.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(str(step) for step in first['loc'][1:])}: {first['msg']}"
    return None


def _read(value: Any) -> None:
    """Read lazily validated iterables to their end."""
    if isinstance(value, dict):
        for one in value.values():
            _read(one)
    elif isinstance(value, list | Iterator):
        for one in value:
            _read(one)


def prompt_words(body: Json) -> int:
    """Words of all items, plus three for each."""
    given = body.get("input") or ""
    items = given if isinstance(given, list) else [{"content": given}]
    total = 0
    for item in items:
        content = item.get("content") or item.get("output") or ""
        if isinstance(content, list):
            content = " ".join(part.get("text") or "" for part in content)
        total += len(content.split() if isinstance(content, str) else ()) + 3
    return total


def _as_chat(body: Json) -> Json:
    """The part of a request that the answer depends on, as a chat."""
    given = body["input"]
    last = given[-1] if isinstance(given, list) and given else {}
    tools = [{"function": tool} for tool in body.get("tools") or () if tool["type"] == "function"]
    choice = body.get("tool_choice", "auto")
    if isinstance(choice, dict):  # of a hosted tool: no function is called
        choice = {"function": choice} if choice.get("name") else "none"
    form = (body.get("text") or {}).get("format") or {}
    return {
        "tools": tools,
        "tool_choice": choice,
        "parallel_tool_calls": body.get("parallel_tool_calls"),
        "messages": [{"role": "tool" if str(last.get("type")).endswith("_output") else "user"}],
        "response_format": {**form, "json_schema": form},
        "max_tokens": body.get("max_output_tokens"),
    }


def answered(body: Json, reply: str, *, refuse: bool) -> tuple[list[Json], Json]:
    """The output items of a model that follows every instruction, and the fields that tell the end."""
    said = answer(_as_chat(body), reply, refuse=refuse)
    items: list[Json] = []
    if (body.get("reasoning") or {}).get("effort") not in (None, "none"):
        hidden = {"encrypted_content": ENCRYPTED}
        summary = [{"type": "summary_text", "text": THOUGHT}] if body["reasoning"].get("summary") else []
        kept = "reasoning.encrypted_content" in (body.get("include") or ())
        items.append({"id": "rs_1", "type": "reasoning", "summary": summary, **(hidden if kept else {})})
    if said.refusal:
        items.append(message_item([{"type": "refusal", "refusal": said.refusal}]))
    elif said.calls:
        items += [
            {
                "id": f"fc_{at}", "type": "function_call", "call_id": f"call_{at}", "name": name,
                "arguments": arguments, "status": "completed",
            }
            for at, (name, arguments) in enumerate(said.calls)
        ]  # fmt: skip
    else:
        asked = "message.output_text.logprobs" in (body.get("include") or ())
        top = body.get("top_logprobs") or 0
        cited: tuple[Json, ...] = ()
        if any(tool["type"].startswith("web_search") for tool in body.get("tools") or ()):
            items.append(SEARCHED)
            cited = ({"type": "url_citation", **citation("".join(said.pieces))["url_citation"]},)
        items.append(message_item([text_part(said.pieces, top=top if asked else None, annotations=cited)]))
    if said.finish_reason != "length":
        return items, {}
    items[-1]["status"] = "incomplete"
    return items, {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}


def text_part(pieces: tuple[str, ...], *, top: int | None = None, annotations: tuple[Json, ...] = ()) -> Json:
    """A text of these pieces, with the probabilities of ``top`` tokens for each."""
    logprobs = [] if top is None else [token_logprob(piece, top) for piece in pieces]
    text = "".join(pieces)
    return {"type": "output_text", "text": text, "annotations": list(annotations), "logprobs": logprobs}


def message_item(content: list[Json], item_id: str = "msg_1") -> Json:
    return {"id": item_id, "type": "message", "role": "assistant", "status": "completed", "content": content}


def response_document(body: Json, output: list[Json], ending: Json) -> Json:
    """The response object; ``ending`` has the fields that differ from those of a complete one.

    Its id is the metadata's ``response``, if there is one.
    """
    tokens = sum(len(words(part.get("text") or "")) for item in output for part in item.get("content") or ())
    tokens += sum(len(item.get("arguments") or item.get("input") or "") // 4 + 1 for item in output)
    prompt = prompt_words(body)
    return {
        "id": (body.get("metadata") or {}).get("response", "resp_fake"),
        "object": "response",
        "created_at": CREATED,
        "status": "completed",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "model": body["model"],
        "output": output,
        "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
        "previous_response_id": body.get("previous_response_id"),
        "reasoning": body.get("reasoning") or {"effort": None, "summary": None},
        "service_tier": served_tier(body),
        "store": body.get("store") is not False,
        "temperature": 1.0,
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 1},
            "output_tokens": tokens,
            "output_tokens_details": {"reasoning_tokens": 1},
            "total_tokens": prompt + tokens,
        },
        "user": None,
        "metadata": body.get("metadata") or {},
        **ending,
    }


def response_events(body: Json, output: list[Json], ending: Json) -> Iterator[Json]:
    """The events of a streamed response, numbered."""
    last = response_document(body, output, ending)
    begun = {
        **last,
        "status": "in_progress",
        "output": [],
        "usage": None,
        "error": None,
        "incomplete_details": None,
    }
    events: list[Json] = [{"type": f"response.{kind}", "response": begun} for kind in ("created", "in_progress")]
    for index, item in enumerate(output):
        events += _item_events(index, item)
    if last["status"] != "lost":
        events.append({"type": f"response.{last['status']}", "response": last})
    for number, payload in enumerate(events):
        yield {**payload, "sequence_number": number}


def _item_events(index: int, item: Json) -> Iterator[Json]:
    place = {"item_id": item["id"], "output_index": index}
    empty: Json = {"arguments": "", "input": "", "content": [], "summary": [], "status": "in_progress"}
    begun = {**item, **{name: empty[name] for name in empty.keys() & item.keys()}}
    begun.pop("encrypted_content", None)
    yield {"type": "response.output_item.added", "output_index": index, "item": begun}
    match item["type"]:
        case "message":
            for at, part in enumerate(item["content"]):
                yield from _part_events({**place, "content_index": at}, part)
        case "reasoning":
            for at, part in enumerate(item["summary"]):
                yield from _summary_events({**place, "summary_index": at}, part)
        case "function_call":
            yield from _halves("response.function_call_arguments", place, item["arguments"])
            done = {"name": item["name"], "arguments": item["arguments"]}
            yield {"type": "response.function_call_arguments.done", **place, **done}
        case "custom_tool_call":
            yield from _halves("response.custom_tool_call_input", place, item["input"])
            yield {"type": "response.custom_tool_call_input.done", **place, "input": item["input"]}
        case "web_search_call":
            for state in ("in_progress", "searching", "completed"):
                yield {"type": f"response.web_search_call.{state}", **place}
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


def _summary_events(place: Json, part: Json) -> Iterator[Json]:
    yield {"type": "response.reasoning_summary_part.added", **place, "part": {**part, "text": ""}}
    for piece in words(part["text"]):
        yield {"type": "response.reasoning_summary_text.delta", **place, "delta": piece}
    yield {"type": "response.reasoning_summary_text.done", **place, "text": part["text"]}
    yield {"type": "response.reasoning_summary_part.done", **place, "part": part}


def _halves(kind: str, place: Json, text: str) -> Iterator[Json]:
    middle = len(text) // 2
    for part in (text[:middle], text[middle:]):
        yield {"type": f"{kind}.delta", **place, "delta": part}


def _part_events(place: Json, part: Json) -> Iterator[Json]:
    if part["type"] == "refusal":
        yield {"type": "response.content_part.added", **place, "part": {**part, "refusal": ""}}
        for piece in words(part["refusal"]):
            yield {"type": "response.refusal.delta", **place, "delta": piece}
        yield {"type": "response.refusal.done", **place, "refusal": part["refusal"]}
    else:
        empty = {**part, "text": "", "annotations": [], "logprobs": []}
        yield {"type": "response.content_part.added", **place, "part": empty}
        for at, piece in enumerate(words(part["text"])):
            logprobs = [
                {name: value for name, value in entry.items() if name != "bytes"}
                for entry in part["logprobs"][at : at + 1]
            ]
            yield {"type": "response.output_text.delta", **place, "delta": piece, "logprobs": logprobs}
        for at, annotation in enumerate(part["annotations"]):
            added = {"annotation": annotation, "annotation_index": at}
            yield {"type": "response.output_text.annotation.added", **place, **added}
        done = {"text": part["text"], "logprobs": part["logprobs"]}
        yield {"type": "response.output_text.done", **place, **done}
    yield {"type": "response.content_part.done", **place, "part": part}
