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

    __slots__ = ("_until", "bare", "known", "plain", "system_first")

    def __init__(self) -> None:
        self.known = False
        """Whether anything was learned: the one thing to ask on the usual path."""
        self.bare = False
        """Whether ``stream_options`` are refused, so that a stream does not report its usage."""
        self.plain: bool | None = None
        """True if streams are refused, False if plain requests are."""
        self.system_first = False
        """Whether system messages behind the first message are refused."""
        self._until = 0.0

    def learn(self, form: Form, *, instead_of: Form) -> None:
        """Remember that ``form`` was answered after ``instead_of`` had been refused."""
        self.bare = self.bare or form == "bare"
        if "plain" in (form, instead_of):
            self.plain = form == "plain"
        self._keep()

    def learn_system_first(self) -> None:
        """Remember that a conversation was answered once its system messages stood at its beginning."""
        self.system_first = True
        self._keep()

    def _keep(self) -> None:
        self.known = True
        self._until = asyncio.get_running_loop().time() + LASTS

    def recall(self) -> bool:
        """Whether something is known that is not older than :data:`LASTS`."""
        if self.known and asyncio.get_running_loop().time() >= self._until:
            self.known = self.bare = self.system_first = False
            self.plain = None
        return self.known
