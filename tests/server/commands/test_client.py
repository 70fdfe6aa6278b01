"""The commands' client of a running server."""

from __future__ import annotations

import socket

import pytest

from catalog.errors import ConfigurationError
from server.commands import client


def test_a_server_that_takes_the_connection_and_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_READ", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        asking = client.ServerClient(f"http://127.0.0.1:{silent.getsockname()[1]}", None, None)
        with pytest.raises(ConfigurationError, match="does not answer"):
            asking.get("/v1/admin/workers")
