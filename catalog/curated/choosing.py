"""Chooses the form of a curated model for a machine: device, engine, and the largest quantisation that fits."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from catalog.curated.entries import BITS, ENGINES, Entry, Gguf, WeightFiles
from catalog.hardware import Device, Machine, needed
from catalog.model import Capability, HubSource

EVERY_ENGINE: frozenset[str] = frozenset(ENGINES.values())

_ORDER = {"mps": ("mlx", "llamacpp", "vllm"), "cuda": ("vllm", "llamacpp"), "cpu": ("llamacpp", "vllm")}
"""Engines of a language model by kind of device, the preferred one first."""

_DEVICES = {
    "llamacpp": frozenset({"cpu", "cuda", "mps"}), "mlx": frozenset({"mps"}), "vllm": frozenset({"cuda"}),
    "onnx": frozenset({"cpu", "cuda"}), "whisper": frozenset({"cpu", "cuda"}),
    "onnx-asr": frozenset({"cpu", "cuda"}), "speakers": frozenset({"cpu", "cuda"}), "speech": frozenset({"cpu"}),
    "diffusion": frozenset({"cpu", "cuda", "mps"}), "diffusion-video": frozenset({"cpu", "cuda", "mps"}),
    "stable-diffusion-cpp": frozenset({"cpu", "cuda", "mps"}),
}  # fmt: skip
"""Kinds of devices that an engine is recommended on."""

_EFFICIENCY = {"cuda": 0.7, "mps": 0.7, "cpu": 0.6}
"""Share of a device's memory bandwidth that decoding reaches, by kind."""

ENOUGH = 6.0
"""Tokens a second at which an answer keeps up with reading."""

_BEST_BITS = 8.6
"""Bits per weight above which a GGUF is only larger, and no better."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A form of a model on a device.

    ``size`` counts the bytes to fetch, ``exact`` says that the hub gave them. ``memory`` counts the bytes when
    loaded, with the KV cache of ``streams`` requests of ``context`` tokens. ``tokens_per_second`` of one stream
    is estimated from the device's bandwidth, ``None`` where that is unknown or the model writes no text.
    """

    entry: Entry
    engine: str
    source: HubSource
    quantization: str | None
    size: int
    exact: bool
    device: str
    context: int
    streams: int
    memory: int
    tokens_per_second: float | None

    @property
    def needs_token(self) -> bool:
        """Whether the hub asks for a token: for the maker's own files, not for others' quantisations."""
        return self.entry.gated and self.engine in ("vllm", "diffusion", "diffusion-video")

    @property
    def enough(self) -> bool:
        """Whether it is as fast as one reads, as far as that is known."""
        return self.tokens_per_second is None or self.tokens_per_second >= ENOUGH


@dataclass(frozen=True, slots=True)
class Wanted:
    """The bounds of a choice: tokens of a request, requests at a time, engines, and perhaps a quantisation."""

    context: int = 8192
    streams: int = 4
    engines: Collection[str] = EVERY_ENGINE
    quantization: str | None = None


PLAIN = Wanted()
"""Four requests of 8192 tokens, with any engine."""


def best(entry: Entry, machine: Machine, wanted: Wanted = PLAIN) -> Fit | None:
    """The form to run on this machine, or ``None`` if none fits or no engine is here.

    Accelerators come before the processor, and an engine before the next one in the order for the device. Of
    several quantisations the largest that fits is taken, one slower than :data:`ENOUGH` only if none is faster.
    """
    for device in sorted(machine.devices, key=lambda device: device.kind == "cpu"):
        for form, engine in _forms(entry, device, wanted.engines):
            fitting = [choice for choice in _choices(entry, form, engine, device, wanted) if _fits(choice, device)]
            if fitting:
                fast = [choice for choice in fitting if choice.enough]
                if fast:
                    return max(fast, key=lambda choice: choice.size)
                return min(fitting, key=lambda choice: (_coarse(choice), choice.size))
    return None


def smallest(entry: Entry, wanted: Wanted = PLAIN) -> int | None:
    """Bytes of memory that the smallest form needs, to say by how much a machine is too small."""
    device = Device("cpu", "cpu", "", 0)
    needs = [
        choice.memory
        for form, engine in ENGINES.items()
        if (found := getattr(entry, form)) is not None
        for choice in _choices(entry, found, engine, device, wanted)
    ]
    return min(needs, default=None)


def _forms(entry: Entry, device: Device, engines: Collection[str]) -> Iterator[tuple[Gguf | WeightFiles, str]]:
    order = _ORDER.get(device.kind, ())
    ranked = sorted(ENGINES.items(), key=lambda item: order.index(item[1]) if item[1] in order else len(order))
    for form, engine in ranked:
        found: Gguf | WeightFiles | None = getattr(entry, form)
        if found is not None and engine in engines and device.kind in _DEVICES[engine]:
            yield found, engine


def _choices(entry: Entry, form: Gguf | WeightFiles, engine: str, device: Device, wanted: Wanted) -> Iterator[Fit]:
    context = min(wanted.context, entry.limits.context_window or wanted.context)
    streams = wanted.streams if entry.cache else 1
    cache = entry.cache_bytes(context) * streams
    for source, quantization, size, exact in _files(entry, form):
        if wanted.quantization not in (None, quantization):
            continue
        yield Fit(
            entry=entry,
            engine=engine,
            source=source,
            quantization=quantization,
            size=size,
            exact=exact,
            device=device.id,
            context=context,
            streams=streams,
            memory=needed(size) + cache,
            tokens_per_second=_speed(entry, size, entry.cache_bytes(context) // 2, device),
        )


def _files(entry: Entry, form: Gguf | WeightFiles) -> Iterator[tuple[HubSource, str | None, int, bool]]:
    if isinstance(form, WeightFiles):
        source = HubSource(repository=form.repository, files=form.files)
        yield source, form.quantization, form.size or entry.estimated(form.bits), form.size is not None
        return
    for name, size, exact in entry.gguf_sizes():
        if BITS.get(name.removeprefix("UD-"), 8.0) <= _BEST_BITS or len(form.quantizations) == 1:
            yield HubSource(repository=form.repository, pattern=name), name, size + form.projector, exact


def _fits(choice: Fit, device: Device) -> bool:
    return choice.memory <= device.budget


def _coarse(choice: Fit) -> bool:
    """Whether a quantisation has less than four bits, which costs much quality."""
    bits = BITS.get((choice.quantization or "").removeprefix("UD-"))
    return bits is not None and bits < 4.2


def _speed(entry: Entry, size: int, cache: int, device: Device) -> float | None:
    """Tokens per second of one stream: the bytes of the weights and of half a cache are read for each.

    Source: the roofline of a decoder that is bound by memory, Pope et al. (2022), section 3.
    """
    if not device.bandwidth or not entry.capabilities & {Capability.CHAT, Capability.COMPLETION}:
        return None
    read = size * entry.working / entry.parameters + cache
    return device.bandwidth * _EFFICIENCY.get(device.kind, 0.6) / read
