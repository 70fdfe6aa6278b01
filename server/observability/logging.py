"""Structured logs to standard error, as console lines or JSON, with secrets removed.

Tracebacks have neither the values of variables nor exception messages, because both may contain a caller's prompt.
``log.prompts`` adds the messages.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import io
import logging
import logging.config
import os
import re
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from pathlib import Path
from time import time
from types import TracebackType
from typing import Any, TextIO, cast

import orjson
import structlog
from structlog.types import EventDict, ExcInfo, WrappedLogger

from server.observability.settings import LogSettings

_SECRET_NAMES = frozenset(
    {"authorization", "api_key", "apikey", "x-api-key", "api-key", "password", "secret", "token"}
)
_SECRETS = re.compile(r"(?i)(bearer\s+|\bsk-|\brh-|\bkey=)[A-Za-z0-9._~+/=-]{6,}")
REDACTED = "[hidden]"
KEPT_LINES = 1000
"""Log lines that a process keeps in memory, to show them to administrators."""
_COLOR = re.compile(r"\x1b\[[0-9;]*m")


def configure_logging(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Set up the logging of this process. Called once when it starts."""
    batched = BatchedStream(stream or sys.stderr, settings)
    atexit.register(batched.finish)
    configure_structlog(settings, cast("TextIO", batched))
    configure_libraries(settings, cast("TextIO", batched))


def recent_lines(count: int) -> list[tuple[float, str]]:
    """The last entries of this process's log, oldest first: Unix time, and the text without colours.

    A traceback is part of its entry.
    """
    for handler in logging.getLogger().handlers:
        stream = handler.stream if isinstance(handler, logging.StreamHandler) else None
        if isinstance(stream, BatchedStream):
            return stream.recent(count)
    return []


class BatchedStream(io.TextIOBase):
    """Writes the lines of one event loop iteration in one system call; without a running loop, at once.

    Lines that cannot be written (a full disk, a pipe without a reader) are dropped, and serving goes on. Their
    number is logged as soon as writing works again.
    """

    def __init__(self, stream: TextIO, settings: LogSettings) -> None:
        self._stream = stream
        self._settings = settings
        self._lost = 0
        self._pending: list[str] = []
        self._recent: deque[tuple[float, str]] = deque(maxlen=KEPT_LINES)
        self._scheduled: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        with self._lock:
            self._pending.append(text)
            self._recent.append((time(), text))
        return len(text)

    def recent(self, count: int) -> list[tuple[float, str]]:
        """The last ``count`` entries, whether they could be written or not."""
        with self._lock:
            kept = list(self._recent)
        return [(at, _COLOR.sub("", text).rstrip("\n")) for at, text in kept[-count:]]

    def flush(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush_now()
            return
        if self._scheduled is not loop:
            self._scheduled = loop
            loop.call_soon(self.flush_now)

    def flush_now(self) -> None:
        """Write the pending lines."""
        with self._lock:
            self._scheduled = None
            if not self._pending:
                return
            lines, self._pending = self._pending, []
            told = [self._describe_lost(self._lost)] if self._lost else []
            try:
                self._stream.write("".join((*lines, *told)))
                self._stream.flush()
            except (OSError, ValueError):  # ValueError: the stream has been closed
                self._lost += len(lines)
                return
            self._lost = 0

    def finish(self) -> None:
        """Write the pending lines at the end of the process, whose exit status a broken log must not change."""
        self.flush_now()
        if self._lost:
            with contextlib.suppress(OSError, ValueError), Path(os.devnull).open("w") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())

    def _describe_lost(self, lines: int) -> str:
        """A line of its own: structlog's logger holds a lock while this stream writes."""
        entry = {"event": "lines of the log were lost", "lines": lines, "level": "warning"}
        time = structlog.processors.TimeStamper(fmt="iso", utc=True)
        return f"{renderer(self._settings, self._stream)(None, 'warning', time(None, 'warning', entry))}\n"

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()


def configure_structlog(settings: LogSettings, stream: TextIO) -> None:
    """Set up the logger of Roundhouse's own lines."""
    structlog.configure(
        processors=[*_shared_processors(settings), renderer(settings, stream)],
        wrapper_class=structlog.make_filtering_bound_logger(_level(settings)),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )


