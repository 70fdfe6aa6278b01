"""The access log: one line per request.

structlog's chain of processors took a tenth of a plain request's time for this line. So the line is assembled
here, and only the configured renderer, the last processor, is structlog's. For people it is a line of its own
(:class:`AccessLine`), which fits a terminal.
"""

from __future__ import annotations

import logging
import math
import os
from contextlib import suppress
from datetime import UTC, datetime
from time import time
from typing import Any, NamedTuple

import structlog

from server.observability.logging import Console, quoted, redacted
from server.observability.totals import Totals

NARROWEST = 80
"""Columns of the narrowest terminal that the line is cut for."""
LEAST_OF_MODEL = 12
"""Characters of a model's name that stay where the line is cut."""


class Served(NamedTuple):
    """A request that ended. ``seconds`` are those from its head to the end of its answer."""

    request_id: str
    trace: str
    method: str
    path: str
    status: int
    seconds: float
    key: str
    client: str
    totals: Totals


class AccessLog:
    """Writes access lines. Create it after logging is configured: it keeps that renderer and stream."""

    def __init__(self) -> None:
        configured = structlog.get_config()
        self._on = structlog.get_logger().bind().is_enabled_for(logging.INFO)
        self._render = configured["processors"][-1]
        self._out = configured["logger_factory"]()
        self._line = AccessLine.of(self._render) if isinstance(self._render, Console) else None
        self._second = 0
        self._second_text = ""

    def write(self, served: Served) -> None:
        """Write the line of one request."""
        if not self._on:
            return
        if self._line is not None:
            self._out.msg(self._line(served, self._timestamp()))
            return
        entry: dict[str, Any] = {
            "event": "request",
            "level": "info",
            "timestamp": self._timestamp(),
            "request_id": redacted(served.request_id),
            "trace": served.trace,
            "method": redacted(served.method),
            "path": redacted(served.path),
            "status": served.status,
            "seconds": round(served.seconds, 4),
            "key": served.key,
            "client": served.client,
        }
        if served.totals.model:
            _add_figures(entry, served.totals)
        self._out.msg(self._render(self._out, "info", entry))

    def _timestamp(self) -> str:
        """The current time as in the other lines: ISO 8601, UTC, microseconds."""
        now = time()
        second = int(now)
        if second != self._second:
            self._second = second
            self._second_text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._second_text}.{int((now - second) * 1e6):06d}Z"


def _add_figures(entry: dict[str, Any], totals: Totals) -> None:
    """Add what a model did for the request. A figure that nothing told is null."""
    entry["model"] = totals.model
    entry["attempts"] = totals.attempts
    entry["input_tokens"] = totals.input if totals.counted else None
    entry["output_tokens"] = totals.output if totals.counted else None
    entry["first_token_seconds"] = None if totals.first is None else round(totals.first, 4)
    entry["cost_dollars"] = None if totals.unknown and not totals.cost else round(totals.cost, 9)
    entry["cost_complete"] = not totals.unknown


class AccessLine:
    """Renders the line for people: time (UTC), status, method, path, then the model and its figures.

    The figures are seconds to the first token and in all, tokens of the prompt and of the answer, and dollars:
    ``20:15:04 200 POST /v1/chat/completions smollm2-135m-ins.. 0.21/1.52s 31+64 $0.0012``. On a terminal a line is
    cut to its width, and ids follow where there is room; in a file they always do, and nothing is cut.
    """

    def __init__(self, *, columns: int | None, colors: bool) -> None:
        """``columns`` of the terminal; ``None`` for a file."""
        self._columns = None if columns is None else max(columns, NARROWEST)
        self._colors = _COLORS if colors else {}
        self._reset = "\x1b[0m" if colors else ""

    @classmethod
    def of(cls, console: Console) -> AccessLine:
        """The line for the terminal, or the file, that a console writes to."""
        return cls(columns=_columns(console.descriptor) if console.colors else None, colors=console.colors)

    def __call__(self, served: Served, timestamp: str) -> str:
        totals, status = served.totals, f"{served.status:3}"
        method, path, model = quoted(redacted(served.method))[:7], quoted(redacted(served.path)), totals.model
        figures = _figures(totals, served.seconds)
        if self._columns is None:
            ids = f" request_id={quoted(redacted(served.request_id))} trace={served.trace} key={served.key}"
        else:
            room = self._columns - 14 - len(method) - len(figures)  # 14: the time, the status and spaces
            path, model = _shared(path, model, room)
            ids = f" trace={served.trace}"
            if len(path) + len(model) + bool(model) + len(ids) > room:
                ids = ""
        color = self._colors.get(served.status // 100)
        if color is not None:
            status = f"{color}{status}{self._reset}"
        return f"{timestamp[11:19]} {status} {method} {path}{' ' if model else ''}{model}{figures}{ids}"


def _figures(totals: Totals, whole: float) -> str:
    """The figures, after a space: seconds to the first token and in all, tokens, dollars."""
    told = f" {_short(whole)}s" if totals.first is None else f" {_short(totals.first)}/{_short(whole)}s"
    if totals.input or totals.output:
        told += f" {totals.input}+{totals.output}"
    return f"{told} {_dollars(totals)}" if totals.model else told


_COLORS = {2: "\x1b[32m", 3: "\x1b[36m", 4: "\x1b[33m", 5: "\x1b[31m"}
"""Colours by the first digit of a status."""


def _columns(descriptor: int | None) -> int:
    with suppress(OSError, TypeError):
        return os.get_terminal_size(descriptor or 2).columns or 80
    return 80


def _shared(path: str, model: str, room: int) -> tuple[str, str]:
    """The path and the model, cut so that both and a space between them have room."""
    if not model:
        return _cut(path, room), model
    if len(path) + 1 + len(model) <= room:
        return path, model
    of_model = max(min(len(model), LEAST_OF_MODEL), room - len(path) - 1)
    return _cut(path, room - 1 - min(len(model), of_model)), _cut(model, of_model)


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: max(0, room - 2)]}.."


def _short(seconds: float) -> str:
    if seconds < 0.0995:
        return f"{seconds:.3f}"
    return f"{seconds:.2f}" if seconds < 9.995 else f"{seconds:.0f}"


def _dollars(totals: Totals) -> str:
    """The known cost to two digits; a plus says that a part is unknown."""
    if not totals.cost:
        return "$?" if totals.unknown else "$0"
    digits = min(9, max(2, 1 - math.floor(math.log10(totals.cost))))
    return f"${totals.cost:.{digits}f}{'+' if totals.unknown else ''}"
