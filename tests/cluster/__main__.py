"""The first process of a namespace: runs pytest on this folder, and waits for whatever ends.

Without it, a killed process whose parent is gone stays a zombie, and counts as alive for those that watch it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Return pytest's exit status."""
    tests = subprocess.Popen([sys.executable, "-m", "pytest", str(Path(__file__).parent), *arguments])
    while True:
        ended, status = os.wait()
        if ended == tests.pid:
            return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