def configure_libraries(settings: LogSettings, stream: TextIO) -> None:
    """Give the lines of libraries, which use the standard library's logging, the same format."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *_shared_processors(settings)],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer(settings, stream)],
            use_get_message=True,
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(_level(settings), logging.INFO))
    for noisy in ("uvicorn.error", "httpx", "httpcore", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # At debug level sse-starlette and python-multipart log prompts and answers.
    for talkative in ("sse_starlette", "python_multipart", "multipart"):
        logging.getLogger(talkative).setLevel(logging.WARNING)


def _level(settings: LogSettings) -> int:
    return int(getattr(logging, settings.level.upper()))


def _shared_processors(settings: LogSettings) -> list[Any]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        exception_formatter(messages=settings.prompts),
        hide_secrets,
    ]


def renderer(settings: LogSettings, stream: TextIO) -> Any:
    """The processor that renders a line for a terminal, or as one JSON object."""
    return _render_json if settings.format == "json" else Console(colors=stream.isatty(), stream=stream)


def _render_json(logger: WrappedLogger, name: str, entry: EventDict) -> str:
    del logger, name
    return orjson.dumps(entry, default=repr).decode()


class Console:
    """Renders a line for a terminal: time, level, event, then the other fields; a traceback follows below.

    structlog's own renderer takes longer for one access log line than all JSON processing of its request.
    """

    def __init__(self, *, colors: bool, stream: TextIO | None = None) -> None:
        self.colors = colors
        self._stream = stream
        self._dim, self._bold, self._name, self._reset = _COLORS if colors else ("", "", "", "")
        self._levels = {name: (color if colors else "") + name for name, color in _LEVEL_COLORS.items()}

    @property
    def descriptor(self) -> int | None:
        """The file descriptor that the lines go to, if they go to one."""
        with contextlib.suppress(OSError, AttributeError):
            return None if self._stream is None else self._stream.fileno()
        return None

    def __call__(self, logger: WrappedLogger, name: str, entry: EventDict) -> str:
        del logger, name
        reset = self._reset
        time, level, event = entry.pop("timestamp", ""), entry.pop("level", ""), entry.pop("event", "")
        exception = entry.pop("exception", None)
        line = (
            f"{self._dim}{time}{reset} [{self._levels.get(level, level)}{reset}{' ' * (9 - len(level))}] "
            f"{self._bold}{event!s:<30}{reset}"
        )
        for key in sorted(entry):
            line += f" {self._name}{key}{reset}={quoted(entry[key])}"
        return line if exception is None else f"{line}\n{exception}"


_COLORS = ("\x1b[2m", "\x1b[1m", "\x1b[36m", "\x1b[0m")
_LEVEL_COLORS = {
    "debug": "\x1b[32m",
    "info": "\x1b[32m",
    "warning": "\x1b[33m",
    "error": "\x1b[31m",
    "critical": "\x1b[31m",
}
_PLAIN = re.compile(r"[^\s\"'=\x00-\x1f\x7f-\x9f]+")


def quoted(value: object) -> str:
    """A value as text; as its ``repr`` if it contains spaces, quotes, ``=`` or control characters."""
    text = value if isinstance(value, str) else repr(value)
    return text if _PLAIN.fullmatch(text) else repr(value)


def hide_secrets(logger: WrappedLogger, name: str, entry: EventDict) -> EventDict:
    """Hide values whose name or form is that of a secret."""
    del logger, name
    for key, value in entry.items():
        if key.lower() in _SECRET_NAMES:
            entry[key] = REDACTED
        elif isinstance(value, str):
            entry[key] = redacted(value)
    return entry


def redacted(text: str) -> str:
    """The text with every part that looks like a secret hidden."""
    if len(text) > 8 and _may_hold_secret(text.lower()):
        return _SECRETS.sub(lambda found: found.group(1) + REDACTED, text)
    return text


def _may_hold_secret(text: str) -> bool:
    """Whether a lower-case text may match :data:`_SECRETS`; a tenth of the cost of searching with it."""
    return "bearer" in text or "sk-" in text or "rh-" in text or "key=" in text


def exception_formatter(*, messages: bool) -> Callable[[WrappedLogger, str, EventDict], EventDict]:
    """A processor that replaces ``exc_info`` with the text of its traceback."""

    def format_exception(logger: WrappedLogger, name: str, entry: EventDict) -> EventDict:
        del logger, name
        info = entry.pop("exc_info", None)
        error = _exception(info)
        if error is not None:
            entry["exception"] = "".join(_format_error(error, messages=messages)).rstrip()
        return entry

    return format_exception


def _exception(info: ExcInfo | BaseException | bool | None) -> BaseException | None:
    if isinstance(info, BaseException):
        return info
    if isinstance(info, tuple):
        return info[1]
    return sys.exc_info()[1] if info else None


def _format_error(error: BaseException, *, messages: bool) -> list[str]:
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    before = [*_format_error(cause, messages=messages), "which led to\n"] if cause is not None else []
    frames: TracebackType | None = error.__traceback__
    kind = f"{type(error).__module__}.{type(error).__qualname__}"
    return [*before, *traceback.format_tb(frames), f"{kind}: {error}\n" if messages else f"{kind}\n"]
