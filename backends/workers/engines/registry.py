"""The engines: what each is called, which packages it needs, and which program runs it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from backends.workers.engines import llamacpp, vllm
from catalog.errors import EngineMissing


class Memory(Protocol):
    """Bytes that a worker will need, before it was ever measured."""

    def __call__(self, path: Path, slots: int, context: int, options: dict[str, Any], /) -> int: ...


def _nothing(_log: str) -> str | None:
    return None


_RUNTIME = 200 * 1024 * 1024
"""What Python and an inference library take beside the weights."""


def files_memory(path: Path) -> int:
    """A guess at the memory of a model from the size of its files."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return int(1.2 * sum(file.stat().st_size for file in files)) + _RUNTIME


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """How an engine is run.

    ``packages`` are import names that must be there; ``extra`` installs them. ``command`` is the argument list
    without ``--ready-fd``. ``devices`` are the kinds it can use (the part of a device's id before the colon).
    ``slots`` is the number of requests worked on at once by default on a machine with that many cores.
    ``explain`` finds the cause of a failed start in the log. ``memory`` estimates before the first load, for
    engines that can tell from the file; for the others the row's figure counts, then :func:`files_memory`.
    """

    name: str
    extra: str
    packages: tuple[str, ...]
    command: tuple[str, ...]
    devices: frozenset[str]
    slots: Callable[[int], int]
    context: bool = False
    explain: Callable[[str], str | None] = _nothing
    memory: Memory | None = None


class Engines(Mapping[str, EngineInfo]):
    """Engines by name."""

    def __init__(self, *engines: EngineInfo) -> None:
        self._engines = {engine.name: engine for engine in engines}

    def __getitem__(self, name: str) -> EngineInfo:
        return self._engines[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._engines)

    def __len__(self) -> int:
        return len(self._engines)

    def missing(self, name: str) -> EngineMissing | None:
        """Why this engine cannot run here; looks for its packages without importing them."""
        engine = self._engines.get(name)
        if engine is None:
            return EngineMissing(name, extra="all", package="no engine has this name")
        for package in engine.packages:
            if not _installed(package):
                return EngineMissing(name, extra=engine.extra, package=package)
        return None


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False


_GPU = frozenset({"cpu", "cuda", "mps"})


def _decoding(cores: int) -> int:
    return max(4, min(8, cores))


def _batching(cores: int) -> int:
    return max(8, min(32, 4 * cores))


def builtin_engines(python: str = sys.executable) -> Engines:
    """The engines that Roundhouse brings."""

    def program(module: str, *flags: str) -> tuple[str, ...]:
        return (python, "-m", "backends.workers.main", "--module", f"backends.workers.engines.{module}", *flags)

    return Engines(
        EngineInfo(
            "llamacpp", "llamacpp", ("xllamacpp",), program("llamacpp"), _GPU, _decoding,
            context=True, explain=llamacpp.explain, memory=llamacpp.memory,
        ),
        EngineInfo("onnx", "onnx", ("onnxruntime", "tokenizers"), program("onnx"),
                   frozenset({"cpu", "cuda"}), _batching),
        EngineInfo("whisper", "speech", ("faster_whisper", "av"), program("whisper"),
                   frozenset({"cpu", "cuda"}), lambda cores: max(1, cores // 4)),
        EngineInfo("speech", "speech", ("av",), program("speech"), frozenset({"cpu"}),
                   lambda cores: max(1, cores // 2)),
        EngineInfo("diffusion", "images", ("diffusers", "torch"), program("diffusion"), _GPU, lambda _: 1),
        EngineInfo("vllm", "vllm", ("vllm",), program("vllm", "--children"), frozenset({"cpu", "cuda"}),
                   lambda _: 64, context=True, explain=vllm.explain),
        EngineInfo("mlx", "mlx", ("mlx_lm",), program("mlx"), frozenset({"cpu", "mps"}), lambda _: 16,
                   context=True),
        EngineInfo("llama-cpp-python", "llama-cpp-python", ("llama_cpp",), program("llama_cpp_python"), _GPU,
                   lambda _: 1, context=True),
    )  # fmt: skip
