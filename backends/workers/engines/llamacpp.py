"""Engine ``llamacpp``: llama.cpp's llama-server inside the worker, by ``xllamacpp``, on the worker's Unix socket.

It batches continuously over ``slots`` sequences and keeps each sequence's prefix in its KV cache. The cache is
divided evenly: every slot has ``context`` tokens. There is no context shift: a prompt that does not fit is
refused, and an answer that fills the window ends with ``length``.
"""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from backends.workers.engines.common.options import Content, EngineOptions, GgufPath, UserPath, read_options
from backends.workers.engines.common.prompts import Prompts
from backends.workers.spec import Ready, WorkerSpec, split_socket
from catalog.errors import ConfigurationError
from catalog.files.cache import layer_caches, recurrent_bytes
from catalog.files.gguf import NotGguf, read_header
from catalog.model import Capability
from catalog.store.file_checks import read_regular

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
Pooling = Literal["none", "mean", "cls", "last", "rank"]

_BYTES_PER_VALUE: dict[str, float] = {
    "f32": 4, "f16": 2, "bf16": 2, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32, "q4_1": 20 / 32,
    "q4_0": 18 / 32, "iq4_nl": 18 / 32,
}  # fmt: skip
_COMPUTE_BUFFER = 150 * 1024 * 1024
_EMBEDS = frozenset({Capability.EMBED, Capability.RERANK})
_GENERATES = frozenset({Capability.CHAT, Capability.COMPLETION})


class Lora(BaseModel):
    """A LoRA adapter (GGUF), applied to every request."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: Annotated[UserPath, Content.GGUF]
    scale: float = 1.0


class LlamaCppOptions(EngineOptions):
    """The ``options`` of a catalogue row; unknown ones are refused. Files are on this machine."""

    pooling: Pooling | None = None
    prompts: Prompts = Field(
        default=Prompts(), description="before queries and documents; the gateway writes them"
    )
    mmproj: GgufPath = Field(default=None, description="projector of a vision or audio model")
    gpu_layers: int | None = Field(default=None, ge=-1, description="-1: all; default: all, but on cpu none")
    main_gpu: int = Field(default=0, ge=0)
    split: Literal["none", "layer", "row"] = "layer"
    batch: int | None = Field(
        default=None,
        ge=32,
        description="tokens of prompt computed at a stretch; calls are cancelled and others served in between; "
        "default: 2048, on cpu 256",
    )
    micro_batch: int = Field(default=512, ge=32)
    flash_attention: Literal["auto", "on", "off"] = "auto"
    cache_type_k: CacheType = "f16"
    cache_type_v: CacheType = "f16"
    prompt_cache_mib: int = Field(default=256, ge=0, description="RAM for prompts whose slot was reused")
    lora: tuple[Lora, ...] = ()
    draft: GgufPath = Field(
        default=None, description="draft model with the same vocabulary, for speculative decoding"
    )
    draft_tokens: int = Field(default=8, ge=1, le=64)
    chat_template_file: UserPath | None = None
    reasoning: Literal["auto", "none", "deepseek"] = "auto"
    mlock: bool = False
    mmap: bool = True
    rope_freq_base: float | None = Field(default=None, gt=0)
    rope_freq_scale: float | None = Field(default=None, gt=0)


def options_of(values: dict[str, Any]) -> LlamaCppOptions:
    """Validate a row's options. Raises ConfigurationError that names the mistake."""
    return read_options(LlamaCppOptions, "llamacpp", values)


def memory(path: Path, slots: int, context: int, options: dict[str, Any]) -> int:
    """Estimate the bytes of a worker with this GGUF: weights, KV cache, compute buffers.

    KV cache per token and layer: ``kv heads x (key length + value length)`` values, as llama.cpp allocates it
    (:mod:`catalog.files.cache`).
    """
    chosen = options_of(options)
    extras = [chosen.mmproj, chosen.draft, *(lora.path for lora in chosen.lora)]
    weights = sum(_weights(file) for file in [path, *(e for e in extras if e is not None)])
    return weights + int(_kv_cache(path, slots, context, chosen)) + _COMPUTE_BUFFER


def _weights(path: Path) -> int:
    split = re.fullmatch(r"(.+)-\d{5}-of-(\d{5})\.gguf", path.name)
    files = path.parent.glob(f"{split[1]}-*-of-{split[2]}.gguf") if split else [path]
    return sum(file.stat().st_size for file in files)


def _kv_cache(path: Path, slots: int, context: int, options: LlamaCppOptions) -> float:
    try:
        header = read_header(path)
    except NotGguf:
        return 0
    k_bytes, v_bytes = _BYTES_PER_VALUE[options.cache_type_k], _BYTES_PER_VALUE[options.cache_type_v]
    attention = sum(
        layer.tokens(context, options.micro_batch) * (layer.keys * k_bytes + layer.values * v_bytes)
        for layer in layer_caches(header)
    )
    return slots * (attention + recurrent_bytes(header))


def explain(log: str) -> str | None:
    """Return the cause of a failed start: the first line of level error in llama.cpp's log."""
    for line in log.splitlines():
        found = re.match(r"[\d.]+ E\s+(.*)", line)
        if found and "fit params" not in found[1]:
            return found[1].strip()
    return None


def serve(spec: WorkerSpec, ready: Ready) -> None:
    """Run llama-server on ``spec.socket`` until SIGTERM. Raises RuntimeError if the model does not load."""
    import xllamacpp

    # SIGTERM kills the process at once, also while it loads: the gateway has drained it before, and the kernel
    # frees memory faster than destructors do. A Python handler could be missed between the interpreter's check for
    # signals and the pause below.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    server = xllamacpp.Server(parameters(spec))
    ready()
    while server:
        signal.pause()


