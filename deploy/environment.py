"""Makes the virtual environment of the Makefile from a lock, and shows one progress display.

An environment that cannot be used any more (moved, of another Python, half made) is made anew. It uses the
standard library alone, because nothing is installed yet. Usage:
environment.py VENV LOCK MARK [--as-named] [--project]
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
ROOM = 1_500_000_000
"""Bytes that must be free for a new environment."""
DRAWN_EVERY, TOLD_EVERY = 0.2, 20.0
"""Seconds between two drawings on a terminal, and between two lines elsewhere."""
REASONS = (
    (
        r"No space left on device|ENOSPC",
        "There is no space left on the disk of {venv}: make room and run it again.",
    ),
    (
        r"NewConnectionError|NameResolutionError|Name or service not known|Temporary failure in name resolution"
        r"|Network is unreachable|ConnectTimeoutError|Max retries exceeded|ProxyError|Connection refused",
        "The package index cannot be reached: connect to a network, or name another index in PIP_INDEX_URL.",
    ),
    (
        r"THESE PACKAGES DO NOT MATCH THE HASHES",
        "A package is not the one that {lock} has the hash of: see {log}.",
    ),
    (
        r"No matching distribution|Could not find a version",
        "The package index lacks a package of {lock} for this machine and Python: see {log}.",
    ),
    (
        r"Permission denied|Read-only file system",
        "{venv} cannot be written: make it writable, or name VENV=FOLDER.",
    ),
)
"""Complaints of pip, each with the line that tells it; the first that is found counts."""


class Problem(Exception):
    """The environment cannot be made; the message is one line."""


def main() -> int:
    """Make or update the environment; the exit status is 1, after one line, if that fails."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("venv", type=Path)
    asked.add_argument("lock", type=Path)
    asked.add_argument("mark", help="file in the environment that records what it was made of")
    asked.add_argument("--as-named", action="store_true", help="make it anew if it is of another Python than this")
    asked.add_argument("--project", action="store_true", help="install the project, too")
    options = asked.parse_args()
    venv = Path(os.path.abspath(options.venv))  # not resolved: the environment remembers the path as given
    try:
        make(venv, options.lock, venv / options.mark, as_named=options.as_named, project=options.project)
    except Problem as problem:
        print(f"roundhouse: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; what was downloaded is kept by pip", file=sys.stderr)
        return 130
    return 0


def make(venv: Path, lock: Path, mark: Path, *, as_named: bool, project: bool) -> None:
    """Bring the environment to what the lock says; nothing is done if it is so already."""
    if project:
        stale = fault_of(venv, mark, as_named=as_named)
        if stale is not None:
            create(venv, stale)
    made_of = {
        "place": str(venv),
        "root": str(ROOT),
        "python": version_of(venv),
        "packages": digest(lock, project),
    }
    if record(mark) == made_of:
        return
    began = time.monotonic()
    install(venv, lock)
    if project:
        pip(venv, lock, "--quiet", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    mark.write_text(json.dumps(made_of), "utf-8")
    shown = os.path.relpath(venv)
    told = f"Ready after {time.monotonic() - began:.0f} s"
    print(f"{told}: {shown}/bin/roundhouse is the command" if project else told, file=sys.stderr)


def fault_of(venv: Path, mark: Path, *, as_named: bool) -> str | None:
    """Why an environment must be made (anew), as a clause; ``None`` if it can be used."""
    if not venv.exists():
        return ""
    if any(venv.iterdir()) and not (venv / "pyvenv.cfg").is_file():
        raise Problem(f"{venv} is a folder of something else: name another with VENV=FOLDER.")
    made_of = record(mark)
    if made_of is None:
        return "it is half made, or of an earlier release"
    if made_of.get("place") != str(venv) or made_of.get("root") != str(ROOT):
        return f"it was made for {made_of.get('place')}"
    version = version_of(venv)
    if version is None or version != made_of.get("python"):
        return f"its Python {made_of.get('python')} is gone"
    if as_named and version != own_version():
        return f"it is of Python {version}, and this is {own_version()}"
    return None


def create(venv: Path, reason: str) -> None:
    """Make an empty environment, in place of one that is there. Raises Problem."""
    shown = os.path.relpath(venv)
    if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
        minor = ".".join(map(str, sys.version_info[:2]))
        raise Problem(
            f"This Python makes no virtual environments: install python{minor}-venv (apt), or take another."
        )
    try:
        if venv.exists():
            print(f"{shown} is made anew: {reason}", file=sys.stderr)
            shutil.rmtree(venv)
        venv.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(venv.parent).free
    except OSError as error:
        raise Problem(
            f"{shown} cannot be written: {error.strerror or error}. Name another folder with VENV=FOLDER."
        ) from None
    if free < ROOM:
        raise Problem(
            f"{free / 1e9:.1f} GB are free on the disk of {shown}, and {ROOM / 1e9:.1f} GB are needed: make room."
        )
    print(f"Setting up {shown} with Python {own_version()}, once; this takes a few minutes.", file=sys.stderr)
    done = subprocess.run([sys.executable, "-m", "venv", str(venv)], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stdout + done.stderr).strip().splitlines()[-1:]
        raise Problem(
            f"{shown} cannot be made: {reason_in(done.stdout + done.stderr, venv, '') or ' '.join(last)}"
        )


def install(venv: Path, lock: Path) -> None:
    """Install what the lock names, with hashes, and show how far it is. Raises Problem."""
    pip(venv, lock, "--require-hashes", "--requirement", str(lock), watched=True)


def pip(venv: Path, lock: Path, *arguments: str, watched: bool = False) -> None:
    """Run ``pip install``; its output goes to ``pip.log`` in the environment. Raises Problem with the reason."""
    command = [
        str(venv / "bin" / "python"),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--no-input",
        "--no-color",
    ]
    command += ["install", "--progress-bar", "off", *arguments]
    log = venv / "pip.log"
    try:
        with log.open("w", encoding="utf-8") as kept:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
            )
            assert process.stdout is not None
            seen = Seen(venv, lock)
            reading = threading.Thread(target=seen.read, args=(process.stdout, kept), daemon=True)
            reading.start()
            try:
                show(process, seen if watched else None)
            except BaseException:
                process.terminate()
                process.wait()
                raise
            reading.join()
    except OSError as error:
        raise Problem(f"{venv} cannot be written: {error.strerror}.") from None
    if process.returncode:
        raise Problem(reason_in(seen.text(), venv, str(lock)) or f"pip failed: {seen.last()} (all of it: {log})")


