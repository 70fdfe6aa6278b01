"""Prints pyproject's lower bounds as pins, one a line: ``python deploy/lowest.py [EXTRA ...]``.

pip takes them as a constraints file: ``make lowest`` installs the oldest versions that pyproject allows and runs
the smoke test on them. A name with two bounds gets the higher one.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def requirements(project: dict[str, Any], extras: Iterable[str]) -> Iterator[Requirement]:
    """The packages of the project with ``extras`` on this machine; an extra of the project itself is followed."""
    lines = [*project["dependencies"]]
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    for requirement in map(Requirement, lines):
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        if canonicalize_name(requirement.name) == canonicalize_name(project["name"]):
            yield from requirements({**project, "dependencies": []}, requirement.extras)
        else:
            yield requirement


def lower_bound(requirement: Requirement) -> Version:
    """The version in ``>=``. Raises ValueError for a requirement without one."""
    found = [Version(one.version) for one in requirement.specifier if one.operator == ">="]
    if not found:
        raise ValueError(f"{requirement} has no lower bound")
    return max(found)


def lowest(project: dict[str, Any], extras: Iterable[str] = ()) -> dict[str, Version]:
    """The lower bound of every requirement, by normalised name."""
    found: dict[str, Version] = {}
    for requirement in requirements(project, extras):
        name = canonicalize_name(requirement.name)
        bound = lower_bound(requirement)
        found[name] = max(found.get(name, bound), bound)
    return found


def main(extras: Sequence[str]) -> None:
    """Prints the pins."""
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    for name, version in sorted(lowest(project, extras).items()):
        print(f"{name}=={version}")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
