"""How much memory workers really take; measured in a thread, because it reads ``/proc`` or asks the driver."""

from __future__ import annotations

from typing import Protocol

import psutil


class Meter(Protocol):
    """Bytes that the process ``pid`` and its descendants take on a device; 0 when that cannot be known."""

    def __call__(self, pid: int, device: str) -> int: ...


def measure(pid: int, device: str) -> int:
    """Resident memory of the process tree, or on an NVIDIA device what its driver counts for those processes."""
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.Error:
        return 0
    if device.startswith("cuda"):
        return _on_nvidia({process.pid for process in processes}, int(device.partition(":")[2] or 0))
    return sum(_resident(process) for process in processes)


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _on_nvidia(pids: set[int], index: int) -> int:
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            running = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
            return sum(int(p.usedGpuMemory or 0) for p in running if p.pid in pids)
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return 0
