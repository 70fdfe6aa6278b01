"""Installed packages are locked with hashes, name no index, and agree with pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "deploy").glob("*.lock"))


def locked(lock: Path) -> dict[str, tuple[str, int]]:
    """Version and number of hashes by package name."""
    entries = re.split(r"\n(?=\S)", lock.read_text().replace("\\\n", " "))
    found = {}
    for entry in entries:
        line = " ".join(part for part in entry.splitlines() if not part.lstrip().startswith("#"))
        match = re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;]+)", line)
        if match:
            name = re.sub(r"[-_.]+", "-", match[1]).lower()
            found[name] = (match[2], len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", line)))
        else:
            assert not line.strip() or line.startswith("#"), f"{lock.name}: {line[:100]}"
    return found


def test_there_are_locks() -> None:
    assert {lock.name for lock in LOCKS} >= {"requirements.lock", "requirements-dev.lock"}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_requirement_is_one_version_with_hashes_and_names_no_place(lock: Path) -> None:
    entries = locked(lock)
    assert len(entries) > 50
    assert [name for name, (_, hashes) in entries.items() if not hashes] == []
    text = lock.read_text()
    assert not re.search(r"://|--index|--find-links|--trusted|git\+|@ ", text)


def test_the_lock_holds_what_pyproject_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    entries = locked(ROOT / "deploy" / "requirements.lock")
    wanted = [*project["dependencies"], *project["optional-dependencies"]["starter"]]
    for line in wanted:
        requirement = Requirement(line)
        if requirement.name == project["name"] or (requirement.marker and not requirement.marker.evaluate()):
            continue
        version, _ = entries[re.sub(r"[-_.]+", "-", requirement.name).lower()]
        assert requirement.specifier.contains(version, prereleases=True), line


def test_the_image_installs_by_hash_and_says_what_is_in_it() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert "--require-hashes" in dockerfile
    assert "cyclonedx-py environment" in dockerfile
    assert re.search(r"^USER (?!root|0\b)", dockerfile, re.MULTILINE)
