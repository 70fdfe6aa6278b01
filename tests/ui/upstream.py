"""The provider behind the console's tests: two chat models, a voice, an ear and a painter."""

from __future__ import annotations

import asyncio
import base64
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import atan2, cos, hypot, pi

from aiohttp import web

from catalog.types import Json
from tests.fakes import openai_chat
from tests.fakes.openai import FakeOpenAI, event
from tests.fakes.openai_chat import Answer
from tests.fakes.server import Call

SETTINGS = """
[log]
format = "console"

[[endpoint]]
id = "lab"
protocol = "openai"
base_url = "{base_url}"

[[model]]
id = "lab/quick"
capabilities = ["chat", "tools", "json_schema"]
family = "quick"
source = {{ kind = "upstream", endpoint = "lab", model = "quick" }}
price = {{ input = 0.2, output = 0.8 }}
limits = {{ context_window = 32000 }}
benchmarks = {{ overall = 0.62 }}

[[model]]
id = "lab/deep"
capabilities = ["chat", "tools", "json_schema", "vision"]
family = "deep"
source = {{ kind = "upstream", endpoint = "lab", model = "deep" }}
price = {{ input = 3.0, output = 15.0 }}
limits = {{ context_window = 200000 }}
benchmarks = {{ overall = 0.88 }}

[[model]]
id = "lab/voice"
capabilities = ["speak"]
source = {{ kind = "upstream", endpoint = "lab", model = "voice" }}
price = {{ character = 15.0 }}
voices = ["alloy", "coral"]
languages = ["en"]

[[model]]
id = "lab/ear"
capabilities = ["transcribe", "translate"]
source = {{ kind = "upstream", endpoint = "lab", model = "ear" }}
price = {{ minute = 0.006 }}

[[model]]
id = "lab/painter"
capabilities = ["image", "image_edit"]
source = {{ kind = "upstream", endpoint = "lab", model = "painter" }}
price = {{ image = 0.04 }}
"""
"""The settings of the server; ``base_url`` is the provider's."""

SLOWLY = "slowly"
"""A prompt with this word is answered so slowly that a test can stop the answer."""
BROKEN = "break off"
"""... and one with this is cut in the middle."""
_TURNTABLE = """A **turntable** is a bridge that turns. A locomotive drives onto it, the bridge swings to a free \
stall, and the locomotive drives off again.

| Part | What it does |
|---|---|
| Bridge | carries the locomotive |
| Pit | holds the ring rail |
| Stall | parks one engine |

1. Drive on, slowly.
2. Turn to the stall.
3. Lock, and drive off.
"""
_CODE = '''Both lists are walked once, so it takes `O(n + m)` steps.

```python
def merge(left: list[int], right: list[int]) -> list[int]:
    """Merge two sorted lists."""
    merged = []
    while left and right:
        side = left if left[0] <= right[0] else right
        merged.append(side.pop(0))
    return merged + left + right


assert merge([1, 4], [2, 3]) == [1, 2, 3, 4]
```

Use `heapq.merge` where you have **more than two**.
'''
HOSTILE = """<img src=x onerror="document.title='taken'"> <script>document.title='taken'</script>

[a link](javascript:document.title='taken') ![a picture](https://elsewhere.example/spy.png) &lt;b&gt;
"""
_ANSWERS = {"turntable": _TURNTABLE, "sorted lists": _CODE, "hostile": HOSTILE}


class Lab(FakeOpenAI):
    """Answers by a word of the prompt, and streams at the pace of a model."""

    def __init__(self) -> None:
        super().__init__()
        self.models = ["quick", "deep", "voice", "ear", "painter"]
        self.context = 200_000
        self.reply = "The next train leaves from platform four at half past nine."

    async def chat(self, request: web.Request, call: Call) -> web.StreamResponse:
        said = _last_words(call)
        pace = 0.05 if SLOWLY in said else 0.012 if call.body["model"] == "deep" else 0.004
        call.fault = replace(call.fault, chunk_delay=pace, cut_after=5 if BROKEN in said else None)
        return await super().chat(request, call)

    def answer(self, call: Call) -> Answer:
        said = _last_words(call)
        if "sources" in said:
            return replace(
                openai_chat.limited(self.reply, call.body), annotations=(openai_chat.citation(self.reply),)
            )
        if SLOWLY in said:
            return Answer(pieces=tuple(f" {number}" for number in range(400)))
        for word, text in _ANSWERS.items():
            if word in said:
                return openai_chat.limited(text, call.body)
        return super().answer(call)

    async def draw(self, request: web.Request, call: Call) -> web.StreamResponse:
        picture = base64.b64encode(roundhouse()).decode()
        usage = {"input_tokens": 5, "output_tokens": 10, "total_tokens": 15}
        done: Json = {
            "type": "image_generation.completed",
            "b64_json": picture,
            "output_format": "png",
            "usage": usage,
        }
        if not call.body.get("stream"):
            return await self.document(request, call, {"created": 1, "data": [{"b64_json": picture}]})
        return await self.stream(request, call, [event(done, "image_generation.completed")])


def _last_words(call: Call) -> str:
    """The text of the conversation's last message of a person."""
    content = [each for each in call.body["messages"] if each["role"] == "user"][-1]["content"]
    if isinstance(content, str):
        return content
    return " ".join(part.get("text", "") for part in content)


def roundhouse(size: int = 320) -> bytes:
    """A picture as PNG: stalls around a turntable, from above, at dawn."""
    rows = bytearray()
    for y in range(size):
        rows.append(0)
        for x in range(size):
            far, angle = hypot(x - size / 2, y - size / 2) / size, atan2(y - size / 2, x - size / 2)
            stall = 0.25 < far < 0.46 and cos(angle * 14) > -0.2 and -pi * 0.95 < angle < pi * 0.6
            bridge = far < 0.16 and abs((x - y) / size) < 0.05
            sky = (250 - y // 3, 190 - y // 4, 130 + y // 6)
            ground = (92, 88, 84) if far < 0.2 else sky
            rows += bytes((40, 66, 78) if stall else (235, 168, 60) if bridge else ground)

    def block(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + block(b"IHDR", head)
        + block(b"IDAT", zlib.compress(bytes(rows)))
        + block(b"IEND", b"")
    )


def eventually(check: Callable[[], bool], within: float = 10.0) -> bool:
    """Whether a condition became true within so many seconds."""
    end = time.monotonic() + within
    while not check():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@contextmanager
def running() -> Iterator[Lab]:
    """The provider, in an event loop of a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def made() -> Lab:
        lab = Lab()
        await lab.start()
        return lab

    lab = asyncio.run_coroutine_threadsafe(made(), loop).result(10)
    try:
        yield lab
    finally:
        asyncio.run_coroutine_threadsafe(lab.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
