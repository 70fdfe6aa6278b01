"""Exit statuses of the command line, by the kind of error."""

from __future__ import annotations

from enum import IntEnum

from catalog.errors import ConfigurationError, RoundhouseError


class ExitStatus(IntEnum):
    """The meaning of a command's exit status."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NO_SERVER = 3
    NOT_FOUND = 4
    REFUSED = 5
    LATER = 6
    INTERRUPTED = 130


EXPLAINED = (
    "Exit status: 0 done; 1 failed, the last line says why; 2 the command line is wrong; 3 no server answers; "
    "4 no such model or object; 5 the key is missing or not allowed; 6 try again later; 130 interrupted."
)
"""The last paragraph of ``roundhouse --help``."""

_BY_HTTP = {
    401: ExitStatus.REFUSED,
    403: ExitStatus.REFUSED,
    404: ExitStatus.NOT_FOUND,
    429: ExitStatus.LATER,
    503: ExitStatus.LATER,
}


class NoServer(ConfigurationError):
    """No server answers a command. ``refused``: nothing listens at the address."""

    code = "no_server"

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class UsageError(ConfigurationError):
    """The command line asks for something that cannot be."""


class ServerAnswered(RoundhouseError):
    """A running server answered a command with an error: ``status`` is its HTTP status, ``told`` its code."""

    def __init__(self, message: str, status: int, *, param: str | None = None, told: str | None = None) -> None:
        super().__init__(message, param=param)
        self.status = status
        self.told = told


def status_of(error: RoundhouseError) -> ExitStatus:
    """The exit status of a command that this error ends."""
    if isinstance(error, NoServer):
        return ExitStatus.NO_SERVER
    if isinstance(error, UsageError):
        return ExitStatus.USAGE
    return _BY_HTTP.get(error.status, ExitStatus.FAILED)
