"""A gateway process as its parent sees it: started, ready, alive, ended."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys

from backends.workers.control.channel import Channel
from backends.workers.control.codec import JsonValue
from backends.workers.process import describe_exit
from catalog.errors import RoundhouseError

BEATS = 10
"""Missed beats after which a process counts as hung. Beats are counted, instead of seconds: while the machine
sleeps, or the parent too is stopped, at most one is missed."""
STARTING = 6
"""Times as many beats may be missed before it is ready: imports and reading the state block its loop."""


class GatewayChild:
    """A running :mod:`server.processes.gateway_process`. The caller of :meth:`start` must call :meth:`kill`.

    ``ready`` is set while it serves. ``failure`` is the reason of its end, or ``None``. A process whose event loop
    does not answer within ``liveness`` seconds is killed.
    """

    _process: asyncio.subprocess.Process
    _watching: asyncio.Task[None]

    def __init__(self, channel: Channel, *, liveness: float) -> None:
        self.channel = channel
        self.ready = asyncio.Event()
        self.failure: str | None = None
        self._beat = liveness / BEATS
        channel.hear("ready", lambda _: self.ready.set())
        channel.answer("failed", self._set_failure)

    @classmethod
    async def start(
        cls, channel: Channel, listener: socket.socket, admin: socket.socket | None, *, liveness: float
    ) -> GatewayChild:
        """Open ``channel`` and start the process, which inherits the other end and the listening sockets."""
        child = cls(channel, liveness=liveness)
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
        child._watching = asyncio.create_task(child._watch())
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

    def kill_for(self, failure: str) -> None:
        """Send SIGKILL, for a reason that becomes ``failure``."""
        self.failure = self.failure or failure
        self._send_kill()

    async def kill(self) -> None:
        """Kill it if it still runs; returns when it has exited and its channel is closed."""
        self.ready.clear()
        self._watching.cancel()
        if self._process.returncode is None:
            self._send_kill()
            await self.wait()
        self.channel.close()
        await self.channel.closed.wait()

    def _send_kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def _watch(self) -> None:
        """Ask every beat whether it is alive, and kill it when the answer is missing for too long."""
        seconds = self._beat * BEATS
        try:
            while await self._answers():  # noqa: ASYNC110 -- a beat, not a wait for a condition
                await asyncio.sleep(self._beat)
        except RoundhouseError:  # the control socket is closed: it exits by itself, as a rule
            await asyncio.sleep(seconds)
        self.kill_for(f"It did not answer for {seconds:g} seconds (server.liveness).")

    async def _answers(self) -> bool:
        """Whether it answers in time. Raises Unavailable when the control socket is closed."""
        call = asyncio.create_task(self.channel.call("alive"))
        try:
            for _ in range(BEATS * (1 if self.ready.is_set() else STARTING)):
                await asyncio.wait({call}, timeout=self._beat)
                if call.done():
                    call.result()
                    return True
        finally:
            call.cancel()
        return False

    async def _set_failure(self, reason: JsonValue) -> None:
        self.failure = str(reason)
