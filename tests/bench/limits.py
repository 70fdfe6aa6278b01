"""The operating system's limits for a benchmark's processes."""

from __future__ import annotations

import resource


def raise_open_files() -> int:
    """Allow this process, and those it starts, as many open files as may be; answers how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
