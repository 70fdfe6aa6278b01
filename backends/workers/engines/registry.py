"""The table of engines: names, required packages, devices, and the command that runs each."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from backends.workers.engines import llamacpp
from backends.workers.engines.common.options import Content, EngineOptions, paths_of, read_options
from backends.workers.engines.environments import Environment
from backends.workers.engines.vllm import engine as vllm
from catalog.errors import ConfigurationError, EngineMissing, ModelUnavailable
from catalog.model import Capability, Model, PathSource
from catalog.store.damage import DamageCheck, file_damage


class Memory(Protocol):
    """Estimates the bytes that a worker will need, before the first measurement."""

    def __call__(self, path: Path, slots: int, context: int, options: dict[str, Any], /) -> int: ...


def _nothing(_log: str) -> str | None:
    return None


_RUNTIME = 200 * 1024 * 1024
"""Bytes of Python and an inference library, without the weights."""


def files_memory(path: Path) -> int:
    """Estimate a model's memory from the size of its files."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return int(1.2 * sum(file.stat().st_size for file in files)) + _RUNTIME


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """The properties of an engine.

    ``packages`` are the import names it requires; ``extra`` installs them. ``command`` is the argument list
    without ``--ready-fd``. ``devices`` are the supported kinds (the part of a device's id before the colon).
    ``slots`` gives the default number of concurrent requests for a number of cores. ``context`` tells whether it
    has a context window, which it rounds up to ``context_step`` tokens. ``explain`` finds the cause of a failed
    start in the log. ``memory`` estimates the memory before the first load; without it the row's figure is used,
    then :func:`files_memory`. ``environment`` is the Python interpreter at the beginning of ``command``.
    ``options`` is the path of the model of a row's options (``module:Class``), which is imported without the
    engine's packages. ``adds`` are further capabilities of its models, by the capability that brings them. Models
    with one of ``single`` take one request at a time. ``serves`` are the endpoints that its models may have; empty
    if its package decides.
    """

    name: str
    extra: str
    packages: tuple[str, ...]
    command: tuple[str, ...]
    devices: frozenset[str]
    slots: Callable[[int], int]
    context: bool = False
    context_step: int = 1
    explain: Callable[[str], str | None] = _nothing
    memory: Memory | None = None
    environment: Environment = field(default_factory=Environment)
    options: str | None = None
    adds: Mapping[Capability, Capability] = field(default_factory=dict)
    single: frozenset[Capability] = frozenset()
    serves: frozenset[Capability] = frozenset()


