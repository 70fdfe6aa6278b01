"""Callers: the identity that a key stands for, and where a job comes from. Nothing here knows HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from catalog.catalog import Catalog
from catalog.index import permits
from routing.accounts.virtual_keys import KeyInfo
from routing.reading.stand_ins import StandIn


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller. ``id`` names the key in logs, limits and spend; it is never the key.

    ``metrics`` marks a key that may read /metrics and nothing else. ``key`` is the virtual key's record, with the
    models and limits that it is bound to.
    """

    id: str
    admin: bool = False
    metrics: bool = False
    key: KeyInfo | None = None

    def models(self, catalog: Catalog) -> tuple[str, ...]:
        """The ids and patterns of the models that this caller may use; empty means all."""
        return () if self.key is None else catalog.with_aliases(self.key.models)

    def allows(self, model: str, catalog: Catalog) -> bool:
        """Whether this caller may use the model with this id."""
        return permits(self.models(catalog), model)


ANONYMOUS = Caller(id="anonymous", admin=True)
"""The caller where no keys are set: this machine's own user, on loopback."""


@dataclass(slots=True)
class Origin:
    """Where a job comes from: its caller, its trace id, and the headers that may state an intent.

    ``stand_in`` is the model that stands in for the one that the caller named.
    """

    caller: Caller
    trace: str
    headers: Mapping[str, str] = field(default_factory=dict)
    stand_in: StandIn | None = None


class Authenticator(Protocol):
    """Maps keys to callers. ``authenticate`` is on every request's path, so it reads memory only."""

    def authenticate(self, key: str | None) -> Caller:
        """The caller that ``key`` belongs to. Raises NotAuthenticated."""
        ...
