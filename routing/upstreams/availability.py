"""Which models of the catalogue this machine could run or reach at all, looked up aside from the requests.

Whether a model's files are there and its engine installed costs file-system calls, so it is asked when the
catalogue changes and now and then, never on a request's path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from catalog.errors import EngineMissing
from catalog.model import Model
from routing.plan import Block


class Shelf(Protocol):
    """What is asked of the store of models on disk."""

    def missing(self, model: Model) -> str | None:
        """Why a model cannot be loaded; ``None`` if it can."""
        ...


class Availability:
    """Blocks of local models, by id: not pulled, or without its engine."""

    def __init__(self, shelf: Shelf, engine_missing: Callable[[str], EngineMissing | None]) -> None:
        self._shelf = shelf
        self._engine_missing = engine_missing
        self.blocked: Mapping[str, Block] = {}
        self.version = 0

    def refresh(self, models: tuple[Model, ...]) -> None:
        """Look again. Blocks on the file system: call it from a thread, or at start."""
        blocked = {model.id: block for model in models if (block := self.reason(model)) is not None}
        if blocked != self.blocked:
            self.blocked = blocked
            self.version += 1

    def reason(self, model: Model) -> Block | None:
        """Why a model cannot be run here, as it is now."""
        if not model.local:
            return None
        if model.engine is None:
            return Block("no_engine", f"the row of '{model.id}' names no engine")
        missing = self._engine_missing(model.engine)
        if missing is not None:
            return Block(missing.code, missing.message)
        reason = self._shelf.missing(model)
        return Block("not_pulled", reason) if reason is not None else None
