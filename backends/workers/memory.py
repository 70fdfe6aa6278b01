"""How much memory workers really take; measured in a thread, because it reads ``/proc`` or asks the driver."""

from __future__ import annotations

from typing import Protocol

import psutil


class Meter(Protocol):
    """Bytes that the process ``pid`` and its descendants take on a device; 0 when that cannot be known."""

    def __call__(self, pid: int, device: str) -> int: ...


class Taken:
    """The most that each model was seen to take, in bytes, since its row last changed."""

    def __init__(self) -> None:
        self._most: dict[str, int] = {}
        self._ready: set[str] = set()

    def note(self, model: str, used: int, *, ready: bool, reserved: int) -> int:
        """Its worker takes ``used`` now. What to count it with: while it loads, not less than was reserved."""
        most = self._most[model] = max(used, self._most.get(model, 0))
        if ready:
            self._ready.add(model)
            return most
        return max(used, reserved)

    def when_ready(self, model: str) -> int | None:
        """The most, if it was ever measured when it was ready: before, it takes less than it will."""
        return self._most[model] if model in self._ready else None

    def at_least(self, model: str) -> int:
        """The most, also while it loaded; 0 if it was never measured."""
        return self._most.get(model, 0)

    def forget(self, model: str) -> None:
        """It is another model now, by the same name."""
        self._most.pop(model, None)
        self._ready.discard(model)


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
