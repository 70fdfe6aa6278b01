"""Tables and a console for the terminal. Rich is imported when something is shown: serving starts sooner."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def console(*, stderr: bool = False) -> Console:
    """Where to print. What is printed may hold square brackets, so markup is off."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False)


def table() -> Table:
    """A table without lines; add columns and rows."""
    from rich.table import Table

    return Table(box=None, header_style="bold")
