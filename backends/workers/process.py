"""Starts, watches and stops one worker process.

The worker reads its spec as the first line of standard input, which then stays open: end of file means that the
gateway is gone. It reports readiness as one line on a separate pipe, as standard output is its log. The process
leads its own session, which is killed as a whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from backends.workers.spec import WorkerSpec
from catalog.errors import WorkerFailed

_INHERITED = {
    "PATH", "HOME", "USER", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "VIRTUAL_ENV",
    "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH", "CUDA_VISIBLE_DEVICES", "HF_HOME",
}  # fmt: skip
_INHERITED_PREFIXES = (
    "LC_",
    "XDG_",
    "NVIDIA_",
    "CUDA_",
    "NCCL_",
    "HIP_",
    "ROCR_",
    "OMP_",
    "GGML_",
    "VLLM_",
    "MLX_",
)
_DEFAULTS = {
    # OpenMP threads that spin while waiting starve the other workers and the gateway: with two busy workers on two
    # cores, llama.cpp decoded 5 to 10 times faster with sleeping ones.
    "OMP_WAIT_POLICY": "passive",
}
_FORCED = {
    "HF_HUB_OFFLINE": "1",
    "PYTHONUNBUFFERED": "1",
    "PYTHONSAFEPATH": "1",
    # Engines report their use to their makers by default; a worker reports nothing.
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
_SECRET_PARTS = ("KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL", "AUTH")


def scrubbed(environment: Mapping[str, str]) -> dict[str, str]:
    """Return a worker's environment: allowed variables only, and none with a name like that of a secret."""
    kept = {
        name: value
        for name, value in environment.items()
        if (name in _INHERITED or name.startswith(_INHERITED_PREFIXES))
        and not any(part in name.upper() for part in _SECRET_PARTS)
    }
    return _DEFAULTS | kept | _FORCED


class WorkerProcess:
    """A worker process, created by :meth:`start`; the owner must call :meth:`stop`."""

    def __init__(self, process: asyncio.subprocess.Process, pipe: _Pipe) -> None:
        self._process = process
        self._pipe = pipe
        self._stat = _open_stat(process.pid)

    @classmethod
    async def start(
        cls, command: tuple[str, ...], spec: WorkerSpec, *, log: BinaryIO, environment: Mapping[str, str]
    ) -> WorkerProcess:
        """Start ``command --ready-fd N`` without a shell. Raises WorkerFailed if it cannot be executed."""
        reader, writer = os.pipe()
        try:
            pipe = await _Pipe.open(reader)
            process = await asyncio.create_subprocess_exec(
                *command,
                "--ready-fd",
                str(writer),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=scrubbed(environment),
                pass_fds=(writer,),
                start_new_session=True,
            )
        except OSError as error:
            pipe.close()
            raise WorkerFailed(f"The worker of '{spec.model_id}' could not be started: {error}.") from error
        except asyncio.CancelledError:
            pipe.close()
            raise
        finally:
            os.close(writer)
        worker = cls(process, pipe)
        assert process.stdin is not None
        try:
            process.stdin.write(spec.model_dump_json().encode() + b"\n")
            await process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            pass  # the process has died already, which ready() reports
        except asyncio.CancelledError:
            await worker.stop(0)
            raise
        return worker

    @property
    def pid(self) -> int:
        return self._process.pid

    def alive(self) -> bool:
        """Whether the process runs at this moment; detects its end before the event loop is notified."""
        if self._process.returncode is not None:
            return False
        if self._stat is None:
            return True
        try:
            return not _exiting(os.pread(self._stat, 1024, 0))
        except ProcessLookupError:
            return False

    async def ready(self) -> str | None:
        """Wait until the worker is ready and return None, or return the reason why it failed or ended."""
        line = (await self._pipe.stream.readline()).decode(errors="replace").strip()
        if line == "ready":
            return None
        if line.startswith("failed:"):
            return line.removeprefix("failed:").strip()
        return describe_exit(await self.wait())

    async def wait(self) -> int:
        """Wait for the process to end; return its exit code."""
        return await self._process.wait()

    async def stop(self, grace: float) -> None:
        """Send SIGTERM, and SIGKILL to the whole session after ``grace`` seconds. Returns when all have ended."""
        if self._process.returncode is None and grace > 0:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._process.wait()
        self._kill_session()
        await self._process.wait()
        self._close()

    def _kill_session(self) -> None:
        # Needed after the leader's end, too: its children keep the session alive.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._pipe.close()
        if self._stat is not None:
            os.close(self._stat)
            self._stat = None


