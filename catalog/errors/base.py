"""The base of all errors, and those of the process itself."""

from __future__ import annotations

from typing import Any, ClassVar


class RoundhouseError(Exception):
    """The base class. ``message`` states the problem and its remedy, in one or two sentences.

    ``retryable`` means that *another candidate* may succeed. ``trace`` is the id of the trace that tells of it, if
    one does. ``quotes`` means that the message may repeat words of the request or of an upstream, so that it is
    for the caller alone.
    """

    status: int = 500
    type: ClassVar[str] = "server_error"
    code: str = "internal_error"
    retryable: ClassVar[bool] = False
    usual_retry_after: ClassVar[float | None] = None
    """Default seconds of ``Retry-After``; ``None`` where waiting does not help."""
    trace: str | None = None
    quotes: bool = False

    def __init__(self, message: str, *, param: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after

    def to_body(self) -> dict[str, Any]:
        """Return OpenAI's error object: ``{"error": {"message", "type", "param", "code"}}``."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Return this error's response headers; ``Retry-After`` is in whole seconds, at least 1."""
        headers = {} if self.trace is None else {"x-roundhouse-trace": self.trace}
        seconds = self.usual_retry_after if self.retry_after is None else self.retry_after
        if seconds is not None:
            headers["Retry-After"] = str(max(1, round(seconds)))
        return headers


class ConfigurationError(RoundhouseError):
    """The process cannot start because of its settings, files or folders.

    ``also`` has the message and the field of further errors, which a check of all settings tells too.
    """

    code = "configuration_error"
    also: tuple[tuple[str, str | None], ...] = ()


class RequestFailed(RoundhouseError):
    """A model's engine raised an exception at this request, and goes on serving others."""

    code = "request_failed"
    retryable = True