class Engines(Mapping[str, EngineInfo]):
    """Engines by name."""

    def __init__(self, *engines: EngineInfo) -> None:
        self._engines = {engine.name: engine for engine in engines}
        self._damage = DamageCheck()

    def __getitem__(self, name: str) -> EngineInfo:
        return self._engines[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._engines)

    def __len__(self) -> int:
        return len(self._engines)

    def missing(self, name: str) -> EngineMissing | None:
        """Return an error if the engine cannot run here, else None. Its packages are not imported."""
        engine = self._engines.get(name)
        if engine is None:
            known = ", ".join(sorted(self._engines))
            return EngineMissing.told(f"There is no engine '{name}'; the engines are {known}.", engine=name)
        lacking = engine.environment.lacks(engine.packages)
        if lacking is None:
            return None
        if engine.environment.fault is not None:
            return EngineMissing.told(
                f"The engine '{name}' cannot run: {engine.environment.fault}. Correct workers.python.{name}.",
                engine=name,
            )
        where = None if engine.environment.own else engine.environment.python
        return EngineMissing(name, extra=engine.extra, package=lacking, python=where)

    def completed(self, model: Model) -> Model:
        """The row with the capabilities that its engine gives to every model of its kind."""
        engine = self._engines.get(model.engine or "") if model.local else None
        added = () if engine is None else [new for kind, new in engine.adds.items() if kind in model.capabilities]
        if model.capabilities.issuperset(added):
            return model
        return model.model_copy(update={"capabilities": model.capabilities.union(added)})

    def slots(self, model: Model, cores: int) -> int:
        """The number of requests that a worker of this model works on concurrently, unless it is set otherwise."""
        engine = self._engines.get(model.engine or "")
        if engine is None or not engine.single.isdisjoint(model.capabilities):
            return 1
        return engine.slots(cores)

    def context(self, model: Model, default: int) -> int | None:
        """The tokens of one request, prompt and answer, that a worker of this model holds.

        ``default`` bounds a row whose options name none: what a model was trained for may take more memory than
        there is. ``None`` for an engine without a context window.
        """
        engine = self._engines.get(model.engine or "") if model.local else None
        if engine is None or not engine.context:
            return None
        chosen = model.options.get("context")
        if not isinstance(chosen, int):
            return min(model.limits.context_window or default, default)
        return -(-chosen // engine.context_step) * engine.context_step

    def own_pythons_missing(self) -> list[EngineMissing]:
        """The engines that cannot run in the interpreter that the settings name for them. Starts each of these."""
        own = [name for name, engine in self._engines.items() if not engine.environment.own]
        with ThreadPoolExecutor(max_workers=max(1, len(own))) as threads:
            return [missing for missing in threads.map(self.missing, own) if missing is not None]

    def options_of(self, model: Model) -> EngineOptions | None:
        """A row's engine options, validated; ``None`` for an engine that declares none.

        Raises ConfigurationError that names the first wrong option.
        """
        engine = self._engines.get(model.engine or "")
        if engine is None or engine.options is None:
            return None
        module, _, name = engine.options.partition(":")
        kind: type[EngineOptions] = getattr(import_module(module), name)
        return read_options(kind, engine.name, model.options)

    def missing_file(self, model: Model) -> str | None:
        """Say which file the engine will not be able to open, of its folder or of the row's options, or ``None``.

        Waits for the file system. Raises OSError.
        """
        own = Path(model.source.path).expanduser() if isinstance(model.source, PathSource) else None
        if not model.options and own is None:
            return None
        try:
            options = self.options_of(model)
            needed = () if own is None or options is None else options.needed(own)
        except (ConfigurationError, ModelUnavailable) as error:
            return error.message
        if own is not None and needed and not own.is_dir():
            return f"The model '{model.id}' must be a folder with {' and '.join(needed)}, and {own} is a file."
        for name in needed:
            assert own is not None
            reason = file_damage(own / name)
            if reason is not None:
                return f"The model '{model.id}' cannot be loaded: {reason}"
        for option, path, content in paths_of(options):
            reason = self._unfit(path, content) if path != Path() else "it is empty."
            if reason is not None:
                return f"options.{option} of '{model.id}': {reason} Correct the path, or put it there."
        return None

    def _unfit(self, path: Path, content: Content | None) -> str | None:
        if content is Content.FOLDER:
            return None if path.is_dir() else f"there is no folder {path}."
        reason = file_damage(path)
        return self._damage.reason("llamacpp", path) if reason is None and content is Content.GGUF else reason


def check_engines(models: Iterable[Model], engines: Engines) -> None:
    """Raises ConfigurationError for a row of the user's with an unknown engine, a wrong option, or a capability
    that it cannot have.
    """
    for model in models:
        if model.origin != "user" or not model.local or model.engine is None:
            continue
        if model.engine not in engines:
            near = difflib.get_close_matches(model.engine, engines, n=1)
            meant = f" Did you mean '{near[0]}'?" if near else ""
            raise ConfigurationError(
                f"[[model]] '{model.id}': engine: there is no '{model.engine}'; the engines are "
                f"{', '.join(sorted(engines))}.{meant}",
                param="engine",
            )
        serves = engines[model.engine].serves
        if serves and (beyond := sorted(model.endpoints - serves)):
            raise ConfigurationError(
                f"[[model]] '{model.id}': capabilities: the engine '{model.engine}' cannot {beyond[0]}; its "
                f"models can {', '.join(sorted(serves))}, and what goes with that.",
                param="capabilities",
            )
        try:
            engines.options_of(model)
        except ConfigurationError as error:
            raise ConfigurationError(f"[[model]] '{model.id}': {error.message}", param=error.param) from error


_GPU = frozenset({"cpu", "cuda", "mps"})


_OF_TEXT = frozenset(
    {
        *(Capability.CHAT, Capability.COMPLETION, Capability.EMBED, Capability.RERANK, Capability.CLASSIFY),
        Capability.MODERATE,
    }
)
_GENERATING = frozenset({Capability.CHAT, Capability.COMPLETION})
_HEARING = frozenset({Capability.TRANSCRIBE, Capability.TRANSLATE})
_DRAWING = frozenset({Capability.IMAGE})


def _decoding(cores: int) -> int:
    return max(4, min(8, cores))


def _batching(cores: int) -> int:
    return max(8, min(32, 4 * cores))


def builtin_engines(pythons: Mapping[str, Path] = MappingProxyType({})) -> Engines:
    """Make the table of built-in engines. ``pythons`` are separate interpreters, by engine.

    Raises ConfigurationError if ``pythons`` names an unknown engine.
    """

    def engine(
        name: str,
        module: str,
        packages: tuple[str, ...],
        devices: frozenset[str],
        slots: Callable[[int], int],
        *,
        extra: str | None = None,
        children: bool = False,
        context: bool = False,
        context_step: int = 1,
        explain: Callable[[str], str | None] = _nothing,
        memory: Memory | None = None,
        options: str,
        adds: Mapping[Capability, Capability] = MappingProxyType({}),
        single: frozenset[Capability] = frozenset(),
        serves: frozenset[Capability] = frozenset(),
    ) -> EngineInfo:
        environment = Environment(pythons.get(name))
        program = ("-m", "backends.workers.program.main", "--module", f"backends.workers.engines.{module}")
        return EngineInfo(
            name=name,
            extra=extra or name,
            packages=packages,
            command=(environment.python, *program, *(("--children",) if children else ())),
            devices=devices,
            slots=slots,
            context=context,
            context_step=context_step,
            explain=explain,
            memory=memory,
            environment=environment,
            options=f"backends.workers.engines.{module}:{options}",
            adds=adds,
            single=single,
            serves=serves,
        )

    cuda = frozenset({"cpu", "cuda"})
    engines = Engines(
        engine("llamacpp", "llamacpp", ("xllamacpp",), _GPU, _decoding,
               context=True, context_step=llamacpp.CONTEXT_STEP, explain=llamacpp.explain, memory=llamacpp.memory,
               options="LlamaCppOptions",
               serves=_OF_TEXT, adds={Capability.CHAT: Capability.CLASSIFY}),
        engine("onnx", "onnx.engine", ("onnxruntime", "tokenizers"), cuda, _batching, options="OnnxOptions",
               serves=_OF_TEXT - _GENERATING, adds={Capability.EMBED: Capability.CLASSIFY}),
        engine("whisper", "whisper", ("faster_whisper", "av"), cuda, lambda cores: max(2, cores // 4),
               extra="speech", options="WhisperOptions", serves=_HEARING),
        engine("onnx-asr", "onnx_asr", ("onnx_asr", "onnxruntime", "av"), cuda, lambda _: 4, extra="speech",
               options="OnnxAsrOptions", serves=_HEARING),
        engine("speakers", "speakers.engine", ("faster_whisper", "onnxruntime", "av"), cuda, lambda _: 2,
               extra="speech", options="SpeakersOptions", serves=frozenset({Capability.DIARIZE})),
        engine("speech", "speech.engine", ("av", "onnxruntime"), frozenset({"cpu"}), lambda cores: max(8, cores),
               options="SpeechOptions", serves=frozenset({Capability.SPEAK})),
        engine("diffusion", "diffusion", ("diffusers", "torch"), _GPU, lambda _: 1, extra="images",
               options="DiffusionOptions", serves=_DRAWING, adds={Capability.IMAGE: Capability.IMAGE_EDIT}),
        engine("diffusion-video", "video.engine", ("diffusers", "torch", "av"), _GPU, lambda _: 1, extra="video",
               options="VideoOptions", serves=frozenset({Capability.VIDEO})),
        engine("stable-diffusion-cpp", "stable_diffusion_cpp.engine", ("cyllama", "PIL"), _GPU, lambda _: 1,
               children=True, options="StableDiffusionCppOptions", serves=_DRAWING,
               adds={Capability.IMAGE: Capability.IMAGE_EDIT}),
        engine("onnx-painter", "onnx_painter.engine", ("onnxruntime", "tokenizers"), frozenset({"cpu"}),
               lambda _: 2, extra="onnx", options="OnnxPainterOptions", serves=_DRAWING),
        engine("vllm", "vllm.engine", ("vllm",), cuda, lambda _: 64,
               children=True, context=True, explain=vllm.explain, options="VllmOptions"),
        engine("mlx", "mlx.engine", ("mlx_lm",), frozenset({"cpu", "mps"}), lambda _: 16, context=True,
               options="MlxOptions", single=frozenset({Capability.VISION})),
        engine("apple", "apple", ("apple_fm_sdk",), frozenset({"cpu", "mps"}), lambda _: 2,
               options="AppleOptions"),
        engine("llama-cpp-python", "llama_cpp_python.engine", ("llama_cpp",), _GPU, lambda _: 1, context=True,
               options="LlamaCppPythonOptions"),
    )  # fmt: skip
    unknown = sorted(pythons.keys() - engines.keys())
    if unknown:
        raise ConfigurationError(
            f"Invalid setting 'workers.python.{unknown[0]}': there is no such engine; the engines are "
            f"{', '.join(sorted(engines))}."
        )
    return engines
