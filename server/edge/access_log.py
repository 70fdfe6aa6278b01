"""The access log: one line per request.

structlog's chain of processors took a tenth of a plain request's time for this line. So the line is assembled
here, and only the configured renderer, the last processor, is structlog's.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from time import time

import structlog

from server.observability.logging import redacted


class AccessLog:
    """Writes access lines. Create it after logging is configured: it keeps that renderer and stream."""

    def __init__(self) -> None:
        configured = structlog.get_config()
        self._on = structlog.get_logger().bind().is_enabled_for(logging.INFO)
        self._render = configured["processors"][-1]
        self._out = configured["logger_factory"]()
        self._second = 0
        self._second_text = ""

    def write(
        self, *, request_id: str, trace: str, method: str, path: str, status: int, seconds: float, key: str
    ) -> None:
        """Write the line of one ended request."""
        if not self._on:
            return
        entry = {
            "event": "request",
            "level": "info",
            "timestamp": self._timestamp(),
            "request_id": redacted(request_id),
            "trace": trace,
            "method": redacted(method),
            "path": redacted(path),
            "status": status,
            "seconds": round(seconds, 4),
            "key": key,
        }
        self._out.msg(self._render(self._out, "info", entry))

    def _timestamp(self) -> str:
        """The current time as in the other lines: ISO 8601, UTC, microseconds."""
        now = time()
        second = int(now)
        if second != self._second:
            self._second = second
            self._second_text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._second_text}.{int((now - second) * 1e6):06d}Z"
