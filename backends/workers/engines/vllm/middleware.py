"""ASGI middleware that vLLM's server loads, to make it speak the workers' protocol.

It requires the worker's key on every path but ``/health`` (vLLM does so for ``/v1`` only), sets the model's name
in requests, gives ``/tokenize`` and ``/detokenize`` llama-server's shape, adds ``/stats`` with the number of
active requests, and hides all other routes. The engine names it in ``--middleware`` and configures it by
environment variables (``environment`` in ``engine.py``).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backends.workers.program.app import KeyCheck, error_response, json_response
from catalog.errors import InvalidRequest, NotFound, UnsupportedParameter
from catalog.types import Json

Change = Callable[[Json], Json]
KEY = "VLLM_API_KEY"
MODEL = "ROUNDHOUSE_MODEL"
TOOLS = "ROUNDHOUSE_TOOLS"
_MEMORY = 64 * 1024 * 1024


class WorkerWireMiddleware:
    """The middleware. vLLM constructs it without arguments, so environment variables configure it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._model = os.environ[MODEL]
        self._tools = os.environ.get(TOOLS) == "1"
        self._active = 0
        self._checked = KeyCheck(self._permitted, os.environ[KEY])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._checked(scope, receive, send)

    async def _permitted(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] == "/stats":
            await json_response({"active": self._active})(scope, receive, send)
        elif scope["path"] == "/props":
            await json_response({"chat_template_caps": {"supports_tools": self._tools}})(scope, receive, send)
        elif (scope["method"], scope["path"]) not in _SERVED:
            await error_response(NotFound(f"This worker has no {scope['path']}."))(scope, receive, send)
        elif scope["method"] == "GET":
            await self._app(scope, receive, send)
        else:
            self._active += 1
            try:
                await self._post(scope, receive, send)
            finally:
                self._active -= 1

    async def _post(self, scope: Scope, receive: Receive, send: Send) -> None:
        ask, tell = _WIRE.get(scope["path"], (_samplers, None))
        try:
            body = ask(_object(await _read(receive)))
        except InvalidRequest as error:
            await error_response(error)(scope, receive, send)
            return
        data = json.dumps({**body, "model": self._model}).encode()
        headers = [pair for pair in scope["headers"] if pair[0] not in {b"content-length", b"transfer-encoding"}]
        scope = {**scope, "headers": [*headers, (b"content-length", str(len(data)).encode())]}
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": data, "more_body": False}

        await self._app(scope, replay, _Rewritten(send, tell) if tell is not None else send)


async def _read(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise InvalidRequest("The body was cut off.")
        body += message.get("body", b"")
        if len(body) > _MEMORY:
            raise InvalidRequest("The body is too large for a worker.")
        if not message.get("more_body"):
            return bytes(body)


def _object(data: bytes) -> Json:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidRequest("The body is not JSON.") from None
    if not isinstance(body, dict):
        raise InvalidRequest("The body is not an object.")
    return body


# ---- translation of llama-server's names and shapes


def _samplers(body: Json) -> Json:
    renamed = {"repeat_penalty": "repetition_penalty"}
    return {renamed.get(name, name): value for name, value in body.items()}


def _tokenize(body: Json) -> Json:
    if body.get("parse_special") is False:
        raise UnsupportedParameter("vLLM always parses special tokens.", param="parse_special")
    return {
        "prompt": body.get("content"),
        "add_special_tokens": bool(body.get("add_special", False)),
        "return_token_strs": bool(body.get("with_pieces", False)),
    }


def _tokenized(answered: Json) -> Json:
    tokens, pieces = answered.get("tokens", []), answered.get("token_strs")
    if pieces is None:
        return {"tokens": tokens}
    return {"tokens": [{"id": token, "piece": piece} for token, piece in zip(tokens, pieces, strict=True)]}


def _detokenized(answered: Json) -> Json:
    return {"content": answered.get("prompt", "")}


_WIRE: dict[str, tuple[Change, Change | None]] = {
    "/tokenize": (_tokenize, _tokenized),
    "/detokenize": (lambda body: body, _detokenized),
}


# An allow-list, because vLLM has routes that load adapters, sleep or call its processes.
_SERVED = {("GET", path) for path in ("/health", "/metrics", "/v1/models")} | {
    ("POST", path) for path in ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank", *_WIRE)
}


class _Rewritten:
    """Collects a JSON response and sends it in another shape; errors pass unchanged."""

    def __init__(self, send: Send, change: Change) -> None:
        self._send = send
        self._change = change
        self._start: Message = {}
        self._body = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._body += message.get("body", b"")
        if message.get("more_body"):
            return
        data = bytes(self._body)
        if self._start["status"] == 200:
            data = json.dumps(self._change(json.loads(data)), ensure_ascii=False).encode()
        headers = [pair for pair in self._start["headers"] if pair[0].lower() != b"content-length"]
        headers.append((b"content-length", str(len(data)).encode()))
        await self._send({**self._start, "headers": headers})
        await self._send({"type": "http.response.body", "body": data})
