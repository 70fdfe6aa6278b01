"""Makes the environment of ``make test-cluster``: ``python deploy/cluster.py VENV`` makes VENV's packages visible.

Without an argument it prints what pyproject's extra ``ray`` asks for, so that only that is installed on top.
"""

from __future__ import annotations

import sys
import sysconfig
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def main(arguments: list[str]) -> None:
    """Write a file of paths, or print the requirement."""
    if not arguments:
        project = tomllib.loads(PYPROJECT.read_text())["project"]
        print(*project["optional-dependencies"]["ray"])  # noqa: T201
        return
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = Path(arguments[0]) / "lib" / version / "site-packages"
    own = Path(sysconfig.get_path("purelib"))
    # Not the bare path, whose own files of paths would not be read: one of them names this project.
    (own / "below.pth").write_text(f"import site; site.addsitedir({str(packages)!r})\n")


if __name__ == "__main__":
    main(sys.argv[1:])
