"""Estimates the resources of a replica before it is placed: Ray grants them before anything is measured."""

from __future__ import annotations

from collections.abc import Sequence

from backends.workers.cluster.placing import Node, Request
from backends.workers.engines.registry import builtin_engines
from backends.workers.settings import WorkerSettings
from catalog.hardware import needed
from catalog.model import Model

OWN = 128 * 1024 * 1024
"""Bytes of a replica's own processes, beside the worker's."""
_UNKNOWN = 1024 * 1024 * 1024


class Estimates:
    """The memory of models as measured, and else as their rows tell."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._peaks: dict[str, int] = {}
        self._accelerated = frozenset(
            name for name, engine in builtin_engines(settings.python).items() if "cuda" in engine.devices
        )

    def note(self, model_id: str, memory: int) -> None:
        """Record the measured memory of a worker in bytes."""
        self._peaks[model_id] = max(memory, self._peaks.get(model_id, 0))

    def request(self, model: Model, nodes: Sequence[Node]) -> Request:
        """Return what a replica of the model needs, given what the nodes have."""
        wanted = model.resources
        gpus = wanted.gpus if wanted.gpus is not None else self._gpus(model, nodes)
        # On a GPU the model's memory is the GPU's, and the node holds its pages only while they are copied.
        memory = wanted.memory or (_UNKNOWN if gpus else max(self._memory(model), self._peaks.get(model.id, 0)))
        needs = {"memory": float(memory + OWN), "CPU": wanted.cpus, "GPU": gpus, **wanted.custom}
        return Request(model.id, {name: amount for name, amount in needs.items() if amount}, wanted.labels)

    def _gpus(self, model: Model, nodes: Sequence[Node]) -> float:
        """One GPU where the engine can use it, or as many as vLLM spans; none in a cluster without."""
        if model.device == "cpu" or model.engine not in self._accelerated:
            return 0.0
        if not any(node.total.get("GPU") for node in nodes):
            return 0.0
        return float(_parallel(model))

    def _memory(self, model: Model) -> int:
        if model.size.memory is not None:
            return model.size.memory
        if model.size.disk is not None:
            return needed(model.size.disk, context=self._settings.context, geometry=model.geometry)
        return _UNKNOWN


def _parallel(model: Model) -> int:
    """The processes that vLLM starts, each on a GPU of its own."""
    sizes = (model.options.get(name, 1) for name in ("tensor_parallel_size", "pipeline_parallel_size"))
    tensor, pipeline = (size if isinstance(size, int) and size > 0 else 1 for size in sizes)
    return tensor * pipeline
