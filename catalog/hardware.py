"""Detects this machine's devices, and tells which models fit on them."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from catalog.model import Geometry

_RESERVED = 1 << 30
"""Bytes of main memory reserved for the system and the gateway, at least."""

_CPU_SHARE = 0.75
"""Share of main memory for models; the rest is for the system and the page cache."""

_ACCELERATOR_SHARE = 0.92
"""Share of a device's memory for models; its driver context and fragmentation take the rest."""

_METAL_SHARE = 0.7
"""Share of Apple's unified memory that Metal recommends as working set (``iogpu.wired_limit_mb``)."""

_COMPUTE_BYTES = 128 << 20
"""Compute buffers of a small batch, nearly independent of the model's size."""

_CGROUP = Path("/sys/fs/cgroup")

_DRIVER_FILES = ("/dev/nvidiactl", "/dev/dxg")
"""Device files of NVIDIA's driver on Linux, and in the Windows Subsystem for Linux."""

_APPLE_MODEL_SINCE = 26
"""The first macOS whose language model programs can ask (Apple's Foundation Models framework)."""

_DEFAULT_CONTEXTS = (131072, 65536, 32768, 16384, 8192, 4096, 2048)


@dataclass(frozen=True, slots=True)
class Device:
    """A processor or accelerator that runs models; ``memory`` in bytes.

    ``bandwidth`` of its memory is in bytes per second, 0 if it is unknown (:mod:`catalog.bandwidth`).
    """

    id: str
    kind: str
    name: str
    memory: int
    bandwidth: int = 0

    @property
    def budget(self) -> int:
        """Bytes for models while nothing else uses the device."""
        if self.kind == "cpu":
            return max(0, min(int(self.memory * _CPU_SHARE), self.memory - _RESERVED))
        return int(self.memory * (_METAL_SHARE if self.kind == "mps" else _ACCELERATOR_SHARE))


@dataclass(frozen=True, slots=True)
class Machine:
    """This machine; ``cores`` counts those that this process may use."""

    os: str
    architecture: str
    cores: int
    memory: int
    devices: tuple[Device, ...]


def on_apple_silicon() -> bool:
    """Whether this machine runs MLX natively."""
    return sys.platform == "darwin" and platform.machine() == "arm64"


def has_apple_model() -> bool:
    """Whether this machine's system comes with Apple's language model: macOS 26 or later on Apple silicon."""
    release = platform.mac_ver()[0].partition(".")[0]
    return on_apple_silicon() and release.isdecimal() and int(release) >= _APPLE_MODEL_SINCE


def detect() -> Machine:
    """Detect this machine's devices. A device without its driver is left out; that is no error."""
    import psutil

    installed = int(psutil.virtual_memory().total)
    total = min(installed, _container_limit() or installed)
    devices = [Device("cpu", "cpu", _processor(), total)]
    devices += _cuda_devices()
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        devices.append(Device("mps", "mps", "Apple GPU", total))
    return Machine(
        os=platform.system(),
        architecture=platform.machine(),
        cores=_usable_cores(),
        memory=total,
        devices=tuple(devices),
    )


def device_ids() -> frozenset[str]:
    """The ids of this machine's devices, as rows name them."""
    return frozenset(device.id for device in detect().devices)


def needed(model_bytes: int, *, context: int = 0, geometry: Geometry | None = None) -> int:
    """Estimate the bytes of a loaded model: weights, KV cache for ``context`` tokens, compute buffers.

    Without its geometry, the cache counts as a tenth of the weights per 8192 tokens.
    """
    cache = geometry.kv_bytes(context) if geometry else int(model_bytes * 0.1 * context / 8192)
    return model_bytes + cache + _COMPUTE_BYTES


def fits(
    model_bytes: int, device: Device, *, context: int = 0, geometry: Geometry | None = None, used: int = 0
) -> bool:
    """Whether the model fits into the device's budget, of which ``used`` bytes are taken."""
    return needed(model_bytes, context=context, geometry=geometry) <= device.budget - used


def largest_context(
    model_bytes: int, device: Device, *, limit: int, geometry: Geometry | None = None, used: int = 0
) -> int | None:
    """Return the largest of ``limit`` and the usual contexts below it that fits, in tokens, or ``None``."""
    candidates = sorted({limit, *(size for size in _DEFAULT_CONTEXTS if size < limit)}, reverse=True)
    for context in candidates:
        if fits(model_bytes, device, context=context, geometry=geometry, used=used):
            return context
    return None


def _usable_cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _processor() -> str:
    """Return the processor's name, else its architecture. (:func:`platform.processor` would start a process.)"""
    try:
        text = Path("/proc/cpuinfo").read_bytes()[:4096].decode(errors="replace")
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name"))
    return next(names, "") or platform.machine()


def _container_limit() -> int | None:
    """Return the memory limit of the control group (version 2, then 1), which psutil ignores, or ``None``."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            return int((_CGROUP / name).read_text())
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return None


def _cuda_devices() -> list[Device]:
    """List NVIDIA devices by NVML, unless the driver's device file is missing: that check is faster."""
    if sys.platform == "linux" and not any(Path(file).exists() for file in _DRIVER_FILES):
        return []
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        devices = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            name = pynvml.nvmlDeviceGetName(handle)
            devices.append(
                Device(
                    id=f"cuda:{index}",
                    kind="cuda",
                    name=name if isinstance(name, str) else name.decode(),
                    memory=int(memory.total),
                )
            )
        return devices
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()
