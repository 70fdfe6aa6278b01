"""No body, however made, holds the event loop for long: its work is linear and short, or done in a thread."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.security.conftest import OpenSite

LONGEST = 0.5
"""Seconds of processor time of one step of the event loop."""
CHAT = "/v1/chat/completions"
HEAD = b'{"model":"near","messages":[{"role":"user","content":"hi"}],'


@dataclass
class Steps:
    longest: float = 0.0


@contextmanager
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[Steps]:
    """Measure the processor time of every step of the loop; other load of the machine does not count."""
    steps = Steps()
    run = asyncio.Handle._run

    def timed(self: asyncio.Handle) -> None:
        began = time.thread_time()
        run(self)
        took = time.thread_time() - began
        task = getattr(getattr(self, "_callback", None), "__self__", None)
        if took > steps.longest and "aiohttp/web" not in repr(task):  # the fake provider's own work
            steps.longest = took

    with monkeypatch.context() as patched:
        patched.setattr(asyncio.Handle, "_run", timed)
        yield steps


def picture(data: bytes, *, model: str = "near") -> bytes:
    part = {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"}}
    return json.dumps({"model": model, "messages": [{"role": "user", "content": [part]}]}).encode()


def text(content: str) -> bytes:
    return json.dumps({"model": "near", "messages": [{"role": "user", "content": content}]}).encode()


def field(value: bytes) -> bytes:
    return HEAD + b'"x":' + value + b"}"


MIB = 2**20


def sent(path: str, **body: Any) -> tuple[str, bytes]:
    return path, json.dumps({"model": "near", **body}).encode()


WORDS = "word " * 1_500_000
BODIES: dict[str, Callable[[], tuple[str, bytes]]] = {
    "fill bytes of a JPEG": lambda: (CHAT, picture(b"\xff\xd8" + b"\xff" * (19 * MIB))),
    "segments of a JPEG": lambda: (CHAT, picture(b"\xff\xd8" + b"\xff\xe0\x00\x02" * (4 * MIB))),
    "a picture for a provider": lambda: (CHAT, picture(b"\xff\xd8" + b"\xff" * (19 * MIB), model="far")),
    "base64 with an error at its end": lambda: (CHAT, picture(b"\xff\xd8" * (9 * MIB)).replace(b'"}}', b'!"}}')),
    "parameters of a data URL": lambda: (CHAT, picture(b"").replace(b"base64,", b"a=b;" * (7 * MIB))),
    "containers": lambda: (CHAT, field(b"[" + b"{}," * 90_000 + b"{}]")),
    "too many containers": lambda: (CHAT, field(b"[" + b"{}," * 9_000_000 + b"{}]")),
    "numbers": lambda: (CHAT, field(b"[" + b"1.5," * 1_900_000 + b"1]")),
    "numbers in a message with a file": lambda: sent(
        CHAT,
        messages=[{"role": "user", "content": [{"type": "file", "file": {"file_id": "f", "x": [1] * 1_900_000}}]}],
    ),
    "too many numbers": lambda: (CHAT, field(b"[" + b"1.5," * 7_500_000 + b"1]")),
    "names": lambda: (CHAT, field(b"{" + b",".join(b'"%d":1' % i for i in range(190_000)) + b"}")),
    "too many names": lambda: (CHAT, field(b"{" + b",".join(b'"%d":1' % i for i in range(2_500_000)) + b"}")),
    "messages": lambda: sent(CHAT, messages=[{"role": "user", "content": "hi"}] * 90_000),
    "parts": lambda: sent(CHAT, messages=[{"role": "user", "content": [{"type": "text", "text": ""}] * 90_000}]),
    "escapes": lambda: (CHAT, text("\u00e9" * (5 * MIB))),
    "one long word": lambda: (CHAT, text("a" * 7_900_000)),
    "a text over the bound": lambda: (CHAT, text("a" * (30 * MIB))),
    "words": lambda: (CHAT, text(WORDS)),
    "messages of words": lambda: sent(CHAT, messages=[{"role": "user", "content": WORDS}] * 4),
    "lines": lambda: (CHAT, text("\n" * 7_900_000)),
    "code": lambda: (CHAT, text("```\n" * 1_900_000)),
    "digits": lambda: (CHAT, text("1" * 7_900_000)),
    "brackets": lambda: (CHAT, text("([{" * 30_000)),
    "chinese": lambda: (CHAT, text("\u4f60" * (5 * MIB))),
    "texts to embed": lambda: sent("/v1/embeddings", model="vector", input=["word " * 700] * 8192),
    "tokens to embed": lambda: sent("/v1/embeddings", model="vector", input=[[1] * 230] * 8192),
    "documents": lambda: sent("/v1/rerank", model="ranker", query="q", documents=["word " * 600] * 10_000),
    "a prompt": lambda: sent("/v1/completions", prompt=WORDS),
    "input of a response": lambda: sent("/v1/responses", input=WORDS),
    "Anthropic's message": lambda: sent(
        "/v1/messages", max_tokens=4, messages=[{"role": "user", "content": WORDS}]
    ),
    "tools": lambda: sent(
        CHAT,
        messages=[{"role": "user", "content": "hi"}],
        tools=[{"type": "function", "function": {"name": f"f{i}", "description": "x " * 900}} for i in range(256)],
    ),
    "not JSON": lambda: (CHAT, b"\xff" * (31 * MIB)),
    "open brackets": lambda: (CHAT, b"[" * (31 * MIB)),
}


@pytest.mark.parametrize("name", BODIES)
async def test_no_body_holds_the_loop(site: OpenSite, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path, body = BODIES[name]()
    assert len(body) < 32 * MIB
    async with site() as running:
        await running.client.post(CHAT, content=text("hi"), headers={"content-type": "application/json"})
        with measured(monkeypatch) as steps:
            answer = await running.client.post(
                path, content=body, headers={"content-type": "application/json"}, timeout=120
            )
        assert answer.status_code < 500
        assert steps.longest < LONGEST


async def test_no_form_holds_the_loop(site: OpenSite, monkeypatch: pytest.MonkeyPatch) -> None:
    async with site() as running:
        for data in (b"\r\n--" * (5 * MIB), b"\r" * (20 * MIB), b"\0" * (20 * MIB)):
            with measured(monkeypatch) as steps:
                answer = await running.client.post(
                    "/v1/audio/transcriptions", data={"model": "ear"}, files={"file": ("a.wav", data)}, timeout=120
                )
            assert answer.status_code < 500
            assert steps.longest < LONGEST
