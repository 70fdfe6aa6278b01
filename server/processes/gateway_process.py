"""One of several gateway processes, started by the fleet: ``python -m server.processes.gateway_process``.

It inherits the listening sockets and one end of the control socket, and asks for its settings over that. When the
control socket closes, the parent has died; this process then exits at once, because it has no workers any more.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import os
import signal
import socket
import sys
from functools import partial
from pathlib import Path

from backends.workers.control.channel import Channel
from backends.workers.control.codec import JsonValue
from backends.workers.control.remote_pool import RemotePool
from catalog.errors import RoundhouseError
from server.app import create_app
from server.assembly import open_runtime
from server.observability.logging import configure_logging
from server.peers import answer_peer
from server.processes.reload import apply_settings
from server.processes.run import serve
from server.processes.scrape import export
from server.processes.sockets import loop_factory
from server.settings import Settings

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Serve until a signal stops the process; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--control", type=int, required=True, help="file descriptor of the control socket")
    parser.add_argument("--listen", type=int, required=True, help="file descriptor of the listening socket")
    parser.add_argument("--admin", type=int, help="file descriptor of the admin routes' listening socket")
    arguments = parser.parse_args()
    _set_parent_death_signal()
    control, listener = socket.socket(fileno=arguments.control), socket.socket(fileno=arguments.listen)
    admin = None if arguments.admin is None else socket.socket(fileno=arguments.admin)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_run(control, listener, admin))


async def _run(control: socket.socket, listener: socket.socket, admin: socket.socket | None) -> int:
    channel = Channel()
    channel.answer("alive", _alive)
    pool = RemotePool(channel)
    await channel.open(control)
    orphaned = asyncio.create_task(_exit_when_orphaned(channel))
    settings = _settings(await channel.call("settings"))
    configure_logging(settings.log)
    await pool.start()

    async def scrape() -> bytes:
        return str(await channel.call("metrics")).encode()

    async def samples(_: JsonValue) -> JsonValue:
        return export(app.state.services.metrics.registry)

    async def answer(question: JsonValue) -> JsonValue:
        return await answer_peer(app.state.services.runtime, question)

    async def reload(changed: JsonValue) -> JsonValue:
        return await apply_settings(app.state.services, _settings(changed))

    try:
        opening = partial(open_runtime, pool=pool, scrape=scrape, peers=_Fleet(channel))
        app = create_app(settings, open_runtime=opening)
        channel.answer("samples", samples)
        channel.answer("reload", reload)
        channel.answer("peer", answer)
        await serve(app, settings, listener, admin_listener=admin, on_listening=lambda: channel.tell("ready"))
    except RoundhouseError as error:
        await channel.call("failed", error.message)
        return 1
    finally:
        orphaned.cancel()
    channel.tell("samples", export(app.state.services.metrics.registry))
    return 0


def _settings(sent: JsonValue) -> Settings:
    file, in_file, flags = (sent["sources"][name] for name in ("file", "in_file", "flags"))
    return Settings.model_validate(sent["settings"]).read_from(file and Path(file), in_file, flags)


class _Fleet:
    """The other gateway processes of this machine, asked through the parent."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def ask(self, question: JsonValue) -> JsonValue:
        return await self._channel.call("peers", question)

    async def ask_all(self, question: JsonValue) -> list[JsonValue]:
        found: list[JsonValue] = await self._channel.call("all peers", question)
        return found


async def _alive(_: JsonValue) -> None:
    """The answer that shows the parent that the event loop runs."""


async def _exit_when_orphaned(channel: Channel) -> None:
    await channel.closed.wait()
    os._exit(1)


def _set_parent_death_signal() -> None:
    """On Linux, have the kernel kill this process when its parent dies, even if the interpreter is blocked."""
    if sys.platform.startswith("linux"):
        parent = os.getppid()
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the call
            os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
