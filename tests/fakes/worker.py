"""A fake worker that speaks the workers' protocol and fails on demand; the supervisor runs it like any engine.

It imports the standard library only, so that it starts in a tenth of a second. Its switches come from the
catalogue row's ``options`` and, for one request, from the field ``fake`` of the body, or from the last message if
its content is a JSON object (which a gateway does not drop):

================  ==================================================================================
``start_delay``   seconds before it is ready
``start_hold``    not ready before this file exists
``fail_start``    report that the model cannot be loaded, with this reason
``exit_start``    exit with this code before it is ready, after a line on standard error
``crash_start``   print this line and crash with SIGSEGV before it is ready
``hold_mib``      allocate that much memory
``spin``          compute for ever, from the first such request on
``grow_start``    allocate up to so many MiB before it is ready, and never be ready
``ignore_term``   ignore SIGTERM
``child``         start a child process, whose id is in ``/stats``
``delay``         seconds before the first token
``hold``          no token before this file exists
``interval``      seconds between tokens
``tokens``        number of tokens to send
``stall_after``   send no more after that many tokens, and leave the connection open
``mute``          from this request on, answer nothing: the event loop hangs
``unlisten``      delete the socket and close it, as this request begins
``die_at``        kill the process with SIGKILL before that token
``cut_at``        close the connection before that token
``malformed_at``  send invalid JSON in place of that token
``status``        answer with this HTTP status and an error
``text``          the tokens' text; ``{model}`` and ``{i}`` are replaced
``name``          the name of this request in the journal
``journal``       a file that receives a line of JSON when a request begins, sends its first token, is
                  cancelled or done, with the seconds of the machine's monotonic clock
================  ==================================================================================

With a grammar it answers with a short text of it, by llguidance, and ``/infill`` has llama-server's own stream.
``/stats`` counts requests: active, most at one time, done, cancelled.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any


@dataclass
class Stats:
    active: int = 0
    most: int = 0
    done: int = 0
    cancelled: int = 0
    child: int | None = None


class FakeWorker:
    """A fake worker of one model. ``spec`` has the fields of :class:`backends.workers.spec.WorkerSpec`."""

    def __init__(self, spec: Any) -> None:
        self.spec = spec
        self.stats = Stats()

    async def serve(self, ready: Callable[[], None]) -> None:
        """Listen until SIGTERM."""
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stopped.set)
        options = self.spec.options
        if options.get("ignore_term"):
            loop.remove_signal_handler(signal.SIGTERM)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if options.get("child"):
            child = await asyncio.create_subprocess_exec(sys.executable, "-c", "import time; time.sleep(600)")
            self.stats.child = child.pid
        if self.spec.socket.startswith("/"):
            self.server = server = await asyncio.start_unix_server(self._connection, self.spec.socket)
        else:
            host, _, port = self.spec.socket.rpartition(":")
            self.server = server = await asyncio.start_server(self._connection, host, int(port))
        print(f"fake worker of {self.spec.model_id} listens", flush=True)
        ready()
        await stopped.wait()
        server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            _, path, _ = lines[0].split(" ", 2)
            await self._answer(path, headers, body, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(
        self, path: str, headers: dict[str, str], body: bytes, reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:  # fmt: skip
        if path == "/stats":
            await _json(writer, 200, vars(self.stats))
        elif path == "/health":
            await _json(writer, 200, {"status": "ok"})
        elif headers.get("authorization") != f"bearer {self.spec.api_key}".lower():
            await _json(writer, 401, _error(401, "Invalid API Key"))
        else:
            await self._asked(path, json.loads(body or b"{}"), reader, writer)

    async def _asked(
        self, path: str, request: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        switches = {**self.spec.options, **(request.get("fake") or {}), **_told(request)}
        if path == "/tokenize":
            await _json(writer, 200, {"tokens": list(request["content"].encode())})
        elif path == "/detokenize":
            await _json(writer, 200, {"content": bytes(request["tokens"]).decode(errors="replace")})
        elif "status" in switches:
            await _json(writer, switches["status"], _error(switches["status"], "as told"))
        else:
            await self._attended(request, switches, path, reader, writer)

    async def _attended(
        self, request: dict[str, Any], switches: dict[str, Any], path: str, reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:  # fmt: skip
        """Answer the request; stop and count it as cancelled if the client disconnects."""
        if switches.get("unlisten"):
            self.server.close()
            os.unlink(self.spec.socket)  # noqa: PTH108
        while switches.get("mute"):
            time.sleep(0.01)  # noqa: ASYNC251 -- the fault itself
        if switches.get("spin"):
            threading.Thread(target=_spin, daemon=True).start()
        self.stats.active += 1
        self.stats.most = max(self.stats.most, self.stats.active)
        self._note("began", switches)
        work = asyncio.ensure_future(self._generate(request, switches, path, writer))
        gone = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if work.done() and not isinstance(work.exception(), ConnectionError):
                self.stats.done += 1
                self._note("done", switches)
                work.result()
            else:
                self.stats.cancelled += 1
                self._note("cancelled", switches)
        finally:
            work.cancel()
            gone.cancel()
            self.stats.active -= 1

    async def _generate(
        self, request: dict[str, Any], switches: dict[str, Any], path: str, writer: asyncio.StreamWriter
    ) -> None:
        whole = True
        if request.get("grammar") and "text" not in switches:
            text, whole = following(request["grammar"])
            switches = {**switches, "text": text, "tokens": 1}
        shape = _Shape(path, self.spec.model_id)
        limit = request.get("n_predict" if shape.infill else "max_tokens") or 10**9
        count = min(switches.get("tokens", 4), limit)
        await _begin(switches)
        if request.get("stream"):
            await self._stream(shape, switches, count, writer, limited=count == limit or not whole)
        else:
            text = "".join(self._text(switches, i) for i in range(count))
            if switches.get("interval"):
                await asyncio.sleep(switches["interval"] * count)
            await _json(writer, 200, shape.whole(text, count))

    async def _stream(
        self, shape: _Shape, switches: dict[str, Any], count: int, writer: asyncio.StreamWriter, *, limited: bool
    ) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
        writer.write(head + b"Connection: close\r\n\r\n")
        for i in range(count):
            if i == switches.get("stall_after"):
                await writer.drain()
                await asyncio.sleep(3600)
            if i == switches.get("die_at"):
                await writer.drain()
                os.kill(os.getpid(), signal.SIGKILL)
            if i == switches.get("cut_at"):
                return
            if i == switches.get("malformed_at"):
                await _chunk(writer, b'data: {"choices": [{"del\n\n')
            else:
                await _event(writer, shape.token(self._text(switches, i)))
            if i == 0:
                self._note("first", switches)
            if switches.get("interval"):
                await asyncio.sleep(switches["interval"])
        for event in shape.end(count, limited=limited):
            await _event(writer, event)
        if not shape.infill:
            await _chunk(writer, b"data: [DONE]\n\n")
        await _chunk(writer, b"")

    def _note(self, event: str, switches: dict[str, Any]) -> None:
        if "journal" in switches:
            line = {"event": event, "name": switches.get("name"), "at": time.monotonic(), "pid": os.getpid()}
            line |= {"model": self.spec.model_id, "active": self.stats.active}
            with open(switches["journal"], "a", encoding="utf-8") as file:  # noqa: PTH123
                file.write(json.dumps(line) + "\n")

    def _text(self, switches: dict[str, Any], i: int) -> str:
        template = str(switches.get("text", "{model}:{i} "))
        return template.replace("{model}", self.spec.model_id).replace("{i}", str(i))


class _Shape:
    """The JSON of a chat, a completion or an infill."""

    def __init__(self, path: str, model: str) -> None:
        self.infill = path == "/infill"
        self._chat = path.endswith("/chat/completions")
        self._base = {
            "id": "chatcmpl-fake" if self._chat else "cmpl-fake",
            "object": "chat.completion.chunk" if self._chat else "text_completion",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, text: str, count: int) -> dict[str, Any]:
        """Make an answer that is not streamed."""
        message = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        choice = {"index": 0, **message, "finish_reason": "stop"}
        return {**self._base, "choices": [choice], "usage": _usage(count)}

    def token(self, text: str) -> dict[str, Any]:
        """Make the event of a token."""
        if self.infill:
            return {"content": text, "stop": False}
        return self._chunk({"delta": {"content": text}} if self._chat else {"text": text}, None)

    def end(self, count: int, *, limited: bool) -> list[dict[str, Any]]:
        """Make the events after the last token: the finish reason and the usage."""
        if self.infill:
            ended = {"stop": True, "stop_type": "limit" if limited else "eos"}
            return [{"content": "", **ended, "tokens_evaluated": 3, "tokens_predicted": count}]
        last = self._chunk({"delta": {}} if self._chat else {"text": ""}, "length" if limited else "stop")
        return [last, {**self._base, "choices": [], "usage": _usage(count)}]

    def _chunk(self, content: dict[str, Any], reason: str | None) -> dict[str, Any]:
        return {**self._base, "choices": [{"index": 0, **content, "finish_reason": reason}]}


async def _begin(switches: dict[str, Any]) -> None:
    """Wait until the first token may be sent."""
    await asyncio.sleep(switches.get("delay", 0))
    while _held(switches.get("hold")):
        await asyncio.sleep(0.005)


def _held(file: str | None) -> bool:
    return file is not None and not os.path.exists(file)  # noqa: PTH110


def _told(request: dict[str, Any]) -> dict[str, Any]:
    content = (request.get("messages") or [{}])[-1].get("content")
    if not isinstance(content, str) or not content.startswith("{"):
        return {}
    switches: dict[str, Any] = json.loads(content)
    return switches


def following(grammar: str, most: int = 2000) -> tuple[str, bool]:
    """A short text of the grammar, as constrained decoding would make it, and whether it is finished."""
    import site

    site.main()  # it is started without, as that is faster
    from llguidance import LLMatcher, LLTokenizer

    tokens = LLTokenizer("byte")
    matcher = LLMatcher(tokens, grammar, log_level=0)
    text = bytearray()
    for _ in range(most):
        if matcher.is_accepting() or matcher.is_stopped():
            break
        bits = matcher.compute_bitmask()
        allowed = [token for token in range(256) if bits[token // 8] >> token % 8 & 1]
        token = min(allowed, key=lambda token: (chr(token) not in _CLOSING, not chr(token).isalnum(), token))
        matcher.consume_token(token)
        text.append(token)
    return text.decode(errors="replace"), not matcher.is_error() and matcher.is_accepting()


_CLOSING = '"}],:'


def _usage(count: int) -> dict[str, int]:
    return {"prompt_tokens": 3, "completion_tokens": count, "total_tokens": 3 + count}


def _error(status: int, message: str) -> dict[str, Any]:
    return {"error": {"code": status, "message": message, "type": "fake_error"}}


async def _event(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    await _chunk(writer, b"data: " + json.dumps(body).encode() + b"\n\n")


async def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))
    await writer.drain()


async def _json(writer: asyncio.StreamWriter, status: int, body: dict[str, Any]) -> None:
    data = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} Fake\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    writer.write(head.encode() + b"Connection: close\r\n\r\n" + data)
    await writer.drain()


def serve(spec: Any, ready: Callable[[], None]) -> None:
    """Serve as an engine's module: the entry point that ``backends.workers.program.main`` calls."""
    options = spec.options
    time.sleep(options.get("start_delay", 0))
    while _held(options.get("start_hold")):
        time.sleep(0.005)
    if "exit_start" in options:
        print("fake worker: broken as told", file=sys.stderr, flush=True)
        os._exit(options["exit_start"])
    if "crash_start" in options:
        print(options["crash_start"], file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if "fail_start" in options:
        raise RuntimeError(options["fail_start"])
    if "grow_start" in options:
        grown = [b"x" * 2**20 for _ in range(options["grow_start"])]
        time.sleep(3600 + len(grown))
    held = bytearray(options.get("hold_mib", 0) * 2**20)
    for i in range(0, len(held), 4096):
        held[i] = 1
    asyncio.run(FakeWorker(spec).serve(ready))


def main() -> None:
    """Serve as a separate program: the same contract as ``backends.workers.program.main``, without its imports."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--ready-fd", type=int, required=True)
    descriptor = parser.parse_args().ready_fd
    spec = SimpleNamespace(**json.loads(sys.stdin.buffer.readline()))
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        serve(spec, lambda: void(os.write(descriptor, b"ready\n")))
    except RuntimeError as error:
        os.write(descriptor, f"failed: {error}\n".encode())
        os._exit(1)


def void(_: object) -> None:
    """Discard a callback's result."""


def _spin() -> None:
    while True:
        pass


def _die_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
