"""Estimates the resources of a replica before it is placed: Ray grants them before anything is measured."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from backends.workers.cluster.placing import Node, ReplicaRequest
from backends.workers.cluster.specs import models_folder
from backends.workers.engines.registry import EngineInfo, builtin_engines, files_memory
from backends.workers.settings import WorkerSettings
from catalog.errors import RoundhouseError
from catalog.hardware import needed
from catalog.model import LibrarySource, Model
from catalog.store.store import Store

OWN = 128 * 1024 * 1024
"""Bytes of a replica's own processes, beside the worker's."""
_UNKNOWN = 1024 * 1024 * 1024
_CORES = 4
"""Cores of a node, for the slots of an engine that goes by them."""


class Estimates:
    """The memory of models as measured, else by their files if they are here, else as their rows tell."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._store = Store(models_folder(settings.cluster_data))
        self._engines = builtin_engines(settings.python)
        self._peaks: dict[str, int] = {}
        self._by_files: dict[str, tuple[Model, int]] = {}

    def note(self, model_id: str, memory: int) -> None:
        """Record the measured memory of a worker in bytes."""
        self._peaks[model_id] = max(memory, self._peaks.get(model_id, 0))

    def look(self, model: Model) -> None:
        """Estimate by the model's files, if this node has them. It blocks; before :meth:`request`."""
        known = self._by_files.get(model.id)
        if known is not None and known[0] == model:
            return
        size = 0
        with contextlib.suppress(RoundhouseError, OSError):
            if not isinstance(model.source, LibrarySource) and self._store.missing(model) is None:
                size = self._of_files(model, self._store.path(model))
        self._by_files[model.id] = model, size

    def request(self, model: Model, nodes: Sequence[Node]) -> ReplicaRequest:
        """Return what a replica of the model needs, given what the nodes have."""
        wanted = model.resources
        gpus = wanted.gpus if wanted.gpus is not None else self._gpus(model, nodes)
        # On a GPU the model's memory is the GPU's, and the node holds its pages only while they are copied.
        memory = wanted.memory or (_UNKNOWN if gpus else self._memory(model))
        needs = {"memory": float(memory + OWN), "CPU": wanted.cpus, "GPU": gpus, **wanted.custom}
        return ReplicaRequest(model.id, {name: amount for name, amount in needs.items() if amount}, wanted.labels)

    def _of_files(self, model: Model, path: Path) -> int:
        engine = self._engines.get(model.engine or "")
        if engine is None or engine.memory is None:
            return 0 if model.size.memory is not None else files_memory(path)
        context = self._engines.context(model, self._settings.context) or 0
        return engine.memory(path, self._slots(model, engine), context, model.options)

    def _slots(self, model: Model, engine: EngineInfo) -> int:
        chosen = model.options.get("slots")
        if isinstance(chosen, int) and chosen > 0:
            return chosen
        return self._settings.slots or engine.slots(self._settings.threads or _CORES)

    def _gpus(self, model: Model, nodes: Sequence[Node]) -> float:
        """One GPU where the engine can use it, or as many as vLLM spans; none in a cluster without."""
        engine = self._engines.get(model.engine or "")
        if model.device == "cpu" or engine is None or "cuda" not in engine.devices:
            return 0.0
        if not any(node.total.get("GPU") for node in nodes):
            return 0.0
        return float(_parallel(model))

    def _memory(self, model: Model) -> int:
        peak, by_files = self._peaks.get(model.id, 0), self._by_files.get(model.id, (model, 0))[1]
        if peak or by_files:
            return max(peak, by_files)
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
