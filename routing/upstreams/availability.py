"""Blocks local models whose files, engine or device are missing.

The check costs file-system calls, so it runs when the catalogue changes and periodically, never during a request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

import structlog

from catalog.errors import EngineMissing
from catalog.model import Model
from catalog.store.file_checks import FileChecks
from routing.plan import Block


class ModelStore(Protocol):
    """The store of models on disk."""

    def missing(self, model: Model) -> str | None:
        """Why a model cannot be loaded; ``None`` if it can."""
        ...


class Availability:
    """Blocks of local models, by id: not pulled, without their engine or device, or a file that a row names."""

    def __init__(
        self,
        store: ModelStore,
        engine_missing: Callable[[str], EngineMissing | None],
        missing_file: Callable[[Model], str | None] = lambda _: None,
        devices: Callable[[], frozenset[str]] | None = None,
        *,
        timeout: float = 2.0,
    ) -> None:
        """``missing_file`` returns what the row's engine options lack on this disk, ``devices`` the ids of this
        machine's devices; it is asked once, if a row names one. ``timeout`` is that of
        :class:`~catalog.store.file_checks.FileChecks`, in seconds.
        """
        self._ask_devices = devices
        self._devices: frozenset[str] = frozenset()
        self._store = store
        self._missing_file = missing_file
        self._engine_missing = engine_missing
        self._files: FileChecks[Block | None] = FileChecks(timeout)
        self._absent: frozenset[str] = frozenset()
        self.blocked: Mapping[str, Block] = {}
        self.faults: Mapping[str, Block] = {}
        """The lacks of each model's files at the last check, whether or not its engine is installed."""

    def refresh(self, models: tuple[Model, ...]) -> None:
        """Check again. It waits for the file system, so call it from a thread, or at start.

        A row whose files are on a mount that hangs is blocked after two seconds, and no other.
        """
        blocked = self.look(models)
        if blocked != self.blocked:
            for model in models:
                block = blocked.get(model.id)
                if model.origin == "user" and block is not None and block != self.blocked.get(model.id):
                    log = structlog.get_logger("routing.upstreams.availability")
                    log.warning("model cannot be used", model=model.id, reason=block.reason)
            self.blocked = blocked

    def look(self, models: tuple[Model, ...]) -> dict[str, Block]:
        """Check, and return the blocks by id without logging them or putting them in force."""
        local = [model for model in models if model.local]
        if self._ask_devices is not None and not self._devices and any(model.device for model in local):
            self._devices = self._ask_devices()
        files = self._files.run({model.id: partial(self._files_block, model) for model in local})
        blocked = {model.id: block for model in local if (block := self._block(model, files)) is not None}
        self.faults = {model.id: block for model in local if (block := _of_files(model, files)) is not None}
        whole = {name for name, block in files.items() if block is None or block.code == "missing_file"}
        self._absent = frozenset(model.id for model in local if model.id not in whole)
        return blocked

    def has_files(self, model: Model) -> bool:
        """Whether a local model's files were complete at the last check."""
        return model.id not in self._absent

    def _files_block(self, model: Model) -> Block | None:
        try:
            missing_files = self._store.missing(model)
            if missing_files is not None:
                return Block("not_pulled", missing_files)
            missing_file = self._missing_file(model)
            return None if missing_file is None else Block("missing_file", missing_file)
        except OSError as error:
            return Block("not_pulled", f"The files of '{model.id}' cannot be read: {error.strerror or error}.")

    def _block(self, model: Model, files: Mapping[str, Block | None]) -> Block | None:
        if model.engine is None:
            return Block("no_engine", f"the row of '{model.id}' names no engine")
        missing_engine = self._engine_missing(model.engine)
        if missing_engine is not None:
            return Block(missing_engine.code, missing_engine.message)
        if self._devices and model.device is not None and model.device not in self._devices:
            there = ", ".join(sorted(self._devices))
            return Block("no_device", f"its row names the device '{model.device}', and this machine has: {there}")
        return _of_files(model, files)


def _of_files(model: Model, files: Mapping[str, Block | None]) -> Block | None:
    if model.id not in files:
        return Block(
            "not_pulled",
            f"the files of '{model.id}' were not checked in time: their file system hangs, or the machine is busy",
        )
    return files[model.id]