class Seen:
    """The state of pip by its output so far: packages fetched, the one at hand, and whether it installs by now."""

    def __init__(self, venv: Path, lock: Path) -> None:
        self.total = len(re.findall(r"^[A-Za-z0-9][^\s;]*==", lock.read_text("utf-8"), re.MULTILINE))
        self.fetched = 0
        self.at = ""
        self.installing = False
        self._folders = list((venv / "lib").glob("python*/site-packages"))
        self._before = self._installed()
        self._lines: list[str] = []

    def read(self, lines: IO[str], kept: IO[str]) -> None:
        """Read pip's output to its end."""
        for line in lines:
            kept.write(line)
            self._lines.append(line)
            word, _, rest = line.strip().partition(" ")
            if word in ("Collecting", "Requirement"):
                self.fetched += 1
                self.at = re.split(r"[=\s\[;]", rest.removeprefix("already satisfied: "))[0]
            elif word == "Downloading" or line.lstrip().startswith("Using cached"):
                size = re.search(r"\(([\d.]+ [kMG]?B)\)", line)
                self.at = f"{self.at.split(' (')[0]} ({size[1]})" if size else self.at
            elif line.startswith("Installing collected packages"):
                self.installing = True

    def line(self, width: int) -> str:
        """The display: a bar over both halves of the work, the count, and the package at hand."""
        placed = min(self.total, max(0, self._installed() - self._before)) if self.installing else 0
        done, total = min(self.fetched, self.total) + placed, max(1, 2 * self.total)
        filled = round(20 * done / total)
        told = (
            f"installing {placed} of {self.total} packages"
            if self.installing
            else f"fetching {min(self.fetched, self.total)} of {self.total} packages: {self.at}"
        )
        return f"[{'#' * filled}{'-' * (20 - filled)}] {told}"[:width]

    def text(self) -> str:
        """All that was read."""
        return "".join(self._lines)

    def last(self) -> str:
        """The last error, else the last line."""
        lines = [line.strip() for line in self._lines if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")]
        return (errors or lines or ["it said nothing"])[-1].removeprefix("ERROR: ")

    def _installed(self) -> int:
        return sum(1 for folder in self._folders for _ in folder.glob("*.dist-info"))


def show(process: subprocess.Popen[str], seen: Seen | None) -> None:
    """Show the progress until the process ends: a line that changes on a terminal, a few lines elsewhere."""
    terminal = sys.stderr.isatty()
    every = DRAWN_EVERY if terminal else TOLD_EVERY
    while True:
        try:
            process.wait(every)
        except subprocess.TimeoutExpired:
            if seen is not None:
                line = seen.line(shutil.get_terminal_size().columns - 1)
                sys.stderr.write(f"\r\x1b[K{line}" if terminal else f"{line}\n")
                sys.stderr.flush()
            continue
        if terminal and seen is not None:
            sys.stderr.write("\r\x1b[K")
        return


def reason_in(output: str, venv: Path, lock: str) -> str | None:
    """One line for what pip or venv complained of, if it is a known thing."""
    for pattern, line in REASONS:
        if re.search(pattern, output):
            return line.format(venv=os.path.relpath(venv), lock=lock, log=venv / "pip.log")
    return None


def record(mark: Path) -> dict[str, str | None] | None:
    """The record of an environment's contents; ``None`` if it was not finished."""
    try:
        found = json.loads(mark.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def digest(lock: Path, project: bool) -> str:
    """The SHA-256 of what is to be installed."""
    files = [lock, *([ROOT / "pyproject.toml"] if project else [])]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def version_of(venv: Path) -> str | None:
    """The version of the environment's Python with its pip; ``None`` if either does not run."""
    code = "import sys, pip; print('%d.%d.%d' % sys.version_info[:3])"
    try:
        done = subprocess.run(
            [str(venv / "bin" / "python"), "-c", code], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def own_version() -> str:
    """The version of the Python that runs this."""
    return ".".join(map(str, sys.version_info[:3]))


if __name__ == "__main__":
    sys.exit(main())
