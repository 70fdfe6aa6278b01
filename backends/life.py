"""The life of a server, for the calls that are made to it: they end with it, and not by a timeout."""

from __future__ import annotations

from collections.abc import Callable


class Life:
    """Tells calls in progress that their server is gone, where its connections may stay silent instead.

    A machine that loses its network closes no connection. What watches the machine ends its life; each call in
    progress is then broken at once.
    """

    __slots__ = ("_callbacks", "ended")

    def __init__(self) -> None:
        self.ended = False
        self._callbacks: set[Callable[[], None]] = set()

    def add(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` at the end; at once if that is past."""
        if self.ended:
            callback()
        else:
            self._callbacks.add(callback)

    def discard(self, callback: Callable[[], None]) -> None:
        """Forget a callback."""
        self._callbacks.discard(callback)

    def end(self) -> None:
        """Call every callback, once."""
        self.ended = True
        while self._callbacks:
            self._callbacks.pop()()
