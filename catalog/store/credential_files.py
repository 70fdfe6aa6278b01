"""Reads and checks the files of credentials that endpoints name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from stat import S_ISREG

from catalog.errors import ConfigurationError
from catalog.store.file_checks import FileChecks

MAX_CREDENTIALS = 1024 * 1024
"""Bytes of a credentials file; real ones have about two thousand."""


def check_credentials_files(files: Mapping[str, tuple[str, str]]) -> None:
    """Check the credentials files of endpoints: ``(protocol, path)`` by the endpoint's id.

    Raises ConfigurationError for one that cannot be read, and for Google's if it is not a JSON object with a type.
    """
    checks = {name: partial(_fault, protocol, path) for name, (protocol, path) in files.items()}
    found = FileChecks[str | None]().run(checks) if checks else {}
    for name, (_, path) in files.items():
        fault = found.get(name, "it was not read in time: its file system hangs, or the machine is busy")
        if fault is not None:
            raise ConfigurationError(f"[[endpoint]] '{name}': credentials_file: {path}: {fault}")


def read_google_credentials(path: str) -> dict[str, object]:
    """The content of a credentials file of Google. Raises OSError, and ValueError if it is not one."""
    file = Path(path).expanduser()
    status = file.stat()
    if not S_ISREG(status.st_mode):  # opening a FIFO would wait for its writer
        raise ValueError("it is not a regular file")
    if status.st_size > MAX_CREDENTIALS:
        raise ValueError(f"it has more than {MAX_CREDENTIALS} bytes")
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(content, dict) or not isinstance(content.get("type"), str):
        raise ValueError("it is not a credentials file of Google: it has no 'type'")
    return content


def _fault(protocol: str, path: str) -> str | None:
    try:
        if protocol == "vertex":
            read_google_credentials(path)
            return None
        file = Path(path).expanduser()
        if not S_ISREG(file.stat().st_mode):
            return "it is not a regular file"
        with file.open("rb") as opened:
            opened.read(1)
    except OSError as error:
        return f"it cannot be read: {error.strerror or type(error).__name__}"
    except ValueError as error:
        return str(error)
    return None
