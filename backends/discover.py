"""What a running server says about its models, as the documents it answered with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from backends.base import Upstream
from catalog.types import Json


@dataclass(frozen=True, slots=True)
class Listing:
    """``models`` is the server's list as it came; ``details`` holds a further document by model name.

    ``loaded`` names the models that are in memory now, where the server tells. :mod:`catalog.discovery` makes
    rows of it.
    """

    models: Json
    details: dict[str, Json] = field(default_factory=dict)
    loaded: frozenset[str] = frozenset()


@runtime_checkable
class Discover(Protocol):
    """A backend that can list what its server has. Raises :mod:`catalog.errors` only."""

    async def list_models(self, upstream: Upstream) -> Listing: ...
