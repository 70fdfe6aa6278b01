"""Machines of a network of their own, on this one: namespaces on a bridge, whose cables can be pulled.

It needs a network namespace that may be changed: ``unshare --net`` as root, or ``unshare --map-root-user --net``.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

BRIDGE = "roundhouse0"
_HOST = "10.99.0.1"


def _ip(*arguments: str, within: tuple[str, ...] = ()) -> None:
    subprocess.run([*within, "ip", *arguments], check=True, capture_output=True)


def is_isolated() -> bool:
    """Whether this process is in a network namespace made for it, with a loopback device alone."""
    return os.environ.get("ROUNDHOUSE_CLUSTER") == "isolated"


@dataclass
class Machine:
    """One machine; ``prefix`` is put before a command that is to run there."""

    name: str
    address: str
    prefix: tuple[str, ...] = ()
    cable: str = ""

    def pull(self) -> None:
        """Pull its cable: nothing reaches it and nothing leaves it, and no connection is closed."""
        _ip("link", "set", self.cable, "down")

    def plug(self) -> None:
        """Plug the cable in again."""
        _ip("link", "set", self.cable, "up")

    def processes(self, part: str) -> list[psutil.Process]:
        """The processes of this machine that have ``part`` in their command line or title."""
        own = _namespace(self._init())
        found = []
        for process in psutil.process_iter(["cmdline"]):
            try:
                if _namespace(process.pid) == own and part in " ".join(process.info["cmdline"]):
                    found.append(process)
            except (OSError, psutil.Error):
                continue
        return found

    def _init(self) -> int:
        return int(self.prefix[2]) if self.prefix else os.getpid()


@contextmanager
def network(*names: str) -> Iterator[tuple[Machine, ...]]:
    """This namespace as the first machine, and one for each further name."""
    _ip("link", "set", "lo", "up")
    _ip("link", "add", BRIDGE, "type", "bridge")
    _ip("addr", "add", f"{_HOST}/24", "dev", BRIDGE)
    _ip("link", "set", BRIDGE, "up")
    machines = [Machine(names[0], _HOST)]
    holders = []
    try:
        for number, name in enumerate(names[1:], start=2):
            holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
            holders.append(holder)
            _until_unshared(holder.pid)
            machine = Machine(
                name, f"10.99.0.{number}", ("nsenter", "-t", str(holder.pid), "-n", "--"), f"cable{number}"
            )
            _ip("link", "add", machine.cable, "type", "veth", "peer", "name", "cable", "netns", str(holder.pid))
            _ip("link", "set", machine.cable, "master", BRIDGE)
            _ip("link", "set", machine.cable, "up")
            _ip("link", "set", "lo", "up", within=machine.prefix)
            _ip("addr", "add", f"{machine.address}/24", "dev", "cable", within=machine.prefix)
            _ip("link", "set", "cable", "up", within=machine.prefix)
            machines.append(machine)
        yield tuple(machines)
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()
        _ip("link", "del", BRIDGE)


def _namespace(pid: int) -> str:
    return str(Path(f"/proc/{pid}/ns/net").readlink())


def _until_unshared(pid: int) -> None:
    own = _namespace(os.getpid())
    while _namespace(pid) == own or not psutil.Process(pid).name().startswith("sleep"):
        pass
