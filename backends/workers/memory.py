"""Measures the memory of workers. Measuring blocks (``/proc``, the driver), so it runs in a thread."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Protocol

import psutil


class Meter(Protocol):
    """Measures the bytes that process ``pid`` and its descendants use on a device; 0 if unknown."""

    def __call__(self, pid: int, device: str) -> int: ...


class PeakMemory:
    """The highest measured memory of each model, in bytes, since its row last changed."""

    def __init__(self) -> None:
        self._most: dict[str, int] = {}
        self._ready: set[str] = set()

    def note(self, model: str, used: int, *, ready: bool, reserved: int) -> int:
        """Record a measurement; return the bytes to count for the worker, at least ``reserved`` while it loads."""
        most = self._most[model] = max(used, self._most.get(model, 0))
        if ready:
            self._ready.add(model)
            return most
        return max(used, reserved)

    def when_ready(self, model: str) -> int | None:
        """Return the peak, or None if it was only measured while the worker loaded, when it uses less."""
        return self._most[model] if model in self._ready else None

    def at_least(self, model: str) -> int:
        """Return the peak, including measurements while loading; 0 if there is none."""
        return self._most.get(model, 0)

    def forget(self, model: str) -> None:
        """Discard the measurements of a model whose row has changed."""
        self._most.pop(model, None)
        self._ready.discard(model)


def private_memory(pid: int) -> int:
    """Return the bytes of this machine's memory that a process tree alone holds, without pages of mapped files."""
    return sum(_private(process) for process in _tree(pid))


def measure(pid: int, device: str) -> int:
    """Return the bytes of a process tree: resident memory, or on an NVIDIA device the driver's figure."""
    processes = _tree(pid)
    if device.startswith("cuda"):
        index = visible_device(int(device.partition(":")[2] or 0), os.environ)
        return _on_nvidia({process.pid for process in processes}, index)
    return sum(_resident(process) for process in processes)


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def _private(process: psutil.Process) -> int:
    try:
        memory = process.memory_info()
    except psutil.Error:
        return 0
    return max(0, int(memory.rss) - int(getattr(memory, "shared", 0)))


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def visible_device(index: int, environment: Mapping[str, str]) -> str:
    """Return the driver's name (a number or a UUID) of ``cuda:index``: a scheduler may show a process only some.

    Source: CUDA C++ Programming Guide, CUDA_VISIBLE_DEVICES.
    """
    shown = [each.strip() for each in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if each.strip()]
    return shown[index] if index < len(shown) else str(index)


def _on_nvidia(pids: set[int], name: str) -> int:
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            handle = (
                pynvml.nvmlDeviceGetHandleByIndex(int(name))
                if name.isdigit()
                else pynvml.nvmlDeviceGetHandleByUUID(name)
            )
            running = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
            return sum(int(p.usedGpuMemory or 0) for p in running if p.pid in pids)
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return 0
