"""Blocks local models whose files or engine are missing.

The check costs file-system calls, so it runs when the catalogue changes and periodically, never during a request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

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
    """Blocks of local models, by id: not pulled, or without their engine."""

    def __init__(self, store: ModelStore, engine_missing: Callable[[str], EngineMissing | None]) -> None:
        self._store = store
        self._engine_missing = engine_missing
        self._files: FileChecks[str | None] = FileChecks()
        self._absent: frozenset[str] = frozenset()
        self.blocked: Mapping[str, Block] = {}

    def refresh(self, models: tuple[Model, ...]) -> None:
        """Check again. It waits for the file system, so call it from a thread, or at start.

        A row whose files are on a mount that hangs is blocked after two seconds, and no other.
        """
        local = [model for model in models if model.local]
        missing = self._files.run({model.id: partial(self._missing, model) for model in local})
        self._absent = frozenset(model.id for model in local if missing.get(model.id, "") is not None)
        blocked = {model.id: block for model in local if (block := self._block(model, missing)) is not None}
        if blocked != self.blocked:
            self.blocked = blocked

    def has_files(self, model: Model) -> bool:
        """Whether a local model's files were complete at the last check."""
        return model.id not in self._absent

    def _missing(self, model: Model) -> str | None:
        try:
            return self._store.missing(model)
        except OSError as error:
            return f"The files of '{model.id}' cannot be read: {error.strerror or error}."

    def _block(self, model: Model, missing: Mapping[str, str | None]) -> Block | None:
        if model.engine is None:
            return Block("no_engine", f"the row of '{model.id}' names no engine")
        missing_engine = self._engine_missing(model.engine)
        if missing_engine is not None:
            return Block(missing_engine.code, missing_engine.message)
        if model.id not in missing:
            return Block("not_pulled", f"the file system does not answer about the files of '{model.id}'")
        reason = missing[model.id]
        return None if reason is None else Block("not_pulled", reason)
