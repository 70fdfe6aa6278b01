"""Listening sockets and the event loop of a gateway."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

from catalog.errors import ConfigurationError
from server.processes.data_folder import read_address
from server.program import program
from server.settings import Settings


def bind(host: str, port: int, backlog: int) -> socket.socket:
    """Open a listening socket on ``host:port``. Raises ConfigurationError if that is not possible."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigurationError(f"Cannot listen on {host}: {error.strerror}. Choose another --host.") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(backlog)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"Cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}. "
            "Stop the program that uses it, or choose another --port."
        ) from None
    return listener


def bind_public(settings: Settings) -> socket.socket:
    """Open the listening socket of the settings. Raises ConfigurationError, which names a server of ours there."""
    server = settings.server
    try:
        return bind(server.host, server.port, server.backlog)
    except ConfigurationError:
        check_not_served(settings)
        raise


def check_not_served(settings: Settings) -> None:
    """Raises ConfigurationError if a server of ours on the same data folder has the port of the settings."""
    running = read_address(settings.data_dir)
    if running is not None and running.url.endswith(f":{settings.server.port}"):
        raise ConfigurationError(
            f"Roundhouse serves {running.url} already (process {running.pid}). Use it, end it with "
            f"{program()} stop, or choose another --port."
        )


def bind_admin(settings: Settings) -> socket.socket | None:
    """Open the admin routes' own listening socket, if the settings name one. Raises ConfigurationError."""
    server = settings.server
    if server.admin_port is None:
        return None
    return bind(server.admin_host or server.host, server.admin_port, server.backlog)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's event loop where it is installed, else ``None``: asyncio's default."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def url_of(listener: Any) -> str:
    """The URL at which a socket listens."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def reachable(url: str) -> str:
    """The URL at which this machine reaches a server: one that listens on every address is called by loopback."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
