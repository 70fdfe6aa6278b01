"""Console and tables for terminal output. Rich is imported at first use, so that ``serve`` starts sooner."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.segment import Segment
    from rich.table import Table

AsJson = Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")]
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_UNBOUNDED = 10_000
"""The width of a pipe or file, where no line is folded or cut."""


def cleaned(text: str) -> str:
    """A text without control characters, by which the text of others could rewrite the screen."""
    return _CONTROLS.sub("", text)


def say(text: object = "", *, err: bool = False, nl: bool = True) -> None:
    """Print a text, :func:`cleaned`. Every command prints by this or by a :func:`console`."""
    typer.echo(cleaned(str(text)), err=err, nl=nl)


def console(*, stderr: bool = False) -> Console:
    """A console for text, :func:`cleaned`. Markup is off, because the output may contain square brackets."""
    from rich.console import Console
    from rich.segment import Segment

    class Cleaning(Console):
        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                yield segment if segment.control else Segment(cleaned(segment.text), segment.style)

    stream = sys.stderr if stderr else sys.stdout
    # The stream itself is asked: FORCE_COLOR makes rich take a pipe for a terminal of 80 columns.
    width = None if stream is not None and stream.isatty() else _UNBOUNDED
    return Cleaning(stderr=stderr, markup=False, width=width)


def print_json(document: Any) -> None:
    """Print a document as JSON, as wide as it is."""
    say(json.dumps(document, indent=1, ensure_ascii=False))


def table() -> Table:
    """An empty table without borders, whose rows become lists where the terminal is too narrow for whole words."""
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    class Fitting(Table):
        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            needed = Measurement.get(console, options.update(width=_UNBOUNDED), self).minimum
            if needed <= options.max_width:
                yield from super().__rich_console__(console, options)
                return
            names = [str(column.header) for column in self.columns]
            width = max(map(len, names))
            for cells in zip(*(list(column.cells) for column in self.columns), strict=True):
                filled: list[tuple[str, Any]] = [
                    (name, cell) for name, cell in zip(names, cells, strict=True) if cell
                ]
                for place, (name, cell) in enumerate(filled):
                    indent = "" if place == 0 else "  "
                    yield Text.assemble(indent, (f"{name:{width}}", "bold"), f"  {cell}")

    return Fitting(box=None, header_style="bold")


def counted(number: int, noun: str) -> str:
    """A number and its noun, such as ``1 vector`` and ``2 vectors``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def bytes_of(size: int | None) -> str:
    """A size in bytes as text, in decimal units."""
    if not size:
        return ""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.1f} {unit}" if unit == "GB" and value < 100 else f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
