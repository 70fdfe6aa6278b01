"""MLX (Apple silicon, or its CPU build): ``mlx_lm``'s own server, on the worker's Unix socket.

It batches continuously with its ``BatchGenerator``. What it lacks is added here: a key, and that a request
cannot name a model, an adapter or a draft to load. Source: mlx_lm/server.py of mlx-lm 0.32.
"""

from __future__ import annotations

import hmac
import io
import json
import os
import signal
import sys
import threading
import time
from http.server import ThreadingHTTPServer
from pathlib import Path
from socket import AF_UNIX
from typing import Any

from pydantic import Field

from backends.workers.engines.options import EngineOptions, read_options
from backends.workers.spec import Ready, WorkerSpec
from catalog.errors import ConfigurationError

_LOADS = frozenset({"model", "adapters", "draft_model", "num_draft_tokens"})
_PAUSE = 0.05


class Options(EngineOptions):
    """What a row may set; the names follow mlx_lm.server's arguments."""

    adapter_path: Path | None = None
    draft_model: Path | None = Field(default=None, description="speculative decoding; requests then run in turn")
    draft_tokens: int = Field(default=3, ge=1)
    prompt_concurrency: int = Field(default=8, ge=1)
    prefill_step_size: int = Field(default=2048, ge=32)
    prompt_cache_size: int = Field(default=10, ge=0, description="KV caches kept for prompts to come")


def arguments(spec: WorkerSpec) -> list[str]:
    """The arguments of ``mlx_lm.server``. Raises ConfigurationError."""
    options = read_options(Options, "mlx", spec.options)
    if spec.path is None:
        raise ConfigurationError(f"Engine mlx needs a model folder, and '{spec.model_id}' names none.")
    given = ["--model", spec.path, "--decode-concurrency", str(spec.slots + spec.extra)]
    given += ["--prompt-concurrency", str(options.prompt_concurrency)]
    given += ["--prefill-step-size", str(options.prefill_step_size)]
    given += ["--prompt-cache-size", str(options.prompt_cache_size)]
    given += ["--num-draft-tokens", str(options.draft_tokens)]
    # Its default would cut an answer at 512 tokens that nobody asked to be cut.
    given += ["--max-tokens", str(spec.context or 8192)]
    for name, value in (("--adapter-path", options.adapter_path), ("--draft-model", options.draft_model)):
        if value is not None:
            given += [name, str(value)]
    return given


def cleaned(body: dict[str, Any]) -> dict[str, Any]:
    """A request body without what would make the server load something."""
    return {key: value for key, value in body.items() if key not in _LOADS}


def serve(spec: WorkerSpec, ready: Ready) -> None:
    """Run mlx_lm's server until SIGTERM. Raises RuntimeError when the model does not load."""
    from mlx_lm import server as mlx_server

    def run(_host: str, _port: int, provider: Any) -> None:
        _run(spec, ready, mlx_server, provider)

    # Its argument parser lives inside its main(): going through it keeps the defaults of the installed version.
    mlx_server.run = run
    sys.argv = ["mlx_lm.server", *arguments(spec)]
    mlx_server.main()


def _run(spec: WorkerSpec, ready: Ready, mlx_server: Any, provider: Any) -> None:
    cache = mlx_server.LRUPromptCache(provider.cli_args.prompt_cache_size)
    generator = mlx_server.ResponseGenerator(provider, cache)
    while provider.model is None:
        if not generator.generation_available():
            raise RuntimeError("mlx_lm could not load the model")
        time.sleep(_PAUSE)
    httpd = _UnixServer(spec.socket, _handler(spec, mlx_server, generator))
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=httpd.shutdown).start())
    ready()
    httpd.serve_forever()
    sys.stdout.flush()
    os._exit(0)


class _UnixServer(ThreadingHTTPServer):
    address_family = AF_UNIX
    daemon_threads = True

    def __init__(self, path: str, handler: Any) -> None:
        super().__init__(path, handler)  # type: ignore[arg-type]

    def server_bind(self) -> None:
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "worker", 0

    def get_request(self) -> tuple[Any, Any]:
        connection, _ = super().get_request()
        return connection, ("worker", 0)


def _handler(spec: WorkerSpec, mlx_server: Any, generator: Any) -> Any:
    expected = f"Bearer {spec.api_key}".encode()

    class Handler(mlx_server.APIHandler):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(generator, *arguments, **named)

        def do_POST(self) -> None:  # noqa: N802 -- the name that http.server calls
            if not hmac.compare_digest(self.headers.get("Authorization", "").encode(), expected):
                return self._refuse(401, "Invalid API key")
            try:
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            except ValueError:
                return self._refuse(400, "The body is not JSON")
            if not isinstance(body, dict):
                return self._refuse(400, "The body is not an object")
            data = json.dumps(cleaned(body)).encode()
            self.rfile: io.BufferedIOBase = io.BytesIO(data)
            self.headers.replace_header("Content-Length", str(len(data)))
            try:
                super().do_POST()
            except ValueError as error:  # how it says that a parameter is wrong
                self._refuse(400, str(error))

        def generate_response(self, *arguments: Any, **named: Any) -> Any:
            return {**super().generate_response(*arguments, **named), "model": spec.model_id}

        def _refuse(self, status: int, message: str) -> None:
            kind = "authentication_error" if status == 401 else "invalid_request_error"
            data = json.dumps({"error": {"code": status, "message": message, "type": kind}}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return Handler
