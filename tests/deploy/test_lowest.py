"""The lower bounds that ``make lowest`` installs are those of pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = [name for name in PROJECT["optional-dependencies"] if name not in ("dev", "bench")]


def pins(*extras: str) -> dict[str, str]:
    command = [sys.executable, str(ROOT / "deploy" / "lowest.py"), *extras]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return dict(line.split("==") for line in printed.splitlines())


def test_each_dependency_is_pinned_to_its_lower_bound() -> None:
    found = pins()
    applying = [
        one for one in map(Requirement, PROJECT["dependencies"]) if one.marker is None or one.marker.evaluate()
    ]
    assert set(found) == {one.name for one in applying}
    for one in applying:
        assert one.specifier.contains(found[one.name]), one
        assert str(one.specifier) == f">={found[one.name]}", one


def test_an_extra_of_extras_brings_theirs() -> None:
    assert {"xllamacpp", "onnxruntime", "hibari-tts", "onnx"} <= set(pins("starter"))


def test_of_two_bounds_the_higher_one_counts() -> None:
    assert Version(pins()["numpy"]) < Version(pins("speech")["numpy"])


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_extra_has_lower_bounds(extra: str) -> None:
    assert pins(extra)
