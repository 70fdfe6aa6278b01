"""The command that adds an extra installs Roundhouse from where it came, and never another project."""

from __future__ import annotations

import json
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from catalog import installing
from catalog.errors import EngineMissing
from catalog.installing import DISTRIBUTION, install_command

PIP = f"{shlex.quote(sys.executable)} -m pip"
ROOT = Path(__file__).parents[2]
Install = Callable[[dict[str, Any] | None], None]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Makes an installation with this record of where it came from, or none."""

    def install(record: dict[str, Any] | None) -> None:
        folder = tmp_path / "site" / "roundhouse_server-9.9.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {DISTRIBUTION}\nVersion: 9.9\n")
        if record is not None:
            (folder / "direct_url.json").write_text(json.dumps(record))
        monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])

    installing._source.cache_clear()
    yield install
    installing._source.cache_clear()


def test_an_editable_checkout_is_installed_again_as_one(installed: Install, tmp_path: Path) -> None:
    checkout = tmp_path / "my checkout"
    checkout.mkdir()
    installed({"url": checkout.as_uri(), "dir_info": {"editable": True}})
    assert install_command("vllm") == f"{PIP} install -e '{checkout}[vllm]'"


def test_a_folder_or_a_wheel_is_installed_again_from_its_place(installed: Install, tmp_path: Path) -> None:
    wheel = tmp_path / "roundhouse_server-9.9-py3-none-any.whl"
    wheel.touch()
    installed({"url": wheel.as_uri(), "archive_info": {}})
    assert install_command("vllm") == f"{PIP} install '{wheel}[vllm]'"


def test_from_an_index_or_a_folder_that_is_gone_it_is_installed_by_name(
    installed: Install, tmp_path: Path
) -> None:
    installed({"url": (tmp_path / "gone").as_uri(), "dir_info": {"editable": True}})
    assert install_command("vllm") == f"{PIP} install 'roundhouse-server[vllm]'"


def test_without_a_record_it_is_installed_by_name(installed: Install) -> None:
    installed(None)
    assert install_command("vllm") == f"{PIP} install 'roundhouse-server[vllm]'"


def test_the_command_is_for_the_interpreter_that_lacks_the_package(installed: Install, tmp_path: Path) -> None:
    installed(None)
    python = str(tmp_path / "an environment" / "python")
    command = EngineMissing("mlx", extra="mlx", python=python).message.partition("with: ")[2]
    assert shlex.split(command) == [python, "-m", "pip", "install", "roundhouse-server[mlx]"]


def test_the_name_is_pyprojects_and_its_extras_refer_to_themselves_by_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == DISTRIBUTION
    assert project["scripts"] == {"roundhouse": "server.cli:main"}
    lines = [
        *project["dependencies"],
        *(line for one in project["optional-dependencies"].values() for line in one),
    ]
    names = {Requirement(line).name for line in lines}
    assert DISTRIBUTION in names
    assert "roundhouse" not in names


def test_no_file_installs_the_other_project() -> None:
    tops = [top for top in ROOT.iterdir() if not top.name.startswith(".")]
    files = [file for top in tops for file in ([top] if top.is_file() else top.rglob("*"))]
    kinds = {".py", ".md", ".toml", ".yaml", ".sh"}
    texts = [file for file in files if file.suffix in kinds or file.name in ("Makefile", "Dockerfile")]
    assert len(texts) > 300
    for file in texts:
        if file != Path(__file__):
            assert not re.search(r"\broundhouse\[|install '?roundhouse\b(?!-)", file.read_text()), file
