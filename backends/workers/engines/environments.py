"""Checks for an engine's packages, in this Python or in another interpreter that the settings name for it.

Some engines pin conflicting versions of torch or transformers. Each may therefore have its own interpreter, in
which Roundhouse is installed with that engine's extra.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

LOOK_AGAIN = 30.0
"""Seconds before an interpreter that lacked a package is checked again."""
CHECK_TIMEOUT = 10.0
"""Seconds for an interpreter to answer."""
_ASK = (
    "import sys\n"
    "from importlib.util import find_spec\n"
    "print(next((name for name in sys.argv[1:] if find_spec(name) is None), ''))"
)


class Environment:
    """A Python interpreter that can be checked for packages, which are not imported. Thread-safe."""

    def __init__(self, python: Path | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.python = str(python) if python is not None else sys.executable
        self.own = python is None
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[tuple[str, ...], tuple[str | None, float]] = {}
        self.fault: str | None = None
        """Why the interpreter did not run at the last check."""

    def lacks(self, packages: Sequence[str]) -> str | None:
        """Return the first missing package, or None. Another interpreter is started for it; success is cached."""
        if self.own:
            return next((package for package in packages if not _installed(package)), None)
        with self._lock:
            wanted = ("backends", *packages)
            lacking, since = self._known.get(wanted, ("", 0.0))
            if lacking is not None and (lacking == "" or self._clock() - since >= LOOK_AGAIN):
                lacking, self.fault = _ask(self.python, wanted)
                self._known[wanted] = lacking, self._clock()
            return "roundhouse itself" if lacking == "backends" else lacking


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _ask(python: str, packages: Sequence[str]) -> tuple[str | None, str | None]:
    """The first package that the interpreter lacks, and why it did not run; both are None if all is there."""
    try:
        said = subprocess.run(  # noqa: S603 -- an interpreter of the operator's settings, and no shell
            [python, "-P", "-c", _ASK, *packages],
            capture_output=True,
            check=True,
            timeout=CHECK_TIMEOUT,
            text=True,
        )
    except (OSError, UnicodeDecodeError, subprocess.SubprocessError) as error:
        return "an interpreter that runs", f"{python} does not run: {_reason(error)}"
    return said.stdout.strip() or None, None


def _reason(error: Exception) -> str:
    match error:
        case FileNotFoundError():
            return "there is no such file, or none that its first line names"
        case subprocess.TimeoutExpired():
            return f"no answer within {CHECK_TIMEOUT:g} seconds"
        case subprocess.CalledProcessError() if error.returncode < 0:
            return f"it was ended by signal {-error.returncode}"
        case subprocess.CalledProcessError():
            return f"it ended with status {error.returncode}"
        case OSError():
            return error.strerror or type(error).__name__
    return "its answer is not text"
