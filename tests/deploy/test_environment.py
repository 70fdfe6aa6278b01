"""The environment of the Makefile: when it is made anew, what is shown, and the one line of a failure."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import environment, link

LOCK = "one==1.0 \\\n    --hash=sha256:00\ntwo==2.0 ; sys_platform != 'win32' \\\n    --hash=sha256:11\n"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """An environment that is finished, as far as can be seen; its Python is the one that runs the tests."""
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "pyvenv.cfg").touch()
    python = venv / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (venv / ".serve").write_text(json.dumps(record(venv)))
    return venv


def record(venv: Path, **changes: str) -> dict[str, str]:
    own = {"place": str(venv), "root": str(environment.ROOT), "python": environment.own_version(), "packages": "x"}
    return {**own, **changes}


def fault(venv: Path, *, as_named: bool = False) -> str | None:
    return environment.fault_of(venv, venv / ".serve", as_named=as_named)


def test_an_environment_that_is_whole_and_in_its_place_is_kept(made: Path) -> None:
    assert fault(made) is None
    assert fault(made, as_named=True) is None


def test_a_moved_one_is_made_anew(made: Path, tmp_path: Path) -> None:
    moved = made.rename(tmp_path / "elsewhere")
    assert fault(moved) == f"it was made for {made}"


def test_one_of_a_moved_checkout_is_made_anew(made: Path) -> None:
    (made / ".serve").write_text(json.dumps(record(made, root="/gone")))
    assert fault(made) is not None


def test_a_half_made_one_is_made_anew(made: Path) -> None:
    for content in (None, "", "{", "[]"):
        (made / ".serve").unlink(missing_ok=True)
        if content is not None:
            (made / ".serve").write_text(content)
        assert fault(made) == "it is half made, or of an earlier release"


def test_one_whose_python_is_gone_or_another_is_made_anew(made: Path) -> None:
    (made / ".serve").write_text(json.dumps(record(made, python="3.99.0")))
    assert fault(made) == "its Python 3.99.0 is gone"
    (made / "bin" / "python").unlink()
    assert fault(made) == "its Python 3.99.0 is gone"


def test_one_of_another_python_than_is_named_is_made_anew(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "own_version", lambda: "3.98.0")
    assert fault(made) is None
    assert "this is 3.98.0" in str(fault(made, as_named=True))


def test_a_folder_of_something_else_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(environment.Problem, match="folder of something else"):
        fault(tmp_path)


def test_the_display_counts_both_halves_and_fits_its_width(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text(LOCK)
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    (packages / "pip-24.0.dist-info").mkdir(parents=True)
    seen = environment.Seen(tmp_path, lock)
    output = io.StringIO(
        "Collecting one==1.0 (from -r lock (line 1))\n  Downloading one-1.0-py3-none-any.whl (12.3 MB)\n"
        "Collecting two==2.0 (from -r lock (line 3))\n"
    )
    assert "fetching 0 of 2 packages" in seen.line(79)
    seen.read(output, io.StringIO())
    assert seen.line(79) == f"[{'#' * 10}{'-' * 10}] fetching 2 of 2 packages: two"
    seen.read(io.StringIO("  Using cached two-2.0-py3-none-any.whl (1 kB)\n"), io.StringIO())
    assert seen.line(79).endswith("two (1 kB)")
    seen.read(io.StringIO("Installing collected packages: one, two\n"), io.StringIO())
    (packages / "one-1.0.dist-info").mkdir()
    assert seen.line(79) == f"[{'#' * 15}{'-' * 5}] installing 1 of 2 packages"
    assert len(seen.line(20)) == 20


@pytest.mark.parametrize(
    ("output", "line"),
    [
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
            "no space left",
        ),
        (
            "WARNING: Retrying ... NameResolutionError(\"Failed to resolve 'pypi.org'\")\n"
            "ERROR: No matching distribution found for one==1.0",
            "index cannot be reached",
        ),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "has the hash of"),
        ("ERROR: No matching distribution found for one==1.0", "lacks a package"),
        ("ERROR: [Errno 13] Permission denied: '/x'", "cannot be written"),
    ],
)
def test_what_pip_complains_of_is_one_line(output: str, line: str) -> None:
    told = environment.reason_in(output, Path("/somewhere/.venv"), "deploy/requirements.lock")
    assert told is not None
    assert line in told
    assert "\n" not in told
    assert "{" not in told


def test_without_room_nothing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "ROOM", 10**18)
    with pytest.raises(environment.Problem, match=r"GB are needed: make room"):
        environment.create(tmp_path / "venv", "")
    assert not (tmp_path / "venv").exists()


def test_a_folder_that_cannot_be_written_is_told() -> None:
    with pytest.raises(environment.Problem, match="cannot be written"):
        environment.create(Path("/proc/nothing/venv"), "")


def test_the_command_is_linked_once_and_no_other_program_is_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    command, folder = tmp_path / "venv" / "bin" / "roundhouse", tmp_path / "bin"
    assert link.main(str(command), str(folder)) == 0
    assert (folder / "roundhouse").readlink() == command
    assert f'export PATH="{folder}:$PATH"' in capsys.readouterr().out
    monkeypatch.setenv("PATH", f"/usr/bin:{folder}")
    assert link.main(str(command), str(folder)) == 0
    assert "export" not in capsys.readouterr().out
    (folder / "roundhouse").unlink()
    (folder / "roundhouse").write_text("somebody else's")
    assert link.main(str(command), str(folder)) == 1
    assert "another program" in capsys.readouterr().err
    assert link.main(str(command), "/proc/nothing") == 1


def test_an_old_python_is_told_in_one_line_and_makes_nothing(tmp_path: Path) -> None:
    old = tmp_path / "python-old"
    # Answers as Python 3.8 does to the Makefile's question, whose code is its second argument.
    old.write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.version_info = (3, 8, 1); exec(sys.argv[1])" "$2"\n'
    )
    old.chmod(0o755)
    venv = tmp_path / "venv"
    for python, words in ((str(old), "this is 3.8"), (str(tmp_path / "none"), "is not here")):
        done = subprocess.run(
            ["make", "--no-print-directory", f"{venv}/.serve", f"VENV={venv}", f"PYTHON={python}"],
            cwd=environment.ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        told = [line for line in done.stderr.splitlines() if not line.startswith("make")]
        assert done.returncode == 2
        assert len(told) == 1, done.stderr
        assert words in told[0]
        assert not venv.exists()
