"""Listening sockets, and the event loop that serves them."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

from catalog.errors import ConfigurationError
from server.settings import Settings

Reload = Callable[[], Settings]
"""Reads the settings again. Raises ConfigurationError."""


def bind(host: str, port: int, backlog: int) -> socket.socket:
    """A listening socket. Raises ConfigurationError that says what to do."""
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
            "Stop what uses it, or choose another --port."
        ) from None
    return listener


def bind_admin(settings: Settings) -> socket.socket | None:
    """The listening socket of administration, if it has an address of its own. Raises ConfigurationError."""
    own = settings.server
    return None if own.admin_port is None else bind(own.admin_host or own.host, own.admin_port, own.backlog)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's loops where it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def url_of(listener: Any) -> str:
    """Where a socket listens."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
