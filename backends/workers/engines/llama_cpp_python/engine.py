"""Engine ``llama-cpp-python``: GGUF language models with ``llama_cpp.Llama``, one request at a time.

For machines where the package is already built, or built for hardware without a wheel of ``xllamacpp``; elsewhere
the engine ``llamacpp`` is better. The package's own server is not used: it omits the usage from streams and
continues to decode after a disconnect. Source: llama_cpp/llama.py of llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Generator, Sequence
from typing import Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from backends.wire.chat import ChatRequest
from backends.wire.completions import CompletionRequest
from backends.wire.tokens import DetokenizeRequest, TokenizeRequest
from backends.workers.engines.common.chunks import (
    Piece,
    PlainOutputParser,
    Token,
    chat_events,
    completion_events,
    visible_pieces,
)
from backends.workers.engines.common.messages import messages_of
from backends.workers.engines.common.options import EngineOptions, GgufPath, UserPath, read_options
from backends.workers.engines.llama_cpp_python.model import LlamaModel, LlamaSampling
from backends.workers.program.app import json_response, parse, serve_engine, stream_response
from backends.workers.program.threads import CancelSignal, ThreadRunner, WorkerStats
from backends.workers.spec import Ready, WorkerSpec
from catalog.errors import ConfigurationError, ContextLengthExceeded, UnsupportedParameter
from catalog.store.file_checks import read_regular
from catalog.types import Json

NAME = "llama-cpp-python"


class LlamaCppPythonOptions(EngineOptions):
    """The ``options`` of a catalogue row; the names are the package's own."""

    n_gpu_layers: int | None = Field(default=None, ge=-1, description="-1: all; default: all, but on cpu none")
    n_batch: int = Field(default=512, ge=1, description="tokens of a prompt in one batch")
    flash_attn: bool = False
    lora_path: GgufPath = None
    chat_template_file: UserPath | None = None


def model_settings(spec: WorkerSpec) -> dict[str, Any]:
    """Make the arguments of ``llama_cpp.Llama``. Raises ConfigurationError."""
    options = read_options(LlamaCppPythonOptions, NAME, spec.options)
    if spec.path is None:
        raise ConfigurationError(f"Engine {NAME} needs a GGUF file, and '{spec.model_id}' names none.")
    layers = options.n_gpu_layers
    return {
        "model_path": spec.path,
        "n_ctx": spec.context or 0,
        "n_threads": spec.threads,
        "n_threads_batch": spec.threads,
        "n_batch": options.n_batch,
        "n_gpu_layers": layers if layers is not None else (0 if spec.device == "cpu" else -1),
        "flash_attn": options.flash_attn,
        "lora_path": options.lora_path and str(options.lora_path),
        "verbose": False,
    }


def serve(spec: WorkerSpec, ready: Ready) -> None:
    """Run the worker; see ``backends.workers.spec.EngineEntryPoint``. Raises as ``load`` does."""
    serve_engine(spec, LlamaCppPythonEngine(spec), ready)


