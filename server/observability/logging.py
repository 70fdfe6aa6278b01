"""Structured logs to standard error: for people or for machines, and never with a secret in them.

Tracebacks are written without the values of variables and without exception messages: both may hold a
caller's prompt. ``log.prompts`` brings the messages back.
"""

from __future__ import annotations

import asyncio
import atexit
import io
import logging
import logging.config
import re
import sys
import threading
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, TextIO, cast

import orjson
import structlog
from structlog.types import EventDict, ExcInfo, WrappedLogger

from server.settings import LogSettings

_SECRET_NAMES = frozenset(
    {"authorization", "api_key", "apikey", "x-api-key", "api-key", "password", "secret", "token"}
)
_SECRETS = re.compile(r"(?i)(bearer\s+|\bsk-|\brh-|\bkey=)[A-Za-z0-9._~+/=-]{6,}")
HIDDEN = "[hidden]"


def configure_logging(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Set up logging of this process: called once by the runner, never at import."""
    lines = Lines(stream or sys.stderr)
    atexit.register(lines.write_out)
    configure_structlog(settings, cast("TextIO", lines))
    configure_libraries(settings, cast("TextIO", lines))


class Lines(io.TextIOBase):
    """A stream whose lines are written together once the event loop has come round: those of requests that end
    at the same time are one system call. Where no loop runs a line is written at once."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._held: list[str] = []
        self._due: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        with self._lock:
            self._held.append(text)
        return len(text)

    def flush(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.write_out()
            return
        if self._due is not loop:
            self._due = loop
            loop.call_soon(self.write_out)

    def write_out(self) -> None:
        """Write what is held."""
        with self._lock:
            self._due = None
            if self._held:
                text, self._held = "".join(self._held), []
                self._stream.write(text)
                self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()


def configure_structlog(settings: LogSettings, stream: TextIO) -> None:
    """Our own lines."""
    structlog.configure(
        processors=[*_shared(settings), renderer(settings, stream)],
        wrapper_class=structlog.make_filtering_bound_logger(_level(settings)),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )


def configure_libraries(settings: LogSettings, stream: TextIO) -> None:
    """The lines of libraries that use the standard library's logging, in the same shape."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *_shared(settings)],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer(settings, stream)],
            use_get_message=True,
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(_level(settings), logging.INFO))
    for noisy in ("uvicorn.error", "httpx", "httpcore", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # At debug level sse-starlette and python-multipart write what passes through them: prompts and answers.
    for talkative in ("sse_starlette", "python_multipart", "multipart"):
        logging.getLogger(talkative).setLevel(logging.WARNING)


def _level(settings: LogSettings) -> int:
    return int(getattr(logging, settings.level.upper()))


def _shared(settings: LogSettings) -> list[Any]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        exception_formatter(messages=settings.prompts),
        hide_secrets,
    ]


def renderer(settings: LogSettings, stream: TextIO) -> Any:
    """Lines for a terminal, or one JSON object a line."""
    return _render_json if settings.format == "json" else Console(colors=stream.isatty())


def _render_json(logger: WrappedLogger, name: str, entry: EventDict) -> str:
    del logger, name
    return orjson.dumps(entry, default=repr).decode()


class Console:
    """A line for people: time, level, event, then what else there is, in columns, and a traceback below.

    structlog's own renderer takes longer for a line of the access log than the gateway's whole JSON does.
    """

    def __init__(self, *, colors: bool) -> None:
        self._dim, self._bold, self._name, self._reset = _COLORS if colors else ("", "", "", "")
        self._levels = {name: (color if colors else "") + name for name, color in _LEVEL_COLORS.items()}

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
            line += f" {self._name}{key}{reset}={_shown(entry[key])}"
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


def _shown(value: object) -> str:
    """A value as it is, or as Python writes it where it could be mistaken for something else."""
    text = value if isinstance(value, str) else repr(value)
    return text if _PLAIN.fullmatch(text) else repr(value)


def hide_secrets(logger: WrappedLogger, name: str, entry: EventDict) -> EventDict:
    """Blank what is named like a secret or looks like one."""
    del logger, name
    for key, value in entry.items():
        if key.lower() in _SECRET_NAMES:
            entry[key] = HIDDEN
        elif isinstance(value, str):
            entry[key] = hidden(value)
    return entry


def hidden(text: str) -> str:
    """A text with what looks like a secret in it blanked."""
    if len(text) > 8 and _may_hold_secret(text.lower()):
        return _SECRETS.sub(lambda found: found.group(1) + HIDDEN, text)
    return text


def _may_hold_secret(text: str) -> bool:
    """Whether :data:`_SECRETS` could be in this text in lower case; to search for it takes ten times as long."""
    return "bearer" in text or "sk-" in text or "rh-" in text or "key=" in text


def exception_formatter(*, messages: bool) -> Callable[[WrappedLogger, str, EventDict], EventDict]:
    """Replaces ``exc_info`` by the text of its traceback."""

    def format_exception(logger: WrappedLogger, name: str, entry: EventDict) -> EventDict:
        del logger, name
        info = entry.pop("exc_info", None)
        error = _exception(info)
        if error is not None:
            entry["exception"] = "".join(_lines(error, messages=messages)).rstrip()
        return entry

    return format_exception


def _exception(info: ExcInfo | BaseException | bool | None) -> BaseException | None:
    if isinstance(info, BaseException):
        return info
    if isinstance(info, tuple):
        return info[1]
    return sys.exc_info()[1] if info else None


def _lines(error: BaseException, *, messages: bool) -> list[str]:
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    before = [*_lines(cause, messages=messages), "which led to\n"] if cause is not None else []
    frames: TracebackType | None = error.__traceback__
    kind = f"{type(error).__module__}.{type(error).__qualname__}"
    return [*before, *traceback.format_tb(frames), f"{kind}: {error}\n" if messages else f"{kind}\n"]
