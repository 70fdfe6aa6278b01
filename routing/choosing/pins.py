"""Pins an alias of embeddings to one model: another model would be another vector space.

A pin is made by the first call that succeeds and that its own fields do not restrict, or by an administrator. It
holds for every caller, unless the models or the caps of the call's key restricted the choice: then it is the key's
own (``auto@KEY``), which comes before the common one, so that no key gets vectors of two models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from catalog.index import permits
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


def pinned_model(facts: Facts, world: World) -> str | None:
    """The id of the model that this embedding request's alias is pinned to; ``None`` if it is to none.

    A pin of the key's own comes first. The common one does not hold for a key that may not use its model.
    """
    if facts.capability is not Capability.EMBED or not world.pins:
        return None
    alias = alias_of(facts.requested)
    own = world.pins.get(_own(alias, facts))
    if own is not None:
        return own
    common = world.pins.get(alias)
    if common is None or not permits(facts.allowed, world.index.resolve(common).id):
        return None
    return common


def pin_of(facts: Facts, world: World) -> str | None:
    """The name under which the choice for this embedding request is pinned; ``None`` if it is not.

    Every preference or limit of the request's own restricts a choice, which then makes no pin; a mode that the
    alias itself names (``auto:fast``) does not. The models and caps of a key restrict what holds for every caller:
    such a key has a pin of its own.
    """
    if facts.capability is not Capability.EMBED:
        return None
    alias = alias_of(facts.requested)
    _, _, mode = alias.partition("auto:")
    free = Intent(mode=Mode(mode) if mode else Mode.AUTO)
    stated = replace(facts.intent, task=None, workload=Workload.INTERACTIVE, escalate=False, strict=False)
    if stated != free:
        return None
    if not (facts.allowed or world.key_capped):
        return alias
    return _own(alias, facts) if facts.key else None


def may_pin(facts: Facts, world: World) -> bool:
    """Whether the choice for this embedding request may hold for every caller (:func:`pin_of`)."""
    return not facts.allowed and not world.key_capped and pin_of(facts, world) is not None


def _own(alias: str, facts: Facts) -> str:
    return f"{alias}@{facts.key.casefold()}"
