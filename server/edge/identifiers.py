"""Ids of requests and traces."""

from __future__ import annotations

import os

_PAGE = 4096


class RandomHex:
    """Random hexadecimal text, from random bytes read from the system a page at a time.

    A request has two ids; a system call for each took a twentieth of a plain request's time.
    """

    __slots__ = ("_at", "_page")

    def __init__(self) -> None:
        self._page = ""
        self._at = 0

    def __call__(self, size: int) -> str:
        """``size`` random bytes, at most a page, as text of twice that length."""
        end = self._at + 2 * size
        if end > len(self._page):
            self._page = os.urandom(_PAGE).hex()
            self._at, end = 0, 2 * size
        text = self._page[self._at : end]
        self._at = end
        return text
