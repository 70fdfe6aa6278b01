"""Answers of the fake OpenAI to chats and completions, as objects of OpenAI's wire."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from catalog.types import Json

CREATED = 1_760_000_000
CITED: Json = {"title": "Foxes", "url": "https://foxes.example/speed?utm_source=openai"}


def words(text: str) -> list[str]:
    """Tokens of the fake: each word with the space before it."""
    pieces = text.split(" ")
    return [piece if at == 0 else f" {piece}" for at, piece in enumerate(pieces) if piece or at]


def example_of(schema: Json) -> Any:
    """A small value that the JSON schema allows."""
    if "enum" in schema:
        return schema["enum"][0]
    if "const" in schema:
        return schema["const"]
    if "anyOf" in schema:
        return example_of(schema["anyOf"][0])
    match schema.get("type"):
        case "object":
            return {name: example_of(inner) for name, inner in schema.get("properties", {}).items()}
        case "array":
            return [example_of(schema.get("items", {"type": "string"}))]
        case "integer":
            return 7
        case "number":
            return 1.5
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return "Paris"


def prompt_tokens(messages: list[Json]) -> int:
    """Words of all messages, plus three for each message."""
    total = 0
    for message in messages:
        content = message.get("content") or ""
        if isinstance(content, list):
            content = " ".join(part.get("text") or "" for part in content)
        total += len(content.split()) + 3
    return total


@dataclass(frozen=True, slots=True)
class Answer:
    """One choice: its pieces of text or its tool calls, and why it ends. ``prefix`` begins the calls' ids."""

    pieces: tuple[str, ...] = ()
    calls: tuple[tuple[str, str], ...] = ()
    refusal: str | None = None
    finish_reason: str = "stop"
    annotations: tuple[Json, ...] = ()
    prefix: str = "call"

    @property
    def tokens(self) -> int:
        return len(self.pieces) + sum(len(arguments) // 4 + 1 for _, arguments in self.calls)


def answer(body: Json, reply: str, *, refuse: bool) -> Answer:
    """The answer of a model that follows every instruction of the request."""
    if refuse:
        return Answer(refusal="I cannot help with that.")
    tools = [tool["function"] for tool in body.get("tools") or () if tool.get("type", "function") == "function"]
    choice = body.get("tool_choice", "auto")
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        choice = choice["allowed_tools"]["mode"]
    last = (body.get("messages") or [{}])[-1]
    if tools and choice != "none" and last.get("role") != "tool":
        if isinstance(choice, dict):
            tools = [tool for tool in tools if tool["name"] == choice.get("function", choice)["name"]]
        if body.get("parallel_tool_calls") is False:
            tools = tools[:1]
        made = ((tool["name"], json.dumps(example_of(tool.get("parameters") or {}))) for tool in tools)
        return Answer(calls=tuple(made), finish_reason="tool_calls")
    text = reply
    form = body.get("response_format") or {}
    if form.get("type") == "json_schema":
        text = json.dumps(example_of(form["json_schema"].get("schema") or {}))
    elif form.get("type") == "json_object":
        text = json.dumps({"answer": reply})
    if "web_search_options" in body:
        return replace(limited(text, body), annotations=(citation(text),))
    return limited(text, body)


def citation(text: str) -> Json:
    """The annotation of a text's last word."""
    place = {"start_index": len(text.rpartition(" ")[0]) + 1, "end_index": len(text), **CITED}
    return {"type": "url_citation", "url_citation": place}


def limited(text: str, body: Json) -> Answer:
    """The text up to a stop text or the bound on tokens."""
    stops = body.get("stop") or []
    for stop in [stops] if isinstance(stops, str) else stops:
        text = text.partition(stop)[0]
    pieces = tuple(words(text))
    bound = body.get("max_completion_tokens") or body.get("max_tokens")
    if bound is not None and len(pieces) > bound:
        return Answer(pieces=pieces[:bound], finish_reason="length")
    return Answer(pieces=pieces)


def token_logprob(piece: str, top: int) -> Json:
    """One token's entry of ``logprobs.content``."""
    entry: Json = {"token": piece, "logprob": -0.25, "bytes": list(piece.encode())}
    alternatives = [entry, {"token": " other", "logprob": -1.5, "bytes": list(b" other")}]
    return {**entry, "top_logprobs": alternatives[:top]}


def usage(prompt: int, completion: int) -> Json:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def served_tier(body: Json) -> str:
    """The tier that serves a request: the one it asks for, as where there is room."""
    asked = body.get("service_tier")
    return asked if asked in ("flex", "priority") else "default"


def chat_chunks(body: Json, said: Answer) -> Iterator[Json]:
    """The chunks of a streamed chat, in the order that OpenAI sends them."""
    options = body.get("stream_options") or {}
    head: Json = {
        "id": "chatcmpl-fake",
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": body["model"],
        "service_tier": served_tier(body),
        "system_fingerprint": "fp_fake",
    }
    if options.get("include_usage"):
        head["usage"] = None
    count = body.get("n") or 1

    def chunk(index: int, delta: Json, finish: str | None = None, logprobs: Json | None = None) -> Json:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return {**head, "choices": [choice]}

    for index in range(count):
        yield chunk(index, {"role": "assistant", "content": "" if said.pieces else None, "refusal": None})
    for piece in said.pieces:
        top = body.get("top_logprobs") or 0
        logprobs = {"content": [token_logprob(piece, top)], "refusal": None} if body.get("logprobs") else None
        for index in range(count):
            yield chunk(index, {"content": piece}, logprobs=logprobs)
    extras: Json = {"annotations": list(said.annotations), "refusal": said.refusal}
    for index in range(count):
        yield from (chunk(index, {name: extra}) for name, extra in extras.items() if extra)
        for at, (name, arguments) in enumerate(said.calls):
            function = {"name": name, "arguments": ""}
            start = {"index": at, "id": f"{said.prefix}_{index}_{at}", "type": "function", "function": function}
            yield chunk(index, {"tool_calls": [start]})
            middle = len(arguments) // 2
            for part in (arguments[:middle], arguments[middle:]):
                yield chunk(index, {"tool_calls": [{"index": at, "function": {"arguments": part}}]})
    for index in range(count):
        yield chunk(index, {}, said.finish_reason)
    if options.get("include_usage"):
        yield {**head, "choices": [], "usage": usage(prompt_tokens(body["messages"]), said.tokens * count)}


def chat_document(body: Json, said: Answer) -> Json:
    """The plain answer of a chat."""
    message: Json = {
        "role": "assistant",
        "content": "".join(said.pieces) if said.pieces else None,
        "refusal": said.refusal,
        "annotations": list(said.annotations),
    }
    if said.calls:
        message["tool_calls"] = [
            {"id": f"{said.prefix}_0_{at}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for at, (name, arguments) in enumerate(said.calls)
        ]
    logprobs = None
    if body.get("logprobs"):
        top = body.get("top_logprobs") or 0
        logprobs = {"content": [token_logprob(piece, top) for piece in said.pieces], "refusal": None}
    count = body.get("n") or 1
    return {
        "id": "chatcmpl-fake",
        "object": "chat.completion",
        "created": CREATED,
        "model": body["model"],
        "choices": [
            {"index": index, "message": message, "logprobs": logprobs, "finish_reason": said.finish_reason}
            for index in range(count)
        ],
        "usage": usage(prompt_tokens(body["messages"]), said.tokens * count),
        "service_tier": served_tier(body),
        "system_fingerprint": "fp_fake",
    }


def completion_choices(body: Json, reply: str) -> list[tuple[int, str, Answer]]:
    """Index, echoed prompt and answer of every choice of a completion."""
    prompt = body.get("prompt", "")
    prompts = prompt if isinstance(prompt, list) and not isinstance(prompt[0], int) else [prompt]
    texts = [text if isinstance(text, str) else " ".join(map(str, text)) for text in prompts]
    said = limited(reply, body)
    count = body.get("n") or 1
    return [
        (at * count + number, text if body.get("echo") else "", said)
        for at, text in enumerate(texts)
        for number in range(count)
    ]


def legacy_logprobs(pieces: list[str], top: int, offset: int) -> Json:
    """OpenAI's older shape of logprobs, of completions."""
    offsets = []
    for piece in pieces:
        offsets.append(offset)
        offset += len(piece)
    return {
        "tokens": pieces,
        "token_logprobs": [-0.25 for _ in pieces],
        "top_logprobs": [{piece: -0.25} for piece in pieces] if top else None,
        "text_offset": offsets,
    }


def completion_chunks(body: Json, reply: str) -> Iterator[Json]:
    """The chunks of a streamed completion."""
    head = {"id": "cmpl-fake", "object": "text_completion", "created": CREATED, "model": body["model"]}
    total = 0
    for index, echoed, said in completion_choices(body, reply):
        total += said.tokens
        offset = 0
        for piece in ([echoed] if echoed else []) + list(said.pieces):
            logprobs = None
            if body.get("logprobs") is not None:
                logprobs = legacy_logprobs([piece], body["logprobs"], offset)
            offset += len(piece)
            choice = {"index": index, "text": piece, "logprobs": logprobs, "finish_reason": None}
            yield {**head, "choices": [choice]}
        yield {
            **head,
            "choices": [{"index": index, "text": "", "logprobs": None, "finish_reason": said.finish_reason}],
        }
    if (body.get("stream_options") or {}).get("include_usage"):
        yield {**head, "choices": [], "usage": usage(len(str(body.get("prompt", "")).split()), total)}


def completion_document(body: Json, reply: str) -> Json:
    """The plain answer of a completion."""
    choices = completion_choices(body, reply)
    rows = []
    for index, echoed, said in choices:
        logprobs = None
        if body.get("logprobs") is not None:
            pieces = ([echoed] if echoed else []) + list(said.pieces)
            logprobs = legacy_logprobs(pieces, body["logprobs"], 0)
        text = echoed + "".join(said.pieces)
        rows.append({"index": index, "text": text, "logprobs": logprobs, "finish_reason": said.finish_reason})
    return {
        "id": "cmpl-fake",
        "object": "text_completion",
        "created": CREATED,
        "model": body["model"],
        "choices": rows,
        "usage": usage(len(str(body.get("prompt", "")).split()), sum(said.tokens for _, _, said in choices)),
    }