class LlamaCppPythonEngine:
    """Serves one request after the other; each reuses the KV cache of the prefix shared with the last one."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._settings = model_settings(spec)
        # The model has the KV cache of one sequence only.
        self._runner = ThreadRunner(1)

    @property
    def stats(self) -> WorkerStats:
        return self._runner.stats

    def load(self) -> None:
        file = read_options(LlamaCppPythonOptions, NAME, self._spec.options).chat_template_file
        template = read_regular(file).decode() if file else None
        self._model = LlamaModel(self._spec.model_id, self._settings, template)

    def close(self) -> None:
        self._runner.close()

    def routes(self) -> Sequence[BaseRoute]:
        return [
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/completions", self._complete, methods=["POST"]),
            Route("/infill", self._infill, methods=["POST"]),
            Route("/tokenize", self._tokenize, methods=["POST"]),
            Route("/detokenize", self._detokenize, methods=["POST"]),
            Route("/props", self._props),
        ]

    async def _chat(self, http: Request) -> Response:
        request = parse(ChatRequest, await http.body())
        if request.tools and request.tool_choice != "none":
            raise UnsupportedParameter(f"The engine {NAME} calls no tools by itself.", param="tools")
        arguments = (request.model_extra or {}).get("chat_template_kwargs") or {}
        messages = messages_of(request, NAME)
        prompt = await asyncio.to_thread(self._model.chat_prompt, messages, arguments)
        wanted = (request.top_logprobs or 0) if request.logprobs else None
        sampling = await self._sampling(request, prompt, request.output_limit, wanted)
        pieces = self._pieces(prompt, sampling, request.stop)
        events = chat_events(
            pieces,
            PlainOutputParser(),
            model=self._spec.model_id,
            prompt_tokens=len(prompt),
            options=request.stream_options,
        )
        return await stream_response(http, events, media_type="text/event-stream")

    async def _complete(self, http: Request) -> Response:
        request = parse(CompletionRequest, await http.body())
        prompt = self._model.prompt(request.prompt)
        sampling = await self._sampling(request, prompt, request.max_tokens, request.logprobs)
        pieces = self._pieces(prompt, sampling, request.stop)
        events = completion_events(pieces, model=self._spec.model_id, prompt_tokens=len(prompt))
        return await stream_response(http, events, media_type="text/event-stream")

    def _pieces(
        self, prompt: list[int], sampling: LlamaSampling, stop: str | list[str] | None
    ) -> AsyncGenerator[Piece]:
        def decode(cancel: CancelSignal) -> Generator[Token, None, None]:
            for token in self._model.decode(prompt, sampling):
                cancel.check()
                yield token

        return visible_pieces(
            self._runner.stream(decode),
            decode=self._model.text,
            prompt=prompt,
            stop=stop,
            logprobs=sampling.top_logprobs is not None,
        )

    async def _sampling(
        self,
        request: ChatRequest | CompletionRequest,
        prompt: list[int],
        asked: int | None,
        logprobs: int | None,
    ) -> LlamaSampling:
        """Make the sampling parameters. Raises ContextLengthExceeded if no room is left for an answer."""
        room = self._model.window - len(prompt)
        if room < 1:
            param = "messages" if isinstance(request, ChatRequest) else "prompt"
            raise ContextLengthExceeded(
                model=self._spec.model_id, limit=self._model.window, requested=len(prompt), param=param
            )
        text = request.grammar
        given: Json = {
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_k": request.top_k,
            "min_p": request.min_p,
            "typical_p": request.typical_p,
            "repeat_penalty": request.repeat_penalty,
            "presence_penalty": request.presence_penalty,
            "frequency_penalty": request.frequency_penalty,
        }
        return LlamaSampling(
            max_tokens=min(asked or room, room),
            seed=secrets.randbits(32) if request.seed is None else request.seed % 2**32,
            logit_bias=self._model.bias(request.logit_bias),
            ignore_eos=bool((request.model_extra or {}).get("ignore_eos")),
            top_logprobs=logprobs,
            stop_tokens=self._model.stops(request.stop_token_ids),
            min_tokens=request.min_tokens or 0,
            grammar=None if text is None else await asyncio.to_thread(self._model.grammar, text),
            **{name: value for name, value in given.items() if value is not None},
        )

    async def _infill(self, http: Request) -> Response:
        del http
        raise UnsupportedParameter(f"'{self._spec.model_id}' cannot fill in text before a suffix.", param="suffix")

    async def _tokenize(self, http: Request) -> Response:
        request = parse(TokenizeRequest, await http.body())
        ids = self._model.tokenize(request.content, bos=request.add_special, special=request.parse_special)
        if request.with_pieces:
            return json_response(
                {"tokens": [{"id": token, "piece": _piece(self._model.raw([token]))} for token in ids]}
            )
        return json_response({"tokens": ids})

    async def _detokenize(self, http: Request) -> Response:
        request = parse(DetokenizeRequest, await http.body())
        self._model.check(request.tokens, "tokens")
        return json_response({"content": self._model.raw(request.tokens).decode(errors="replace")})

    async def _props(self, http: Request) -> Response:
        """Tell the gateway that the chat template's tool calls are not supported: they are not parsed here."""
        del http
        return json_response({"chat_template_caps": {"supports_tools": False}})


def _piece(data: bytes) -> str | list[int]:
    """Return a token's text, or its bytes if they are part of a character, as llama-server does."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)
