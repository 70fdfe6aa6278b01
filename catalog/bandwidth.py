"""The bandwidth of a device's memory, which bounds the speed at which a model writes.

NVIDIA's driver tells the clock and the width of a device's memory, Apple's chips have published figures, and main
memory is measured by copying in it.
"""

from __future__ import annotations

import ctypes
import importlib
import platform
import re
import subprocess
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from catalog.hardware import Device, Machine

_APPLE: Mapping[str, int] = MappingProxyType(
    {
        "M1": 68, "M1 Pro": 200, "M1 Max": 400, "M1 Ultra": 800, "M2": 100, "M2 Pro": 200, "M2 Max": 400,
        "M2 Ultra": 800, "M3": 100, "M3 Pro": 150, "M3 Max": 300, "M3 Ultra": 819, "M4": 120, "M4 Pro": 273,
        "M4 Max": 410, "M5": 153, "M5 Pro": 307, "M5 Max": 460,
    }
)  # fmt: skip
"""GB/s of unified memory by chip, the least of its variants. Source: Apple's technical specifications."""

_BLOCK = 32 << 20
_ROUNDS = 8
_LEAST = 12_800_000_000
"""One channel of DDR3-1600: a measurement below it tells of other work on the machine, not of its memory."""


def with_bandwidth(machine: Machine, *, chip: Callable[[], str] | None = None) -> Machine:
    """The machine, with the bandwidth of each device as far as it can be told. Takes about a tenth of a second.

    ``chip`` names Apple's chip.
    """
    threads = max(1, min(4, machine.cores))
    known = [_of(device, chip or apple_chip, threads) for device in machine.devices]
    return replace(machine, devices=tuple(known))


def _of(device: Device, chip: Callable[[], str], threads: int) -> Device:
    if device.bandwidth:
        return device
    match device.kind:
        case "cuda":
            return replace(device, bandwidth=nvidia_bandwidth(int(device.id.partition(":")[2] or 0)))
        case "mps":
            return replace(device, bandwidth=apple_bandwidth(chip()))
        case _:
            return replace(device, bandwidth=apple_bandwidth(chip()) or copying(threads))


def apple_bandwidth(chip: str) -> int:
    """Bytes per second of ``Apple M3 Max``; 0 for a chip that is not in the table."""
    found = re.search(r"\bM\d+( Pro| Max| Ultra)?\b", chip)
    return _APPLE.get(found[0], 0) * 10**9 if found else 0


def apple_chip() -> str:
    """The name of this machine's chip, such as ``Apple M3 Max``; empty elsewhere."""
    if platform.system() != "Darwin":
        return ""
    try:
        asked = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(  # noqa: S603 - a fixed command
            asked, capture_output=True, text=True, timeout=5, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def nvidia_bandwidth(index: int, nvml: Any = None) -> int:
    """Bytes per second of an NVIDIA device: two transfers per clock over the width of its bus; 0 if not told."""
    if nvml is None:
        nvml = importlib.import_module("pynvml")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return 0
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        clock = int(nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM))  # MHz
        width = int(nvml.nvmlDeviceGetMemoryBusWidth(handle))  # bits
        return 2 * clock * 10**6 * width // 8
    except nvml.NVMLError:
        return 0
    finally:
        nvml.nvmlShutdown()


def copying(threads: int = 4) -> int:
    """Bytes per second of main memory, measured by copying in several threads.

    A copy reads and writes each byte. The best of several rounds counts, as others may be using the memory, and
    no less than :data:`_LEAST`.
    ``ctypes`` releases the interpreter's lock while it copies.
    """
    blocks = [bytearray(_BLOCK) for _ in range(2 * threads)]
    places = [ctypes.addressof(ctypes.c_char.from_buffer(block)) for block in blocks]

    def copy(index: int) -> None:
        ctypes.memmove(places[2 * index], places[2 * index + 1], _BLOCK)

    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(_ROUNDS):
            started = time.perf_counter()
            list(pool.map(copy, range(threads)))
            best = max(best, 2 * threads * _BLOCK / (time.perf_counter() - started))
    return max(int(best), _LEAST)
