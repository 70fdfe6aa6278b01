"""The notes of a server beside its answer, for commands that write the answer to a file."""

from __future__ import annotations

import httpx

from server.commands import terminal


class Remarks:
    """Prints the notes of answers on standard error, each once, however many answers have it."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def tell(self, response: httpx.Response, *, of: str = "") -> None:
        """Print what an answer's headers say of dropped parameters and of its model; ``of``: the file it is of."""
        for line in remarks_of(response):
            if line not in self._told:
                self._told.add(line)
                terminal.say(f"{of}: {line}" if of else line, err=True)


def remarks_of(response: httpx.Response) -> list[str]:
    """The lines for ``x-roundhouse-dropped`` and ``x-roundhouse-notice``."""
    dropped, notice = (response.headers.get(f"x-roundhouse-{name}") for name in ("dropped", "notice"))
    return [*([dropped_line(dropped)] if dropped else ()), *([f"notice: {notice}"] if notice else ())]


def dropped_line(names: str) -> str:
    """The line for the names in ``x-roundhouse-dropped``."""
    return f"dropped: {names} (the model or its server does not know it)"
