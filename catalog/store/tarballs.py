"""Fetches pinned npm packages as data: with npm where it is installed, else from the public registry over HTTPS.

npm knows the registry, the proxy and the credentials that this machine is set up for; Python alone knows none of
them. Source of the address: npm's documentation, "registry" ("GET /{package}/-/{package}-{version}.tgz").
"""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

from catalog.errors import PullError
from catalog.pins import TarballPin
from catalog.store.transfer import download, transport_errors
from catalog.store.watched import run_watched

PUBLIC = "https://registry.npmjs.org"
"""The registry that npm asks unless it is told otherwise."""


class Npm:
    """A way to npm's packages. ``program`` is npm's path, None for a machine without it; ``arguments`` are added
    to npm's own, a registry for example; ``registry`` is asked where there is no npm.
    """

    def __init__(self, *, program: str | None, arguments: Sequence[str] = (), registry: str = PUBLIC) -> None:
        self._program = program
        self._arguments = tuple(arguments)
        self._registry = registry.rstrip("/")

    @classmethod
    def of_this_machine(cls) -> Npm:
        registry = os.environ.get("npm_config_registry") or PUBLIC  # noqa: SIM112 - npm spells it so
        return cls(program=shutil.which("npm"), registry=registry)

    def fetch(self, pin: TarballPin, folder: Path, watch: Callable[[int], None]) -> Path:
        """Download the tarball into ``folder`` and return its path; it is not verified yet. Raises PullError."""
        return self._packed(pin, folder, watch) if self._program else self._streamed(pin, folder, watch)

    def _packed(self, pin: TarballPin, folder: Path, watch: Callable[[int], None]) -> Path:
        arrived = folder / "arrived"
        arrived.mkdir()
        command = [
            *(str(self._program), "pack", f"{pin.name}@{pin.version}", "--silent", "--ignore-scripts"),
            *("--pack-destination", str(arrived), "--cache", str(folder / "cache"), "--fetch-retries=2"),
            *self._arguments,
        ]
        status = run_watched(command, log=folder / "log", environment=os.environ, folder=folder, watch=watch)
        found = list(arrived.glob("*.tgz"))
        if status != 0 or len(found) != 1:
            raise PullError(
                f"npm could not download {pin.name}@{pin.version}. Check the network and npm's registry "
                "(npm config get registry), then pull again."
            )
        return found[0]

    def _streamed(self, pin: TarballPin, folder: Path, watch: Callable[[int], None]) -> Path:
        from huggingface_hub.errors import HfHubHTTPError

        failures: tuple[type[Exception], ...] = (HfHubHTTPError, *transport_errors())
        file = f"{pin.name.rpartition('/')[2]}-{pin.version}.tgz"
        target = folder / file
        try:
            download(f"{self._registry}/{pin.name}/-/{file}", {}, target, pin.size, watch)
        except failures as error:
            raise PullError(
                f"The npm registry did not give {pin.name} {pin.version} ({type(error).__name__}). Check the "
                "network, or install npm, whose settings know this machine's registry; then pull again."
            ) from error
        return target


def members(archive: tarfile.TarFile, pin: TarballPin) -> dict[str, tarfile.TarInfo]:
    """The files of a tarball by name. Raises PullError for one that is not a plain file, such as a link."""
    found: dict[str, tarfile.TarInfo] = {}
    for info in archive.getmembers():
        if info.isdir():
            continue
        if not info.isreg():
            raise PullError(f"{pin.name} {pin.version}: {info.name!r} is no plain file, which is refused.")
        found[info.name] = info
    return found
