"""``llama-cpp-python``: its own FastAPI server on the worker's Unix socket. One request at a time.

For machines where it is already built, or built for hardware that ``xllamacpp`` has no wheel for; the engine
``llamacpp`` is the better one elsewhere. Source: llama_cpp/server/app.py and settings.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import Field

from backends.workers.engines.options import EngineOptions, read_options
from backends.workers.spec import WorkerSpec
from catalog.errors import ConfigurationError
from catalog.model import Capability


class Options(EngineOptions):
    """What a row may set; the names follow the package's settings."""

    n_gpu_layers: int | None = Field(default=None, ge=-1)
    n_batch: int = Field(default=512, ge=1)
    flash_attn: bool = False
    chat_format: str | None = Field(default=None, pattern=r"^[\w-]+$")
    clip_model_path: Path | None = None
    lora_path: Path | None = None


def model_settings(spec: WorkerSpec) -> dict[str, Any]:
    """The fields of ``llama_cpp.server.settings.ModelSettings``. Raises ConfigurationError."""
    options = read_options(Options, "llama-cpp-python", spec.options)
    if spec.path is None:
        raise ConfigurationError(f"Engine llama-cpp-python needs a GGUF file, and '{spec.model_id}' names none.")
    layers = options.n_gpu_layers
    given: dict[str, Any] = {
        "model": spec.path,
        "model_alias": spec.model_id,
        "n_ctx": spec.context or 0,
        "n_threads": spec.threads,
        "n_threads_batch": spec.threads,
        "n_batch": options.n_batch,
        "n_gpu_layers": layers if layers is not None else (0 if spec.device == "cpu" else -1),
        "flash_attn": options.flash_attn,
        "embedding": Capability.EMBED in spec.capabilities,
        "chat_format": options.chat_format,
        "clip_model_path": options.clip_model_path and str(options.clip_model_path),
        "lora_path": options.lora_path and str(options.lora_path),
    }
    return {name: value for name, value in given.items() if value is not None}


def create(spec: WorkerSpec) -> Any:
    """The package's app, its tokenising routes in the shape of llama-server's. It loads the model here."""
    import llama_cpp
    from llama_cpp.server.app import create_app
    from llama_cpp.server.settings import ModelSettings, ServerSettings
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    app = create_app(
        server_settings=ServerSettings(api_key=spec.api_key, interrupt_requests=False),
        model_settings=[ModelSettings(**model_settings(spec))],
    )
    vocabulary = llama_cpp.Llama(spec.path, vocab_only=True, verbose=False)

    def permitted(request: Request) -> bool:
        return request.headers.get("authorization") == f"Bearer {spec.api_key}"

    async def tokenize(request: Request) -> Response:
        if not permitted(request):
            return JSONResponse(_error(401, "Invalid API key"), 401)
        body = json.loads(await request.body())
        special, text = bool(body.get("parse_special", True)), str(body["content"]).encode()
        tokens = vocabulary.tokenize(text, add_bos=bool(body.get("add_special", False)), special=special)
        if not body.get("with_pieces"):
            return JSONResponse({"tokens": tokens})
        return JSONResponse({"tokens": [{"id": t, "piece": _piece(vocabulary.detokenize([t]))} for t in tokens]})

    async def detokenize(request: Request) -> Response:
        if not permitted(request):
            return JSONResponse(_error(401, "Invalid API key"), 401)
        tokens = json.loads(await request.body())["tokens"]
        return JSONResponse({"content": vocabulary.detokenize(tokens, special=True).decode(errors="replace")})

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    app.router.routes[:0] = [
        Route("/tokenize", tokenize, methods=["POST"]),
        Route("/detokenize", detokenize, methods=["POST"]),
        Route("/health", health),
    ]
    return app


def _piece(data: bytes) -> str | list[int]:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)


def _error(status: int, message: str) -> dict[str, Any]:
    return {"error": {"code": status, "message": message, "type": "authentication_error"}}
