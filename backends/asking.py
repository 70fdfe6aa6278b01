"""The form in which an upstream is asked for an answer in chunks, as far as its refusals have taught it."""

from __future__ import annotations

import asyncio
from typing import Literal

Form = Literal["stream", "bare", "plain"]
"""A stream that ends with usage (``stream_options``), a stream without those options, or a plain answer."""

LASTS = 3600.0
"""Seconds after which the usual form is tried again: a server may have learned it meanwhile."""


class AskedForms:
    """The forms that one row's upstream refused. It belongs to the row's content: a changed row has a new one."""

    __slots__ = ("_until", "bare", "known", "lacked", "no_developer", "plain", "system_first")

    def __init__(self) -> None:
        self.known = False
        """Whether anything was learned: the one thing to ask on the usual path."""
        self.bare = False
        """Whether ``stream_options`` are refused, so that a stream does not report its usage."""
        self.plain: bool | None = None
        """True if streams are refused, False if plain requests are."""
        self.system_first = False
        """Whether system messages behind the first message are refused."""
        self.no_developer = False
        """Whether the role ``developer`` is refused."""
        self.lacked: frozenset[str] = frozenset()
        """Hints that are refused: parameters without which the answer is the same."""
        self._until = 0.0

    def learn(self, form: Form, *, instead_of: Form) -> None:
        """Remember that ``form`` was answered after ``instead_of`` had been refused."""
        self.bare = self.bare or form == "bare"
        if "plain" in (form, instead_of):
            self.plain = form == "plain"
        self._keep()

    def learn_mended(self, *, system_first: bool, no_developer: bool, lacked: frozenset[str]) -> None:
        """Remember what was changed in a request that was answered then.

        Its system messages came first, none had the role ``developer``, and it had no hint of ``lacked``.
        """
        self.system_first = self.system_first or system_first
        self.no_developer = self.no_developer or no_developer
        self.lacked |= lacked
        self._keep()

    def _keep(self) -> None:
        self.known = True
        self._until = asyncio.get_running_loop().time() + LASTS

    def recall(self) -> bool:
        """Whether something is known that is not older than :data:`LASTS`."""
        if self.known and asyncio.get_running_loop().time() >= self._until:
            self.known = self.bare = self.system_first = self.no_developer = False
            self.plain = None
            self.lacked = frozenset()
        return self.known
