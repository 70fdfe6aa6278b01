"""Console and tables for terminal output. Rich is imported at first use, so that ``serve`` starts sooner."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def console(*, stderr: bool = False) -> Console:
    """A console. Markup is off, because the output may contain square brackets."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False)


def table() -> Table:
    """An empty table without borders."""
    from rich.table import Table

    return Table(box=None, header_style="bold")
