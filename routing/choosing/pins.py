"""Pins an alias of embeddings to one model: another model would be another vector space.

A pin holds for every caller. It is made by the first call that succeeds and that neither its key nor its own
fields restricted (:func:`may_pin`), or by an administrator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from catalog.model import Capability
from routing.choosing.world import World
from routing.facts import Facts, Intent, Mode, Workload, alias_of


class Pins:
    """Aliases and the model ids they are pinned to; stored by :mod:`routing.persistence`.

    Only :meth:`pin` with ``change`` and :meth:`unpin`, an operator's explicit requests, replace a pin. Of the
    pins that two gateways make at the same time the first in the store holds.
    """

    kind = "pin"

    def __init__(self) -> None:
        self._pins: dict[str, str] = {}
        self._changed: set[str] = set()
        self._ordered: set[str] = set()

    @property
    def current(self) -> Mapping[str, str]:
        """Model ids by alias."""
        return self._pins

    def pin(self, alias: str, model: str, *, change: bool = False) -> str:
        """Pin an alias, unless it is pinned already; returns the model it is pinned to."""
        if change or alias not in self._pins:
            self._pins[alias] = model
            self._changed.add(alias)
            if change:
                self._ordered.add(alias)
        return self._pins[alias]

    def unpin(self, alias: str) -> bool:
        """Remove a pin; False if there was none."""
        if self._pins.pop(alias, None) is None:
            return False
        self._changed.add(alias)
        self._ordered.add(alias)
        return True

    def export(self) -> Mapping[str, Any]:
        """Pins changed since the last export. A removed one stays as a document without a model, for other
        gateways."""
        changed, self._changed = self._changed, set()
        self._ordered.clear()
        return {alias: {"model": self._pins.get(alias)} for alias in changed}

    def adopt(self, documents: Mapping[str, Any]) -> None:
        """Load stored pins, except those that an operator changed here and that are not yet exported."""
        for alias, document in documents.items():
            model = document.get("model") if isinstance(document, dict) else ""
            if isinstance(model, str) and model and alias not in self._ordered:
                self._pins[alias] = model
                self._changed.discard(alias)
            elif model is None and alias not in self._changed:
                self._pins.pop(alias, None)


def may_pin(facts: Facts, world: World) -> bool:
    """Whether the choice for this embedding request is free, so that it may hold for every caller.

    The key's models and caps, and every preference or limit of the request's own, restrict a choice. A mode that
    the alias itself names (``auto:fast``) does not.
    """
    if facts.capability is not Capability.EMBED or facts.allowed or world.key_capped:
        return False
    _, _, mode = alias_of(facts.requested).partition("auto:")
    free = Intent(mode=Mode(mode) if mode else Mode.AUTO)
    stated = replace(facts.intent, task=None, workload=Workload.INTERACTIVE, escalate=False, strict=False)
    return stated == free
