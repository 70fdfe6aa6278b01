"""Engine ``vllm``: ``vllm serve`` as a child of the worker, on the worker's socket.

vLLM starts processes of its own, so the worker leads their session: it forwards SIGTERM, and the session is killed
as a whole. Arguments: https://docs.vllm.ai/en/latest/cli/serve.html, held to those of vLLM 0.32.0 by a test.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from typing import Literal

from pydantic import Field

from backends.workers.engines.common.options import EngineOptions, FolderPath, UserPath, read_options
from backends.workers.engines.common.prompts import Prompts
from backends.workers.engines.vllm import middleware
from backends.workers.memory import visible_device
from backends.workers.spec import Ready, WorkerSpec, split_socket
from catalog.errors import ConfigurationError

_PAUSE = 0.2
_CAUSES = (
    *("ValueError:", "RuntimeError:", "OSError:", "ImportError:", "ModuleNotFoundError:", "NotImplementedError:"),
    *("torch.OutOfMemoryError:", "torch.cuda.OutOfMemoryError:", "vllm.exceptions.VLLMValidationError:"),
)


class VllmOptions(EngineOptions):
    """The ``options`` of a catalogue row; the names are those of vLLM's arguments."""

    prompts: Prompts = Field(default=Prompts(), description="before queries and documents")
    dtype: Literal["auto", "half", "float16", "bfloat16", "float", "float32"] = "auto"
    quantization: str | None = Field(default=None, pattern=r"^[\w-]+$")
    gpu_memory_utilization: float = Field(default=0.75, gt=0, le=1, description="of the whole device")
    cpu_kv_cache_gib: int = Field(default=2, ge=1, description="KV cache, when it runs on the CPU")
    tensor_parallel_size: int = Field(default=1, ge=1)
    pipeline_parallel_size: int = Field(default=1, ge=1)
    kv_cache_dtype: str | None = Field(default=None, pattern=r"^[\w-]+$")
    enforce_eager: bool = False
    scheduling_policy: Literal["fcfs", "priority"] = Field(
        default="fcfs", description="'priority' lets a request's 'priority' decide; lower is earlier"
    )
    prefix_caching: bool = True
    tool_call_parser: str | None = Field(default=None, pattern=r"^[\w-]+$")
    reasoning_parser: str | None = Field(default=None, pattern=r"^[\w-]+$")
    chat_template_file: UserPath | None = None
    tokenizer: FolderPath = Field(default=None, description="folder of the tokenizer, for a GGUF")


def arguments(spec: WorkerSpec) -> list[str]:
    """Make the argument list of ``vllm serve`` (without the program). Raises ConfigurationError."""
    options = read_options(VllmOptions, "vllm", spec.options)
    if spec.path is None:
        raise ConfigurationError(f"Engine vllm needs a model folder, and '{spec.model_id}' names none.")
    tcp = split_socket(spec.socket)
    where = ["--uds", spec.socket] if tcp is None else ["--host", tcp[0], "--port", str(tcp[1])]
    given: list[str] = ["serve", spec.path, *where, "--served-model-name", spec.model_id]
    pairs: list[tuple[str, object | None]] = [
        ("--max-num-seqs", spec.slots + spec.extra),
        ("--max-model-len", spec.context),
        ("--dtype", options.dtype),
        ("--quantization", options.quantization),
        ("--kv-cache-dtype", options.kv_cache_dtype),
        ("--tensor-parallel-size", options.tensor_parallel_size),
        ("--pipeline-parallel-size", options.pipeline_parallel_size),
        ("--reasoning-parser", options.reasoning_parser),
        ("--tool-call-parser", options.tool_call_parser),
        ("--tokenizer", options.tokenizer),
        ("--chat-template", options.chat_template_file),
        ("--scheduling-policy", options.scheduling_policy),
    ]
    if spec.device != "cpu":
        pairs.append(("--gpu-memory-utilization", options.gpu_memory_utilization))
    for name, value in pairs:
        if value is not None:
            given += [name, str(value)]
    if options.tool_call_parser is not None:
        given.append("--enable-auto-tool-choice")
    if options.enforce_eager:
        given.append("--enforce-eager")
    given.append("--enable-prefix-caching" if options.prefix_caching else "--no-enable-prefix-caching")
    given += ["--disable-uvicorn-access-log", "--middleware", f"{middleware.__name__}.WorkerWireMiddleware"]
    return given


def environment(spec: WorkerSpec) -> dict[str, str]:
    """Make the child's additional environment variables. They hold the key, which arguments would expose."""
    options = read_options(VllmOptions, "vllm", spec.options)
    added = {
        middleware.KEY: spec.api_key,
        middleware.MODEL: spec.model_id,
        middleware.TOOLS: "1" if options.tool_call_parser is not None else "0",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    kind, _, index = spec.device.partition(":")
    if kind == "cpu":
        added |= {"VLLM_CPU_KVCACHE_SPACE": str(options.cpu_kv_cache_gib), "OMP_NUM_THREADS": str(spec.threads)}
    elif index and options.tensor_parallel_size == options.pipeline_parallel_size == 1:
        added["CUDA_VISIBLE_DEVICES"] = visible_device(int(index), os.environ)
    return added


def serve(spec: WorkerSpec, ready: Ready) -> None:
    """Run vLLM until SIGTERM. Raises RuntimeError if it ends before it is ready."""
    child = subprocess.Popen(  # noqa: S603 -- an argument list, no shell
        [sys.executable, "-m", "vllm.entrypoints.cli.main", *arguments(spec)],
        env={**os.environ, **environment(spec)},
        stdin=subprocess.DEVNULL,
    )
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    while not healthy(spec.socket):
        if child.poll() is not None:
            raise RuntimeError(f"vllm serve ended with exit code {child.returncode}")
        time.sleep(_PAUSE)
    ready()
    code = None
    while code is None:  # short waits: a signal just before an endless one would be handled only after it
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = child.wait(_PAUSE)
    sys.stdout.flush()
    os._exit(0 if code in (0, -signal.SIGTERM) else 1)


def healthy(path: str) -> bool:
    """Whether a server on this socket answers ``GET /health`` with 200."""
    connection = http.client.HTTPConnection("worker", timeout=2)
    tcp = split_socket(path)
    try:
        if tcp is not None:
            connection.sock = socket.create_connection(tcp, 2)
        else:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(2)
            connection.sock.connect(path)
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def explain(log: str) -> str | None:
    """Return the last error in vLLM's log, where a traceback ends with its cause."""
    for line in reversed(log.splitlines()):
        text = line.split("]", 1)[-1].strip() if line.startswith(("ERROR", "(")) else line.strip()
        if text.startswith(_CAUSES):
            return text
    return None
