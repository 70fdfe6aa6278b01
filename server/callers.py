"""Callers: the identity that a key stands for, and where a job comes from. Nothing here knows HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from routing.accounts.virtual_keys import KeyInfo


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller. ``id`` names the key in logs, limits and spend; it is never the key.

    ``key`` is the virtual key's record, with the models and limits that it is bound to.
    """

    id: str
    admin: bool = False
    key: KeyInfo | None = None

    def allows(self, model: str) -> bool:
        """Whether this caller may use the model with this id."""
        return self.key is None or self.key.allows(model)


ANONYMOUS = Caller(id="anonymous", admin=True)
"""The caller where no keys are set: this machine's own user, on loopback."""


@dataclass(slots=True)
class Origin:
    """Where a job comes from: its caller, its trace id, and the headers that may state an intent."""

    caller: Caller
    trace: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Authenticator(Protocol):
    """Maps keys to callers. ``authenticate`` is on every request's path, so it reads memory only."""

    def authenticate(self, key: str | None) -> Caller:
        """The caller that ``key`` belongs to. Raises NotAuthenticated."""
        ...
