"""Ray on the machines of :mod:`tests.cluster.machines`: a head that survives its death, and nodes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.cluster.machines import Machine
from tests.faults.serving import ROOT, eventually

PORT = 6379
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # else a replica gets nothing of a machine that is busy
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "PYTHONPATH": str(ROOT),
}


class RedisServer:
    """Debian's Redis on a machine, without a file."""

    def __init__(self, machine: Machine, port: int) -> None:
        self._machine = machine
        self.port = port
        self.start()

    def start(self) -> None:
        """Start it, empty."""
        command = ["redis-server", "--port", str(self.port), "--bind", self._machine.address, "--save", ""]
        quiet = ["--protected-mode", "no", "--loglevel", "warning"]
        self._process = subprocess.Popen([*self._machine.prefix, *command, *quiet])
        url = f"{self._machine.address}:{self.port}"
        eventually(lambda: _answers(self._machine.address, self.port), within=10)
        self.url = f"redis://{url}/0"

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self._process.kill()
        self._process.wait()


def _answers(host: str, port: int) -> bool:
    import socket

    with contextlib.suppress(OSError), socket.create_connection((host, port), 1):
        return True
    return False


class RayNodes:
    """A Ray cluster. Its head keeps its state in Redis, so that it can come back."""

    def __init__(self, folder: Path, head: Machine, redis: RedisServer) -> None:
        self._folder = folder
        self._head = head
        self._environment = {**os.environ, **_ENVIRONMENT}
        self._of_head = {**self._environment, "RAY_REDIS_ADDRESS": f"{head.address}:{redis.port}"}
        self.address = f"{head.address}:{PORT}"

    def start_head(self, mib: int = 1000) -> None:
        """Start the head, or start it again after its death."""
        # Ray looks for the head's address in the command lines of this machine, and the other nodes have it, too.
        (self._folder / "ray_current_cluster").unlink(missing_ok=True)
        where = ["--head", f"--port={PORT}", "--include-dashboard=false", f"--temp-dir={self._folder}"]
        self._start(self._head, where, mib, self._of_head)

    def start_node(self, machine: Machine, mib: int = 2000) -> None:
        """Start a node of a machine."""
        self._start(machine, [f"--address={self.address}"], mib, self._environment)

    def kill_head(self) -> None:
        """Kill the head's server and its node with SIGKILL, and what depends on it."""
        for name in ("gcs_server", "raylet/raylet"):
            for process in self._head.processes(name):
                process.kill()

    def kill_node(self, machine: Machine) -> None:
        """Kill a node with SIGKILL; what it has started notices that by itself."""
        for process in machine.processes("raylet/raylet"):
            process.kill()

    def stop(self) -> None:
        """Kill all that is left."""
        for process in psutil.process_iter(["cmdline"]):
            line = " ".join(process.info["cmdline"] or ())
            if str(self._folder) in line or line.startswith("ray::"):
                with contextlib.suppress(psutil.Error):
                    process.kill()

    def _start(self, machine: Machine, where: list[str], mib: int, environment: dict[str, str]) -> None:
        sized = [f"--memory={mib * 2**20}", "--num-cpus=1", "--object-store-memory=78643200"]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *where, *sized]
        for left in (2, 1, 0):
            ended = subprocess.run(
                [*machine.prefix, *command, f"--node-ip-address={machine.address}", "--disable-usage-stats"],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
            )
            if ended.returncode == 0:
                return
            if not left:
                raise AssertionError(ended.stdout + ended.stderr)
            time.sleep(1)
