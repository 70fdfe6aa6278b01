"""Shows an answer while it comes: as Markdown on a terminal, as it is in a pipe."""

from __future__ import annotations

import re
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment
from rich.text import Text

from server.commands.terminal import cleaned

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")
_FRAMES = 12
"""Renderings per second."""
_SPARE = 2
"""Lines of the terminal that the open block leaves free."""


def closed_blocks(text: str) -> int:
    """The length of the part of a Markdown text whose blocks later text cannot change.

    A block ends at a blank line outside code fences which a line without indentation follows.
    """
    end = at = 0
    fence = ""
    blank = False
    for line in text.splitlines(keepends=True):
        if blank and not fence and line.strip() and not line[0].isspace():
            end = at
        found = _FENCE.match(line)
        if found and not fence:
            fence = found[1]
        elif found and found[1].startswith(fence) and not found[2].strip():
            fence = ""
        blank = not line.strip()
        at += len(line)
    return end


class PlainDisplay:
    """Writes the text of an answer to standard output as it comes; reasoning is left out.

    On a terminal without control characters, which could rewrite the screen.
    """

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        sys.stdout.write("\n")
        sys.stdout.flush()

    def show(self, piece: str, reasoning: bool) -> None:
        """Add a piece of the answer, or of its reasoning."""
        if not reasoning:
            sys.stdout.write(cleaned(piece) if self._terminal else piece)
            sys.stdout.flush()


class MarkdownDisplay:
    """Renders an answer while it comes: closed blocks once, for good; the open one anew several times a second.

    Only the open block is redrawn, so an answer may be longer than the terminal is high. Control characters are
    left out.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._open = ""
        self._thought = ""
        self._begun = self._ended = False
        self._live = Live(
            get_renderable=lambda: "" if self._ended else _Tail(self._open, self._thought),
            console=console,
            refresh_per_second=_FRAMES,
            transient=True,
            vertical_overflow="crop",
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        self._live.stop()
        if self._open.strip():
            self._print(self._open)

    def show(self, piece: str, reasoning: bool) -> None:
        """Add a piece of the answer, or of its reasoning, which is shown until the answer begins."""
        piece = cleaned(piece)
        if reasoning:
            self._thought += piece
            return
        self._thought = ""
        self._open += piece
        if "\n" in piece and (end := closed_blocks(self._open)):
            done, self._open = self._open[:end], self._open[end:]
            self._print(done)

    def _print(self, text: str) -> None:
        if self._begun:
            self._console.print()
        self._begun = True
        self._console.print(Markdown(text.strip("\n")))


class _Tail:
    """The end of an open block, as much as the terminal shows; before the answer, the end of the reasoning."""

    def __init__(self, text: str, thought: str) -> None:
        self._text = text
        self._thought = thought

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._text.strip():
            shown: Markdown | Text = Markdown(self._text.strip("\n"))
            most = max(1, console.height - _SPARE)
        else:
            shown, most = Text(self._thought or "...", style="dim"), 5
        lines = console.render_lines(shown, options.update(height=None), pad=False)
        for line in lines[-most:]:
            yield from line
            yield Segment.line()
