"""Notices about models that their providers have announced to shut down."""

from __future__ import annotations

from datetime import UTC, datetime

import structlog

from catalog.model import Model


def notice(model: Model, wall: float) -> str | None:
    """The end of a model as a sentence for its caller; ``None`` without an announced end.

    ``wall`` is wall-clock time in seconds.
    """
    if model.ends is None:
        return None
    ended = datetime.fromtimestamp(wall, UTC).date() >= model.ends
    advice = "choose another model" if model.successor is None else f"use {model.successor}"
    return f"{model.id} {'ended' if ended else 'ends'} on {model.ends}; {advice}"


class EndWarnings:
    """Warns in the log of each model in use that ends, once."""

    def __init__(self) -> None:
        self._warned: set[str] = set()
        self._log = structlog.get_logger("roundhouse.catalog")

    def used(self, model: Model, wall: float) -> None:
        """Note that a model answered."""
        if model.ends is not None and model.id not in self._warned:
            self._warned.add(model.id)
            self._log.warning("model_ends", model=model.id, notice=notice(model, wall))