class _Pipe:
    """The read end of a pipe as a stream."""

    def __init__(self, stream: asyncio.StreamReader, transport: asyncio.ReadTransport) -> None:
        self.stream = stream
        self._transport = transport

    @classmethod
    async def open(cls, descriptor: int) -> _Pipe:
        stream = asyncio.StreamReader(limit=1 << 16)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(descriptor, "rb", buffering=0)
        )
        return cls(stream, transport)

    def close(self) -> None:
        self._transport.close()


def _open_stat(pid: int) -> int | None:
    """Open ``/proc/PID/stat`` for repeated reading; None on systems without it."""
    try:
        return os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


_PF_EXITING = 0x4


def _exiting(stat: bytes) -> bool:
    """Whether a process has begun to exit, by its ``/proc/PID/stat`` (proc_pid_stat(5): state and flags).

    A killed process frees its memory and closes its sockets before it can be waited for. Until then a pidfd and
    waitpid report it as running, and a caller whose stream has just broken would be sent to it again.
    """
    state, _, _, _, _, _, flags = stat.rpartition(b")")[2].split(maxsplit=7)[:7]
    return state in (b"Z", b"X") or bool(int(flags) & _PF_EXITING)


def describe_exit(code: int) -> str:
    """Describe an exit code: ``-9`` as "killed by SIGKILL", ``1`` as "exit code 1"."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


_CRASH = re.compile(r"killed by SIG(SEGV|ABRT|BUS|FPE|ILL)")
_LAST_WORDS = re.compile(
    r"what\(\):\s*.+|\S*ASSERT\S*\(.+\) failed.*|Assertion [`'].+' failed.*|Fatal Python error: .+"
)


def explain_crash(reason: str, log: str) -> str:
    """Add to an exit's description the likely cause and the log's last words, if native code has crashed."""
    crash = _CRASH.match(reason)
    if crash is None:
        return reason
    words = _LAST_WORDS.findall(log)
    said = f" ({words[-1].strip()[:200]})" if words else ""
    if crash[1] == "ILL":
        return f"{reason}: this processor lacks an instruction that the engine was built with{said}"
    return f"{reason}: its native code crashed, as for a damaged header or chat template in the model's file{said}"


class NodePorts:
    """Sockets on the free TCP ports of one address of this machine, for calls from other machines."""

    def __init__(self, host: str) -> None:
        self._host = host

    def next_socket(self) -> str:
        """Return HOST:PORT with a port that is free at this moment; a start that finds it taken fails."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.bind((self._host, 0))
            port = probe.getsockname()[1]
        return f"[{self._host}]:{port}" if family is socket.AF_INET6 else f"{self._host}:{port}"

    def close(self) -> None:
        """Do nothing: nothing is kept."""


class SocketFolder:
    """A private folder (mode 0700) with a path short enough for Unix sockets; :meth:`close` deletes it.

    Its name contains this process's id, so that a later gateway can delete the folders of killed ones.
    """

    _PREFIX = "roundhouse-"
    _LONGEST_SOCKET = 100

    def __init__(self, root: Path | None = None) -> None:
        base = root or Path(tempfile.gettempdir())
        if len(str(base)) + 40 > self._LONGEST_SOCKET:
            base = Path("/tmp")  # noqa: S108 -- only as the parent of a private folder
        self._sweep(base)
        self.path = Path(tempfile.mkdtemp(prefix=f"{self._PREFIX}{os.getpid()}-", dir=base))
        self._count = 0

    def next_socket(self) -> str:
        """Return an unused socket path."""
        self._count += 1
        return str(self.path / f"{self._count}.sock")

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def _sweep(self, base: Path) -> None:
        for folder in base.glob(f"{self._PREFIX}*-*"):
            owner = folder.name.removeprefix(self._PREFIX).partition("-")[0]
            with contextlib.suppress(OSError, ValueError):
                if folder.lstat().st_uid == os.getuid() and not _runs(int(owner)):
                    shutil.rmtree(folder, ignore_errors=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
