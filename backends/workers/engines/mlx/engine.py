"""Engine ``mlx``: language models on Apple silicon with ``mlx_lm`` (or, slowly, on its CPU build).

A model is a Hugging Face folder of safetensors, quantised or not; code in the folder is never run. Sequences are
batched continuously, and the KV caches of prompts are kept (:mod:`backends.workers.engines.mlx.decoder`). Chunks
have llama-server's shape. llguidance holds answers to a grammar.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from backends.constraints.lark import after_thought
from backends.wire.chat import ChatRequest
from backends.wire.completions import CompletionRequest
from backends.wire.sampling import Sampling
from backends.workers.engines.common.chunks import Piece, chat_events, completion_events, visible_pieces
from backends.workers.engines.common.guidance import matcher_factory
from backends.workers.engines.common.messages import messages_of
from backends.workers.engines.common.options import EngineOptions, FolderPath, read_options
from backends.workers.engines.common.text_tokenizer import TextTokenizer
from backends.workers.engines.common.token_routes import token_routes
from backends.workers.engines.mlx.chat_parser import MlxOutputParser
from backends.workers.engines.mlx.decoder import Decoder, Loaded, MlxSampling
from backends.workers.engines.mlx.seeing import LoadedToSee, SeeingDecoder, messages_to_see
from backends.workers.program.app import json_response, parse, serve_engine, stream_response
from backends.workers.program.threads import WorkerStats
from backends.workers.spec import Ready, WorkerSpec
from catalog.errors import (
    CapabilityMismatch,
    ConfigurationError,
    ContextLengthExceeded,
    EngineMissing,
    InvalidRequest,
    ModelUnavailable,
    UnsupportedParameter,
    UnsupportedValue,
)
from catalog.model import Capability
from catalog.types import Json


class MlxOptions(EngineOptions):
    """The ``options`` of a catalogue row."""

    adapter_path: FolderPath = Field(default=None, description="folder of a LoRA adapter")
    prefill_batch: int = Field(default=8, ge=1, description="prompts prefilled together")
    prefill_step: int = Field(
        default=512, ge=32, description="tokens of a prompt prefilled between decoding steps"
    )
    prompt_caches: int = Field(default=10, ge=0, description="KV caches kept for later prompts")


def serve(spec: WorkerSpec, ready: Ready) -> None:
    """Run the worker; see ``backends.workers.spec.EngineEntryPoint``. Raises as ``load`` does."""
    serve_engine(spec, MlxEngine(spec), ready)


class MlxEngine:
    """Serves a language model."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._options = read_options(MlxOptions, "mlx", spec.options)
        if spec.path is None:
            raise ConfigurationError(f"Engine mlx needs a model folder, and '{spec.model_id}' names none.")
        self._seeing = SeeingDecoder(self._read_to_see) if Capability.VISION in spec.capabilities else None
        self._decoder = self._seeing or Decoder(
            self._read,
            slots=spec.slots + spec.extra,
            prefill_batch=self._options.prefill_batch,
            prefill_step=self._options.prefill_step,
            prompt_caches=self._options.prompt_caches,
        )

    @property
    def stats(self) -> WorkerStats:
        return self._decoder.stats

    def load(self) -> None:
        self._decoder.start()

    def close(self) -> None:
        self._decoder.close()

    def routes(self) -> Sequence[BaseRoute]:
        return [
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/completions", self._complete, methods=["POST"]),
            Route("/infill", self._infill, methods=["POST"]),
            *token_routes(lambda: self._texts),
            Route("/props", self._props),
        ]

    def _read(self) -> Loaded:
        """Load the model; runs in the decoder's thread. Raises EngineMissing and ModelUnavailable."""
        try:
            import mlx.core as mx
            from mlx_lm import load
        except ImportError as error:
            raise EngineMissing("mlx", extra="mlx", package=error.name) from None
        if self._spec.device == "cpu":
            mx.set_default_device(mx.cpu)
        folder = Path(self._spec.path or "")
        adapter = self._options.adapter_path
        try:
            network, tokenizer, config = load(
                str(folder), adapter_path=adapter and str(adapter), return_config=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ModelUnavailable(f"mlx_lm cannot open '{self._spec.model_id}': {reason}") from error
        return Loaded(network, *self._know(tokenizer, config))

    def _read_to_see(self) -> LoadedToSee:
        """Load a model that sees; runs in its decoder's thread. Raises EngineMissing and ModelUnavailable."""
        try:
            import mlx.core as mx
            from mlx_lm.utils import load_tokenizer
            from mlx_vlm.utils import load, load_config
        except ImportError as error:
            raise EngineMissing("mlx", extra="mlx", package=error.name) from None
        if self._spec.device == "cpu":
            mx.set_default_device(mx.cpu)
        folder = Path(self._spec.path or "")
        adapter = self._options.adapter_path
        try:
            config = load_config(folder)
            network, processor = load(str(folder), adapter_path=adapter and str(adapter), trust_remote_code=False)
            tokenizer = load_tokenizer(folder, eos_token_ids=config.get("eos_token_id"))
        except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ModelUnavailable(f"mlx_vlm cannot open '{self._spec.model_id}': {reason}") from error
        text = config.get("text_config")
        return LoadedToSee(network, processor, *self._know(tokenizer, {**(text or {}), **config}))

    def _know(self, tokenizer: Any, config: Json) -> tuple[frozenset[int], tuple[int, ...]]:
        """Keep what is known of a model's texts; the ids that end an answer, and those that XTC spares."""
        folder = Path(self._spec.path or "")
        trained = int(config.get("max_position_embeddings") or 2**31)
        self._window = min(self._spec.context or trained, trained)
        self._tokenizer = tokenizer
        self._vocabulary = int(config.get("vocab_size") or len(tokenizer))
        self._texts = TextTokenizer(folder / "tokenizer.json", model=self._spec.model_id, max_tokens=self._window)
        self._guide: Any = None
        eos = frozenset(int(token) for token in tokenizer.eos_token_ids)
        return eos, (*tokenizer.encode("\n", add_special_tokens=False), *eos)

    # ---- answers

    async def _chat(self, http: Request) -> Response:
        request = parse(ChatRequest, await http.body())
        extra = request.model_extra or {}
        if request.tool_choice not in (None, "auto", "none"):
            raise UnsupportedValue("The engine mlx cannot require a tool call of this model.", param="tool_choice")
        tools = [tool.model_dump(exclude_none=True) for tool in request.tools or ()]
        if request.tool_choice == "none":
            tools = []
        prompt = await self._tokens(request, tools, extra.get("chat_template_kwargs") or {})
        wanted = (request.top_logprobs or 0) if request.logprobs else None
        text = MlxOutputParser(self._tokenizer, prompt, tools)
        if request.grammar is not None and text.thinks:
            bound = after_thought(request.grammar, self._tokenizer.think_end)
            request = request.model_copy(update={"grammar": bound})
        sampling = self._sampling(
            request, prompt, request.output_limit, wanted, extra, grammar=await self._grammar(request)
        )
        pieces = self._pieces(prompt, sampling, request.stop, wanted)
        events = chat_events(
            pieces,
            text,
            model=self._spec.model_id,
            prompt_tokens=len(prompt),
            options=request.stream_options,
        )
        return await stream_response(http, events, media_type="text/event-stream")

    async def _complete(self, http: Request) -> Response:
        request = parse(CompletionRequest, await http.body())
        prompt = await asyncio.to_thread(self._ids, request.prompt)
        wanted = request.logprobs
        sampling = self._sampling(
            request,
            prompt,
            request.max_tokens,
            wanted,
            request.model_extra or {},
            grammar=await self._grammar(request),
        )
        pieces = self._pieces(prompt, sampling, request.stop, wanted)
        events = completion_events(pieces, model=self._spec.model_id, prompt_tokens=len(prompt))
        return await stream_response(http, events, media_type="text/event-stream")

    def _pieces(
        self, prompt: list[int], sampling: MlxSampling, stop: str | list[str] | None, logprobs: int | None
    ) -> AsyncGenerator[Piece]:
        tokens = self._decoder.decode(prompt, sampling)
        return visible_pieces(
            tokens, decode=self._decoded, prompt=prompt, stop=stop, logprobs=logprobs is not None
        )

    def _sampling(
        self,
        request: ChatRequest | CompletionRequest,
        prompt: list[int],
        asked: int | None,
        logprobs: int | None,
        extra: Json,
        *,
        grammar: Callable[[], Any] | None = None,
    ) -> MlxSampling:
        """Make the sampling parameters. Raises ContextLengthExceeded if no room is left for an answer."""
        room = self._window - len(prompt)
        if room < 1:
            param = "messages" if isinstance(request, ChatRequest) else "prompt"
            raise ContextLengthExceeded(
                model=self._spec.model_id, limit=self._window, requested=len(prompt), param=param
            )
        return MlxSampling(
            max_tokens=min(asked or room, room),
            temperature=1.0 if request.temperature is None else request.temperature,
            top_p=1.0 if request.top_p is None else request.top_p,
            top_k=max(0, request.top_k or 0),
            min_p=request.min_p or 0.0,
            xtc_probability=float(extra.get("xtc_probability") or 0),
            xtc_threshold=float(extra.get("xtc_threshold") or 0.1),
            repeat_penalty=request.repeat_penalty,
            presence_penalty=request.presence_penalty,
            frequency_penalty=request.frequency_penalty,
            logit_bias=self._bias(request.logit_bias),
            seed=request.seed,
            ignore_eos=bool(extra.get("ignore_eos")),
            top_logprobs=logprobs or 0,
            stop_tokens=frozenset(self._known(request.stop_token_ids or (), "stop_token_ids")),
            min_tokens=request.min_tokens or 0,
            grammar=grammar,
        )

    def _bias(self, given: Any) -> dict[int, float]:
        bias = {int(token): float(value) for token, value in dict(given or {}).items()}
        self._known(tuple(bias), "logit_bias")
        return bias

    def _known(self, tokens: Sequence[int], param: str) -> Sequence[int]:
        """The tokens. Raises InvalidRequest for one outside the vocabulary."""
        if any(not 0 <= token < self._vocabulary for token in tokens):
            raise InvalidRequest(f"{param} names a token that is not one of {self._vocabulary}.", param=param)
        return tokens

    # ---- prompts and tokens

    async def _tokens(self, request: ChatRequest, tools: list[Json], arguments: Json) -> list[int]:
        """The tokens of a chat's prompt, those of pictures included."""
        if self._seeing is None:
            messages = messages_of(request, "mlx")
            return list(await asyncio.to_thread(self._templated, messages, tools, arguments, tokenize=True))
        messages, pictures = await asyncio.to_thread(messages_to_see, request, "mlx")
        text = await asyncio.to_thread(self._templated, messages, tools, arguments, tokenize=False)
        return await self._seeing.prompt(text, pictures)

    def _templated(self, messages: list[Json], tools: list[Json], arguments: Json, *, tokenize: bool) -> Any:
        if not self._tokenizer.has_chat_template:
            raise CapabilityMismatch(f"'{self._spec.model_id}' has no chat template.", param="model")
        from jinja2.exceptions import TemplateError

        try:
            return self._tokenizer.apply_chat_template(
                messages, tools=tools or None, add_generation_prompt=True, tokenize=tokenize, **arguments
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise InvalidRequest(
                f"The model's chat template refuses these messages: {str(error)[:200]}", param="messages"
            ) from error

    def _ids(self, prompt: Any) -> list[int]:
        if isinstance(prompt, str):
            prompt = self._tokenizer.encode(prompt)
        if not prompt or not all(isinstance(token, int) for token in prompt):
            raise InvalidRequest("A worker takes one prompt, and it must not be empty.", param="prompt")
        if max(prompt) >= self._vocabulary:
            raise InvalidRequest(
                f"Token {max(prompt)} is not one of this model's {self._vocabulary}.", param="prompt"
            )
        return list(prompt)

    def _decoded(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    async def _grammar(self, request: Sampling) -> Callable[[], Any] | None:
        """Make the function that starts the request's grammar. Raises UnsupportedParameter."""
        if request.grammar is None:
            return None
        return await asyncio.to_thread(self._matcher, request.grammar)

    def _matcher(self, grammar: str) -> Callable[[], Any]:
        from llguidance.hf import from_tokenizer

        if self._guide is None:
            self._guide = from_tokenizer(self._tokenizer._tokenizer, n_vocab=self._vocabulary)
        return matcher_factory(self._guide, grammar)

    async def _infill(self, http: Request) -> Response:
        del http
        raise UnsupportedParameter(f"'{self._spec.model_id}' cannot fill in text before a suffix.", param="suffix")

    async def _props(self, http: Request) -> Response:
        del http
        tools = bool(self._tokenizer.has_tool_calling)
        return json_response({"chat_template_caps": {"supports_tools": tools}})
