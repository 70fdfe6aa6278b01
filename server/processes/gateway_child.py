"""A gateway process as its parent sees it: started, ready, ended."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys

from backends.workers.control.channel import Channel
from backends.workers.control.codec import JsonValue
from backends.workers.process import describe_exit


class GatewayChild:
    """A running :mod:`server.processes.gateway_process`. The caller of :meth:`start` must call :meth:`kill`.

    ``ready`` is set while it serves. ``failure`` is the reason of its end, or ``None``.
    """

    _process: asyncio.subprocess.Process

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.ready = asyncio.Event()
        self.failure: str | None = None
        channel.hear("ready", lambda _: self.ready.set())
        channel.answer("failed", self._set_failure)

    @classmethod
    async def start(cls, channel: Channel, listener: socket.socket, admin: socket.socket | None) -> GatewayChild:
        """Open ``channel`` and start the process, which inherits the other end and the listening sockets."""
        child = cls(channel)
        ours, theirs = socket.socketpair()
        with theirs:
            inherited = {"--control": theirs, "--listen": listener}
            if admin is not None:
                inherited["--admin"] = admin
            flags = [text for flag, each in inherited.items() for text in (flag, str(each.fileno()))]
            await channel.open(ours)
            try:
                # A session of its own: a terminal's Ctrl-C reaches the parent alone, which forwards it.
                # -P: a folder "server" in the working directory must not be imported.
                child._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-m", "server.processes.gateway_process", *flags),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=[each.fileno() for each in inherited.values()],
                    start_new_session=True,
                )
            except BaseException:
                channel.close()
                raise
        return child

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self) -> None:
        """Wait until it has exited. After a nonzero status ``failure`` is set."""
        code = await self._process.wait()
        if self.failure is None and code != 0:
            self.failure = f"A gateway process ended: {describe_exit(code)}."

    async def wait_started(self) -> None:
        """Wait until it serves or has exited."""
        ready, exited = asyncio.create_task(self.ready.wait()), asyncio.create_task(self.wait())
        try:
            await asyncio.wait({ready, exited}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
            exited.cancel()

    def terminate(self) -> None:
        """Send SIGTERM: the first makes it drain, the second stops it at once."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    async def kill(self) -> None:
        """Kill it if it still runs; returns when it has exited and its channel is closed."""
        self.ready.clear()
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self.wait()
        self.channel.close()
        await self.channel.closed.wait()

    async def _set_failure(self, reason: JsonValue) -> None:
        self.failure = str(reason)
