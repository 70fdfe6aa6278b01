"""Prints the figures of the last run of ``tests/faults``: ``python -m tests.faults.report``."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from tests.faults.figures import read


def main() -> int:
    """Print the table; returns 1 when there is no figure yet."""
    figures = read()
    if not figures:
        print("Nothing was measured yet. Run: make faults", file=sys.stderr)
        return 1
    table = Table(box=None, header_style="bold")
    for column in ("ROW", "WHAT", "BOUND", "MEASURED"):
        table.add_column(column, overflow="fold")
    for figure in figures:
        table.add_row(str(figure.row), figure.what, figure.bound, figure.measured)
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
