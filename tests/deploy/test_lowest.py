"""The lower bounds that ``make lowest`` installs are those of pyproject.toml."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = [name for name in PROJECT["optional-dependencies"] if name not in ("dev", "bench")]


def pins(*extras: str, script: Path = ROOT / "deploy" / "lowest.py") -> dict[str, str]:
    command = [sys.executable, str(script), *extras]
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


def test_of_two_bounds_the_higher_one_counts(tmp_path: Path) -> None:
    (tmp_path / "deploy").mkdir()
    script = Path(shutil.copy(ROOT / "deploy" / "lowest.py", tmp_path / "deploy"))
    (tmp_path / "pyproject.toml").write_text(
        """[project]
        name = "any"
        dependencies = ["numpy>=1.26"]
        optional-dependencies = { more = ["numpy>=2.0.2"], less = ["numpy>=1.9"] }"""
    )
    assert pins(script=script) == {"numpy": "1.26"}
    assert pins("more", script=script) == {"numpy": "2.0.2"}
    assert pins("less", script=script) == {"numpy": "1.26"}


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_extra_has_lower_bounds(extra: str) -> None:
    assert pins(extra)
