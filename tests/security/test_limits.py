"""Every part of a request is bounded: one at its bound is accepted, one beyond it refused before any call."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel

from backends.workers.engines.common.audio import decode
from catalog.errors import PayloadTooLarge
from server.edge.json_body import parse
from tests.loop_time import virtual_time
from tests.security.conftest import CHAT, OpenSite, Site, assert_error
from tests.security.fuzzing import bodies
from tests.security.test_fetch import picture, png

CHAT_PATH = "/v1/chat/completions"
JSON = {"content-type": "application/json"}
USER = {"role": "user", "content": "Hi"}
TEXT = {"type": "text", "text": "x"}
CALL = {"id": "1", "function": {"name": "f", "arguments": "{}"}}


def tool(name: str = "f", schema: Any = None) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": schema or {"type": "object"}}}


def nested(levels: int) -> dict[str, Any]:
    """A schema of ``levels`` levels; an object and its properties are two."""
    schema: dict[str, Any] = {}
    for _ in range(levels // 2):
        schema = {"properties": {"a": schema}}
    return schema


def answer_in(schema: dict[str, Any]) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


@dataclass(frozen=True)
class Bound:
    """A body of ``size`` elements is accepted, one of ``size + more`` refused; 1 where the bound is exact."""

    what: str
    size: int
    body: Callable[[int], dict[str, Any]]
    path: str = CHAT_PATH
    more: int = 1

    def full(self, size: int) -> bytes:
        base: dict[str, Any] = {"model": "near"}
        if self.path == CHAT_PATH:
            base["messages"] = [USER]
        if self.path == "/v1/messages":
            base |= {"messages": [USER], "max_tokens": 4}
        return json.dumps({**base, **self.body(size)}).encode()


BOUNDS = (
    Bound("messages", 16_384, lambda n: {"messages": [USER] * n}),
    Bound("parts", 1024, lambda n: {"messages": [{"role": "user", "content": [TEXT] * n}]}),
    Bound("tools", 256, lambda n: {"tools": [tool(f"f{i}") for i in range(n)]}),
    Bound("tool calls", 256, lambda n: {"messages": [{"role": "assistant", "tool_calls": [CALL] * n}]}),
    Bound("tool's name", 128, lambda n: {"tools": [tool("f" * n)]}),
    Bound("schema's depth, in a tool", 62, lambda n: {"tools": [tool(schema=nested(n))]}, more=2),
    Bound("schema's depth, of the answer", 62, lambda n: answer_in(nested(n)), more=2),
    Bound("schema's values", 9_000, lambda n: answer_in({"enum": list(range(n))}), more=2_000),
    Bound("schema's characters", 499_000, lambda n: answer_in({"description": "x" * n}), more=2_000),
    Bound("schema's patterns", 200, lambda n: answer_in({"anyOf": [{"pattern": "^a$"}] * n})),
    Bound("pattern's length", 1000, lambda n: answer_in({"pattern": "x" * n})),
    Bound("pattern's repetitions", 10_000, lambda n: answer_in({"pattern": f"(ab){{{n}}}"})),
    Bound("stop strings", 64, lambda n: {"stop": ["x"] * n}),
    Bound("stop string's length", 1000, lambda n: {"stop": "x" * n}),
    Bound("n", 128, lambda n: {"n": n}),
    Bound("top_logprobs", 20, lambda n: {"logprobs": True, "top_logprobs": n}),
    Bound("logit_bias", 2048, lambda n: {"logit_bias": {str(i): 1 for i in range(n)}}),
    Bound("metadata", 16, lambda n: {"metadata": {str(i): "x" for i in range(n)}}),
    Bound("model's name", 200, lambda n: {"model": "m" * n}),
    Bound("user's name", 256, lambda n: {"user": "u" * n}),
    Bound("max_tokens", 10_000_000, lambda n: {"max_tokens": n}),
    Bound("prompts", 128, lambda n: {"prompt": ["x"] * n}, "/v1/completions"),
    Bound("tokens", 1_000_000, lambda n: {"tokens": [1] * n}, "/detokenize"),
    Bound("texts", 8192, lambda n: {"input": ["x"] * n}, "/v1/embeddings"),
    Bound("documents", 10_000, lambda n: {"query": "q", "documents": ["x"] * n}, "/v1/rerank"),
    Bound("labels", 256, lambda n: {"input": "x", "labels": [f"label {i}" for i in range(n)]}, "/v1/classify"),
    Bound("contents to moderate", 1024, lambda n: {"input": ["x"] * n}, "/v1/moderations"),
    Bound("texts to classify", 1024, lambda n: {"input": ["x"] * n, "labels": ["a", "b"]}, "/v1/classify"),
    Bound("phrases to find", 64, lambda n: {"image": "x", "phrase": [f"{i}" for i in range(n)]}, "/v1/ground"),
    Bound("a phrase to find", 500, lambda n: {"image": "x", "phrase": "x" * n}, "/v1/ground"),
    Bound("boxes to find", 200, lambda n: {"image": "x", "phrase": "x", "max_boxes": n}, "/v1/ground"),
    Bound("text to speak", 100_000, lambda n: {"input": "x" * n, "voice": "alloy"}, "/v1/audio/speech"),
    Bound("text to draw", 32_000, lambda n: {"prompt": "x" * n}, "/v1/images/generations"),
    Bound("Anthropic's stop", 64, lambda n: {"stop_sequences": ["x"] * n}, "/v1/messages"),
    Bound("Anthropic's tools", 256, lambda n: {"tools": [{"name": f"f{i}", "input_schema": {"type": "object"}}
                                                         for i in range(n)]}, "/v1/messages"),
    Bound("items of a response", 16_384, lambda n: {"input": [USER] * n}, "/v1/responses"),
)  # fmt: skip


@pytest.mark.parametrize("bound", BOUNDS, ids=lambda bound: bound.what)
async def test_one_more_than_the_bound_is_refused_before_any_model_is_asked(site: OpenSite, bound: Bound) -> None:
    kind: type[BaseModel] = bodies()[bound.path]
    parse(kind, bound.full(bound.size))
    async with site() as running:
        answer = await running.client.post(bound.path, content=bound.full(bound.size + bound.more), headers=JSON)
        if bound.path == "/v1/messages":
            assert answer.status_code == 400
            assert answer.json()["error"]["type"] == "invalid_request_error"
        else:
            assert_error(answer, 400, "invalid_request")
        assert len(answer.content) < 1000
        assert running.runtime.pool.snapshot().workers == ()
        assert running.provider.calls == []


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
async def test_schemas_are_bounded_in_every_shape_of_request(site: OpenSite, path: str) -> None:
    async with site() as running:
        for schema in (nested(70), {"enum": list(range(20_000))}, {"pattern": "(a+)+$"}):
            flat = {"type": "function", "name": "f", "parameters": schema, "input_schema": schema}
            if path == "/v1/messages":
                del flat["type"], flat["parameters"]
            body = {"model": "near", "input": "x", "messages": [USER], "max_tokens": 4, "tools": [flat]}
            for other in ("messages", "max_tokens") if path == "/v1/responses" else ("input",):
                del body[other]
            answer = await running.client.post(path, json=body)
            assert answer.status_code == 400, answer.text
            assert "schema" in answer.text or "pattern" in answer.text, answer.text
        assert running.runtime.pool.snapshot().workers == ()


async def test_as_many_pictures_and_pixels_as_allowed_and_no_more(site: OpenSite) -> None:
    def shown(count: int, width: int, height: int) -> dict[str, Any]:
        url = f"data:image/png;base64,{base64.b64encode(png(width, height)).decode()}"
        part = picture(url)["messages"][0]["content"][0]
        return {**CHAT, "messages": [{"role": "user", "content": [part] * count}]}

    async with site() as running:
        for good in (shown(64, 1, 1), shown(1, 20_000, 2_500)):
            assert (await running.client.post(CHAT_PATH, json=good)).status_code == 200
        for bad in (shown(65, 1, 1), shown(1, 20_001, 1), shown(1, 20_000, 2_501), shown(1, 1, 2**31)):
            assert_error(await running.client.post(CHAT_PATH, json=bad), 413, "payload_too_large")


def test_seconds_of_audio_are_counted_while_it_is_decoded() -> None:
    """An hour of silence is 40 kB of FLAC, and would be 230 MB of samples."""
    av = pytest.importorskip("av", reason="the extra 'speech' is not installed")
    import numpy as np

    packed = io.BytesIO()
    with av.open(packed, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=16_000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 16_000 * 60), np.int16), format="s16", layout="mono")
        silence.rate = 16_000
        for _ in range(60):
            silence.pts = None
            container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    assert len(packed.getvalue()) < 1_000_000
    frames = 0

    def seen() -> None:
        nonlocal frames
        frames += 1

    tracemalloc.start()
    with pytest.raises(PayloadTooLarge, match="longer than 10 seconds"):
        decode(packed.getvalue(), rate=16_000, max_seconds=10, check=seen)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert frames < 500, "it was decoded much further than the limit"
    assert peak < 20_000_000


# ---- bytes on the wire


async def told(site: Site, *pieces: bytes) -> bytes:
    """The server's answer to these bytes until it closes the connection, within 5 s of virtual time."""
    host, port = site.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    answer = asyncio.create_task(reader.read())
    with virtual_time():
        try:
            for piece in pieces:
                if answer.done() or writer.is_closing():
                    break
                writer.write(piece)
                await writer.drain()
            return await asyncio.wait_for(answer, 5)
        except ConnectionError:
            return await answer
        finally:
            answer.cancel()
            writer.close()