def parameters(spec: WorkerSpec) -> Any:
    """Make llama-server's parameters (``xllamacpp.CommonParams``). Raises ConfigurationError."""
    import xllamacpp as x

    options = options_of(spec.options)
    if spec.path is None:
        raise ConfigurationError(f"Engine llamacpp needs a GGUF file, and '{spec.model_id}' names none.")

    params = x.CommonParams()
    params.model.path = spec.path
    params.model_alias = {spec.model_id}
    tcp = split_socket(spec.socket)
    params.hostnames = [spec.socket if tcp is None else tcp[0]]
    if tcp is not None:
        params.port = tcp[1]
    params.api_keys = [spec.api_key]
    params.ui = False
    params.endpoint_metrics = True
    params.endpoint_slots = True
    params.endpoint_props = False  # it would let a request change the chat template
    params.cors_origins = ""
    params.offline = True
    # A waiting request occupies a thread; four more serve /metrics, /tokenize and /slots.
    params.n_threads_http = spec.slots + spec.extra + 4

    context = spec.context or _trained_context(Path(spec.path)) or 4096
    params.n_parallel = spec.slots
    params.n_ctx = context * spec.slots
    params.kv_unified = False
    params.ctx_shift = False
    params.fit_params = False  # it would silently reduce the context when memory is short
    params.cont_batching = True
    params.cache_ram_mib = options.prompt_cache_mib
    params.use_jinja = True
    params.warmup = True

    params.cpuparams.n_threads = spec.threads
    params.cpuparams_batch.n_threads = spec.threads
    params.n_batch = options.batch or (256 if spec.device == "cpu" else 2048)
    params.n_ubatch = min(options.micro_batch, params.n_batch)
    params.flash_attn_type = getattr(
        x.llama_flash_attn_type, "LLAMA_FLASH_ATTN_TYPE_" + _FLASH_ATTENTION[options.flash_attention]
    )
    params.cache_type_k = getattr(x.ggml_type, f"GGML_TYPE_{options.cache_type_k.upper()}")
    params.cache_type_v = getattr(x.ggml_type, f"GGML_TYPE_{options.cache_type_v.upper()}")
    _device(params, spec, options, x)
    _pooling(params, spec, options, x)
    _files(params, options, x)
    if options.reasoning != "auto":
        params.reasoning_format = getattr(
            x.common_reasoning_format, f"COMMON_REASONING_FORMAT_{options.reasoning.upper()}"
        )
    if options.rope_freq_base is not None:
        params.rope_freq_base = options.rope_freq_base
    if options.rope_freq_scale is not None:
        params.rope_freq_scale = options.rope_freq_scale
    return params


_FLASH_ATTENTION = {"auto": "AUTO", "on": "ENABLED", "off": "DISABLED"}


def _device(params: Any, spec: WorkerSpec, options: LlamaCppOptions, x: Any) -> None:
    on_cpu = spec.device == "cpu"
    params.n_gpu_layers = options.gpu_layers if options.gpu_layers is not None else (0 if on_cpu else -1)
    params.split_mode = getattr(x.llama_split_mode, f"LLAMA_SPLIT_MODE_{options.split.upper()}")
    index = spec.device.partition(":")[2]
    params.main_gpu = int(index) if index.isdigit() else options.main_gpu
    if index.isdigit() and options.split != "none":
        # Placement reserved memory on this device for the whole model.
        params.split_mode = x.llama_split_mode.LLAMA_SPLIT_MODE_NONE
    modes = x.llama_load_mode
    params.load_mode = {
        (True, False): modes.LLAMA_LOAD_MODE_MMAP,
        (True, True): modes.LLAMA_LOAD_MODE_MMAP_MLOCK,
        (False, True): modes.LLAMA_LOAD_MODE_MLOCK,
        (False, False): modes.LLAMA_LOAD_MODE_NONE,
    }[options.mmap, options.mlock]


def _pooling(params: Any, spec: WorkerSpec, options: LlamaCppOptions, x: Any) -> None:
    """Set the mode: llama-server generates, embeds or reranks, one of them per process."""
    pooling = options.pooling
    if pooling is None and Capability.RERANK in spec.capabilities and Capability.EMBED not in spec.capabilities:
        pooling = "rank"
    if pooling is not None:
        params.pooling_type = getattr(x.llama_pooling_type, f"LLAMA_POOLING_TYPE_{pooling.upper()}")
    if spec.capabilities & _EMBEDS and not spec.capabilities & _GENERATES:
        params.embedding = True
        # An encoder processes a whole text at once, so the physical batch must hold it.
        context = params.n_ctx // params.n_parallel
        params.n_batch = params.n_ubatch = max(options.micro_batch, min(context, 8192))


def _files(params: Any, options: LlamaCppOptions, x: Any) -> None:
    if options.mmproj is not None:
        params.mmproj.path = str(options.mmproj)
    if options.lora:
        adapters = []
        for lora in options.lora:
            adapter = x.CommonAdapterLoraInfo()
            adapter.path, adapter.scale = str(lora.path), lora.scale
            adapters.append(adapter)
        params.lora_adapters = adapters
    if options.draft is not None:
        params.speculative.types = [x.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
        params.speculative.draft.mparams.path = str(options.draft)
        params.speculative.draft.n_max = options.draft_tokens
    if options.chat_template_file is not None:
        params.chat_template = read_regular(options.chat_template_file).decode()


def _trained_context(path: Path) -> int | None:
    try:
        return read_header(path).integer("context_length")
    except NotGguf as error:
        raise ConfigurationError(error.message) from error
