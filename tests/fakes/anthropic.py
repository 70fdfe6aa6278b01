"""A fake of Anthropic's Messages API, as strict about requests as the real one.

Source: Anthropic's API reference (messages, streaming, errors) and the types of its Python SDK.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from catalog.types import Json
from tests.fakes.anthropic_batches import MessageBatchRoutes
from tests.fakes.openai_chat import example_of, words
from tests.fakes.server import Call, Route

SIGNATURE = "EqQBCkYIBxgCIkD-signed-by-the-fake"
THOUGHT = "The user wants an answer, so I answer."
FIELDS = frozenset(
    {
        *(
            "model",
            "messages",
            "max_tokens",
            "system",
            "stream",
            "stop_sequences",
            "temperature",
            "top_p",
            "top_k",
        ),
        *("tools", "tool_choice", "thinking", "output_config", "metadata", "service_tier", "cache_control"),
        *("speed", "inference_geo", "context_management", "container", "mcp_servers"),
    }
)
NOT_COUNTED = frozenset(
    {"max_tokens", "metadata", "service_tier", "stop_sequences", "stream", "temperature", "top_k", "top_p"}
)
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
}
TYPES |= {413: "request_too_large", 429: "rate_limit_error", 500: "api_error", 529: "overloaded_error"}


QUERY = "speed of foxes"
FOUND: Json = {
    "type": "web_search_result", "url": "https://foxes.example/speed", "title": "Foxes", "page_age": "2 days ago",
    "encrypted_content": "EqgfCioIARgB-encrypted-by-the-fake",
}  # fmt: skip
CITATION: Json = {
    "type": "web_search_result_location", "url": FOUND["url"], "title": FOUND["title"],
    "encrypted_index": "Eo8BCioIAhgB-indexed-by-the-fake", "cited_text": "Foxes run at 50 km/h.",
}  # fmt: skip
SEARCHED: list[Json] = [
    {"type": "server_tool_use", "id": "srvtoolu_01", "name": "web_search", "input": {"query": QUERY}},
    {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_01", "content": [FOUND]},
]


class Wrong(Exception):
    """A request that the real service refuses with a 400."""


class FakeAnthropic(MessageBatchRoutes):
    """``reply`` is what the model says; with ``context``, longer prompts (in words) are refused.

    ``blocks`` are content and a stop reason to give whatever is asked, ``turns`` such answers for one call each.
    ``told`` has the answers that were given.
    """

    def __init__(self, *, uds: Path | None = None, key: str = "sk-ant-fake") -> None:
        super().__init__(uds=uds)
        self.key = key
        self.reply = "The quick brown fox jumps over the lazy dog."
        self.context = 4096
        self.blocks: tuple[list[Json], str] | None = None
        self.turns: list[tuple[list[Json], str]] = []
        self.told: list[tuple[list[Json], str]] = []
        self.listed: list[Json] = []

    def routes(self) -> list[Route]:
        return [
            ("POST", "/v1/messages", self.messages),
            ("POST", "/v1/messages/count_tokens", self.count),
            ("GET", "/v1/models", self.list_models),
            *self.batch_routes(),
        ]

    def batch_answer(self, body: Json) -> Json:
        check(body)
        told = message_of(body, *self.answer(body, refuse=False))
        return {**told, "usage": {**told["usage"], "service_tier": "batch"}}

    async def list_models(self, request: web.Request, call: Call) -> web.StreamResponse:
        """A page of one model. The newest SDK sends the key as a bearer token."""
        sent = call.headers.get("x-api-key") or call.headers.get("authorization", "").removeprefix("Bearer ")
        if self.key != sent or "anthropic-version" not in call.headers:
            return self.refused(call, 401, "invalid x-api-key")
        names = [model["id"] for model in self.listed]
        at = names.index(call.query["after_id"]) + 1 if "after_id" in call.query else 0
        page = self.listed[at : at + 1]
        return await self.document(
            request,
            call,
            {
                "data": page,
                "has_more": at + 1 < len(names),
                "first_id": page[0]["id"] if page else None,
                "last_id": page[-1]["id"] if page else None,
            },
        )

    async def count(self, request: web.Request, call: Call) -> web.StreamResponse:
        if self.key != call.headers.get("x-api-key"):
            return self.refused(call, 401, "invalid x-api-key")
        if extra := set(call.body) - (FIELDS - NOT_COUNTED):
            return self.refused(call, 400, f"{min(extra)}: Extra inputs are not permitted")
        return await self.document(request, call, {"input_tokens": 4321})

    def error(self, status: int, message: str, *, code: str | None = None, kind: str | None = None) -> Json:
        told: Json = {"type": kind or TYPES.get(status, "api_error"), "message": message}
        if code is not None:
            told["details"] = {"error_visibility": "user_facing", "error_code": code}
        return {"type": "error", "error": told, "request_id": "req_fake"}

    def malformed(self) -> bytes:
        return b'event: content_block_delta\ndata: {"type":"content_block_delta","index":77}\n\n'

    async def messages(self, request: web.Request, call: Call) -> web.StreamResponse:
        bearer = call.headers.get("authorization", "").removeprefix("Bearer ")
        if self.key not in (call.headers.get("x-api-key"), bearer):
            return self.refused(call, 401, "invalid x-api-key")
        try:
            if not call.headers.get("anthropic-version"):
                raise Wrong("anthropic-version: header is required")
            check(call.body)
            needed = len(json.dumps(call.body["messages"]).split())
            if needed > self.context:
                raise Wrong(f"prompt is too long: {needed} tokens > {self.context} maximum")
        except Wrong as wrong:
            return self.refused(call, 400, str(wrong))
        blocks, stop = self.turns.pop(0) if self.turns else self.answer(call.body, refuse=call.fault.refuse)
        self.told.append((blocks, stop))
        if call.body.get("stream"):
            events = (encode(event) for event in stream_of(call.body, blocks, stop))
            return await self.stream(request, call, events)
        return await self.document(request, call, message_of(call.body, blocks, stop))

    def answer(self, body: Json, *, refuse: bool) -> tuple[list[Json], str]:
        """Content and stop reason of a model that follows every instruction."""
        if self.blocks is not None:
            return self.blocks
        blocks: list[Json] = []
        if body.get("thinking", {}).get("type") in ("enabled", "adaptive"):
            blocks.append({"type": "thinking", "thinking": THOUGHT, "signature": SIGNATURE})
        if refuse:
            return blocks, "refusal"
        choice = body.get("tool_choice") or {"type": "auto"}
        hosted = [tool["type"] for tool in body.get("tools") or () if tool.get("type") not in (None, "custom")]
        own = [tool for tool in body.get("tools") or () if "input_schema" in tool]
        if any(kind.startswith("web_search_") for kind in hosted) and not own:
            return [*SEARCHED, {"type": "text", "text": self.reply, "citations": [CITATION]}], "end_turn"
        answered = any(block["type"] == "tool_result" for block in content_of(body["messages"][-1]))
        if own and choice["type"] != "none" and not (answered and choice["type"] == "auto"):
            tools = [tool for tool in own if choice.get("name") in (None, tool["name"])]
            for at, tool in enumerate(tools[: 1 if choice.get("disable_parallel_tool_use") else 2]):
                given = example_of(tool["input_schema"])
                blocks.append({"type": "tool_use", "id": f"toolu_{at:02}", "name": tool["name"], "input": given})
            return blocks, "tool_use"
        wanted = body.get("output_config", {}).get("format")
        text = json.dumps(example_of(wanted["schema"])) if wanted else self.reply
        pieces = words(text)
        if len(pieces) > body["max_tokens"]:
            return [*blocks, {"type": "text", "text": "".join(pieces[: body["max_tokens"]])}], "max_tokens"
        for stop in body.get("stop_sequences") or ():
            if stop in text:
                return [*blocks, {"type": "text", "text": text[: text.index(stop)]}], "stop_sequence"
        return [*blocks, {"type": "text", "text": text}], "end_turn"


def content_of(message: Json) -> list[Json]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def check(body: Json) -> None:
    """Raise Wrong for a request that the real service refuses."""
    if extra := set(body) - FIELDS:
        raise Wrong(f"{min(extra)}: Extra inputs are not permitted")
    if not isinstance(body.get("max_tokens"), int):
        raise Wrong("max_tokens: Field required")
    if not body.get("messages"):
        raise Wrong("messages: at least one message is required")
    if not 0 <= body.get("temperature", 1) <= 1:
        raise Wrong("temperature: range: 0..1")
    _check_thinking(body)
    _check_system(body["messages"])
    _check_turns([message for message in body["messages"] if message["role"] != "system"])
    for tool in body.get("tools") or ():
        _check_tool(tool)
    if wanted := body.get("output_config", {}).get("format"):
        _check_closed(wanted["schema"])


def _check_tool(tool: Json) -> None:
    if re.fullmatch(r"[a-zA-Z0-9_-]{1,128}", tool["name"]) is None:
        raise Wrong("tools.0.custom.name: String should match pattern '^[a-zA-Z0-9_-]{1,128}$'")
    schema = tool.get("input_schema", {"type": "object"})
    if schema.get("type") != "object":
        raise Wrong("tools.0.custom.input_schema.type: Field required")
    if {"anyOf", "oneOf", "allOf"} & schema.keys():
        raise Wrong("input_schema does not support oneOf, allOf, or anyOf at the top level")
    if tool.get("strict"):
        _check_closed(schema)


def _check_system(messages: list[Json]) -> None:
    roles = [message["role"] for message in messages]
    for at, role in enumerate(roles):
        if role == "system" and (at == 0 or roles[at - 1] != "user" or roles[at + 1 : at + 2] == ["user"]):
            raise Wrong(f"messages.{at}: a system message must follow a user's and precede an assistant's")


def _check_thinking(body: Json) -> None:
    thinking = body.get("thinking") or {"type": "disabled"}
    if thinking["type"] in ("disabled", "between_tools"):
        return
    if thinking["type"] == "enabled" and not 1024 <= thinking["budget_tokens"] < body["max_tokens"]:
        raise Wrong("`max_tokens` must be greater than `thinking.budget_tokens`")
    if (body.get("tool_choice") or {}).get("type") in ("any", "tool"):
        raise Wrong("Thinking may not be enabled when tool_choice forces tool use.")
    if body.get("temperature", 1) != 1 or "top_k" in body:
        raise Wrong("`temperature` may only be set to 1 when thinking is enabled.")
    last = body["messages"][-1]
    looping = thinking["type"] == "enabled" and content_of(last)[0]["type"] == "tool_result"
    if looping and content_of(body["messages"][-2])[0]["type"] not in ("thinking", "redacted_thinking"):
        raise Wrong("Expected `thinking` or `redacted_thinking`, but found `tool_use`.")


def _check_turns(messages: list[Json]) -> None:
    asked: list[str] = []
    for at, message in enumerate(messages):
        blocks = content_of(message)
        results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        if message["role"] == "user" and sorted(results) != sorted(asked):
            raise Wrong(f"messages.{at}: `tool_use` ids were found without `tool_result` blocks")
        asked = [block["id"] for block in blocks if block["type"] == "tool_use"]
        for block in blocks:
            if block["type"] == "text" and not block["text"]:
                raise Wrong("messages: text content blocks must be non-empty")
            if block["type"] == "thinking" and block.get("signature") != SIGNATURE:
                raise Wrong(f"messages.{at}: Invalid `signature` in `thinking` block")


def _check_closed(schema: Any) -> None:
    if isinstance(schema, list):
        for one in schema:
            _check_closed(one)
    if not isinstance(schema, dict):
        return
    if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        raise Wrong("For 'object' type, 'additionalProperties' must be explicitly set to false")
    for name in ("minimum", "maximum", "minLength", "maxLength", "pattern"):
        if name in schema and not isinstance(schema[name], dict):
            raise Wrong(f"For '{schema.get('type')}' type, property '{name}' is not supported")
    for one in schema.values():
        _check_closed(one)


def usage_of(body: Json, blocks: list[Json]) -> Json:
    marks = json.dumps(body).count('"cache_control"')
    thinking = sum(len(words(block["thinking"])) for block in blocks if block["type"] == "thinking")
    spoken = sum(len(words(block.get("text") or json.dumps(block.get("input", "")))) for block in blocks)
    searches = sum(block["type"] == "server_tool_use" and block["name"] == "web_search" for block in blocks)
    long_lived = json.dumps(body).count('"1h"')
    return {
        "input_tokens": len(json.dumps(body["messages"]).split()),
        "cache_creation_input_tokens": 5 * marks,
        "cache_creation": {
            "ephemeral_5m_input_tokens": 5 * (marks - long_lived),
            "ephemeral_1h_input_tokens": 5 * long_lived,
        },
        "cache_read_input_tokens": 11 * marks,
        "output_tokens": spoken + thinking,
        "output_tokens_details": {"thinking_tokens": thinking},
        "server_tool_use": {"web_search_requests": searches, "web_fetch_requests": 0} if searches else None,
        "service_tier": "standard",
        "inference_geo": "global",
    }


def details_of(stop: str) -> Json | None:
    if stop != "refusal":
        return None
    return {"type": "refusal", "category": "general_harms", "explanation": "I cannot help with that."}


def sequence_of(body: Json, stop: str | None) -> str | None:
    """The first stop sequence, if one ended the text: a test has one."""
    return body.get("stop_sequences", ["END"])[0] if stop == "stop_sequence" else None


def message_of(body: Json, blocks: list[Json], stop: str | None) -> Json:
    return {
        "id": "msg_fake",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": blocks,
        "stop_reason": stop,
        "stop_sequence": sequence_of(body, stop),
        "stop_details": details_of(stop or ""),
        "usage": usage_of(body, blocks),
    }


def stream_of(body: Json, blocks: list[Json], stop: str) -> Iterator[Json]:
    """The events of a message, with a ping in the middle and tool inputs in pieces."""
    start = message_of(body, [], None)
    yield {"type": "message_start", "message": {**start, "usage": {**start["usage"], "output_tokens": 1}}}
    yield {"type": "ping"}
    for index, block in enumerate(blocks):
        blanks: Json = {"text": "", "thinking": "", "signature": "", "input": {}}
        empty = {**block, **{name: blank for name, blank in blanks.items() if name in block}}
        if "citations" in block:
            empty["citations"] = []
        yield {"type": "content_block_start", "index": index, "content_block": empty}
        for delta in _deltas(block):
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    delta = {"stop_reason": stop, "stop_sequence": sequence_of(body, stop), "stop_details": details_of(stop)}
    usage = usage_of(body, blocks)
    of_start = ("cache_creation", "service_tier", "inference_geo")
    told = {name: value for name, value in usage.items() if name not in of_start}
    yield {"type": "message_delta", "delta": delta, "usage": told}
    yield {"type": "message_stop"}


def _deltas(block: Json) -> Iterator[Json]:
    match block["type"]:
        case "text":
            for piece in words(block["text"]):
                yield {"type": "text_delta", "text": piece}
            for citation in block.get("citations") or ():
                yield {"type": "citations_delta", "citation": citation}
        case "thinking":
            for piece in words(block["thinking"]):
                yield {"type": "thinking_delta", "thinking": piece}
            yield {"type": "signature_delta", "signature": block["signature"]}
        case "tool_use" | "server_tool_use":
            yield {"type": "input_json_delta", "partial_json": ""}
            text = json.dumps(block["input"])
            for at in range(0, len(text), 5):
                yield {"type": "input_json_delta", "partial_json": text[at : at + 5]}


def encode(event: Json) -> bytes:
    return f"event: {event['type']}\n".encode() + b"data: " + orjson.dumps(event) + b"\n\n"
