"""One gateway process as its parent sees it: started, ready, ended."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys

from backends.workers.control.channel import Channel
from backends.workers.control.codec import JsonValue
from backends.workers.process import describe_exit


class Child:
    """A running :mod:`server.processes.gateway_process`; :meth:`start` makes it and :meth:`kill` must end it."""

    _process: asyncio.subprocess.Process

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.ready = asyncio.Event()
        self.failure: str | None = None
        channel.hear("ready", lambda _: self.ready.set())
        channel.answer("failed", self._failed)

    @classmethod
    async def start(cls, channel: Channel, listener: socket.socket, admin: socket.socket | None) -> Child:
        """Start it with its end of ``channel``, which is opened, and the listening sockets."""
        child = cls(channel)
        ours, theirs = socket.socketpair()
        with theirs:
            given = {"--control": theirs, "--listen": listener}
            if admin is not None:
                given["--admin"] = admin
            flags = [text for flag, its in given.items() for text in (flag, str(its.fileno()))]
            await channel.open(ours)
            try:
                # In a session of its own, so that a terminal's Ctrl-C comes to the parent alone, which tells it.
                # -P: a folder called "server" in the working directory is not this program.
                child._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-m", "server.processes.gateway_process", *flags),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=[its.fileno() for its in given.values()],
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
        """Until it has ended; then ``failure`` says how, unless it was told to."""
        code = await self._process.wait()
        if self.failure is None and code != 0:
            self.failure = f"A gateway process ended: {describe_exit(code)}."

    async def settled(self) -> None:
        """Until it serves, or has ended."""
        ready, ended = asyncio.create_task(self.ready.wait()), asyncio.create_task(self.wait())
        try:
            await asyncio.wait({ready, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
            ended.cancel()

    def terminate(self) -> None:
        """Tell it to drain; told again, to stop now."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    async def kill(self) -> None:
        """Return when nothing of it is left."""
        self.ready.clear()
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self.wait()
        self.channel.close()
        await self.channel.closed.wait()

    async def _failed(self, reason: JsonValue) -> None:
        self.failure = str(reason)