def post(*headers: str, body: bytes = b"", close: bool = True) -> bytes:
    lines = [f"POST {CHAT_PATH} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, "Connection: close"] if close else lines).encode() + b"\r\n\r\n" + body


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def statuses(answer: bytes) -> list[int]:
    """Statuses of the answers, in order; asserts that each refusal has OpenAI's shape."""
    found = []
    for part in answer.split(b"HTTP/1.1 ")[1:]:
        status = int(part[:3])
        found.append(status)
        if status >= 400:
            assert b"content-type: application/json" in part.lower()
            assert json.loads(part.split(b"\r\n\r\n", 1)[1])["error"]["message"]
    return found


BODY = json.dumps(CHAT).encode()
PACKED = zlib.compress(BODY)
GZIPPED = gzip.compress(BODY, mtime=0)
LIMIT = 10_000


@pytest.mark.parametrize(
    ("request_bytes", "expected"),
    [
        ((post(f"Content-Length: {LIMIT + 1}", body=b" " * (LIMIT + 1)),), [413]),
        ((post("Content-Length: 99999999999999999999999", body=b" "),), [400]),
        ((post("Content-Length: -1", body=b" "),), [400]),
        ((post("Content-Length: 0x10", body=b" " * 16),), [400]),
        ((post("Content-Length: 5", "Content-Length: 50", body=b" " * 50),), [400]),
        ((post("Content-Length: 5", "Transfer-Encoding: chunked", body=chunk(BODY) + chunk(b"")),), [400]),
        ((post("Transfer-Encoding: chunked", close=False), *(chunk(b" " * 1000),) * 200), [413]),
        ((post("Transfer-Encoding: chunked", body=b"ffffffffffffffffff\r\n "),), [400]),
        ((post("Transfer-Encoding: chunked", body=b"zz\r\n "),), [400]),
        ((post("Transfer-Encoding: gzip, chunked", body=chunk(GZIPPED) + chunk(b"")),), [400]),
        ((post("Content-Encoding: gzip", "Content-Length: 5", body=b" " * 5),), [415]),
        ((post("Content-Encoding: deflate", "Transfer-Encoding: chunked", body=chunk(PACKED)),), [415]),
        ((post("Content-Length: 5", body=BODY),), [400]),
        ((post("X-Big: " + "x" * 40_000),), [431]),
        ((post(*("X-Many: x",) * 200),), [431]),
        ((post("X-Big: ", *(" folded",) * 90),), [400]),
        ((f"GET /{'x' * 40_000} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(),), [431]),
    ],
    ids=["too long", "too many digits", "negative", "hexadecimal", "two lengths", "a length and chunks",
         "many chunks", "a chunk without end", "a chunk of no size", "compressed on the way", "gzip", "deflate",
         "longer than it says", "a large header", "many headers", "folded headers", "a long path"],
)  # fmt: skip
async def test_bodies_with_a_false_length_and_oversized_heads_are_refused_in_shape(
    site: OpenSite, request_bytes: tuple[bytes, ...], expected: list[int]
) -> None:
    async with site(server={"limits": {"body_bytes": LIMIT}, "timeouts": {"body_idle": 0.5}}) as running:
        assert statuses(await told(running, *request_bytes)) == expected
        assert running.runtime.pool.snapshot().workers == ()
        assert (await running.client.post(CHAT_PATH, json=CHAT)).status_code == 200


async def test_a_body_shorter_than_it_says_is_given_up_in_time(site: OpenSite) -> None:
    async with site(server={"timeouts": {"body_idle": 0.3}}) as running:
        assert statuses(await told(running, post(f"Content-Length: {len(BODY) + 1}", body=BODY))) == [408]


async def test_a_bomb_is_not_unpacked(site: OpenSite) -> None:
    """Ten gigabytes of spaces, in ten megabytes of gzip, sent whole."""
    bomb = gzip.compress(b" " * 2**20, 9) * 10_000
    async with site() as running:
        headers = {**JSON, "content-encoding": "gzip"}
        assert_error(await running.client.post(CHAT_PATH, content=bomb, headers=headers), 415)
