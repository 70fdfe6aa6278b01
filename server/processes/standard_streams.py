"""Descriptors 0 to 2 of a process that was started without some of them (``2>&-``)."""

from __future__ import annotations

import os
import sys


def open_standard_streams() -> None:
    """Open each of the three standard descriptors that is closed, before any file takes its number.

    Python has no ``sys.stderr`` then, and what native code prints would go into the next file that is opened, such
    as the state. A closed standard error becomes standard output, so that errors and the log are seen; the others,
    and standard error without standard output, become the null device.
    """
    closed = [descriptor for descriptor in (0, 1, 2) if not _is_open(descriptor)]
    for descriptor in closed:  # ascending: a new descriptor has the lowest free number
        if descriptor == 2 and 1 not in closed:
            os.dup2(1, 2)
        else:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if 1 in closed:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    if 2 in closed:
        sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
