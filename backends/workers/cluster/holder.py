"""Holds the program of a replica as a child process: started with its spec, ended with its holder.

It imports the standard library only, so that the process that holds a program is ready at once.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Mapping


class ReplicaProcess:
    """The process of one replica. ``spec`` is a :class:`backends.workers.cluster.specs.ReplicaSpec` as JSON.

    Its methods block, each in a thread of its caller's.
    """

    def __init__(self, program: str, spec: str, environment: Mapping[str, str]) -> None:
        self.spec = spec
        self.address: tuple[str, int] | None = None
        self._process = subprocess.Popen(  # noqa: S603 -- an argument list, no shell
            [sys.executable, "-m", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(environment),
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_ready(self) -> tuple[str, int]:
        """Give it the spec and return its channel's address. Raises RuntimeError if it ends before."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):  # it has ended, which the report shows
            self._process.stdin.write(self.spec.encode() + b"\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"its program ended at the start with exit code {self._process.wait()}")
        self.address = json.loads(self.spec)["host"], int(json.loads(line)["port"])
        return self.address

    def wait(self) -> int:
        """Wait for its end; return the exit code."""
        return self._process.wait()

    def stop(self, grace: float) -> None:
        """Send SIGTERM, and SIGKILL after ``grace`` seconds."""
        self._process.terminate()
        try:
            self._process.wait(grace)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """Close the pipes of a process that has ended."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
