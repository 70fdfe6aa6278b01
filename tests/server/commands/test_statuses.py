"""The exit status of a command, and the words of a server's error in a terminal."""

from __future__ import annotations

import httpx
import pytest

from catalog.errors import ConfigurationError, ModelNotFound, PullError, RoundhouseError
from server.commands.client import _error
from server.commands.support.statuses import EXPLAINED, ExitStatus, NoServer, UsageError, status_of


def answered(status: int, message: str = "No.") -> RoundhouseError:
    return _error(httpx.Response(status, json={"error": {"message": message}}))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NoServer("No server answers.", refused=True), ExitStatus.NO_SERVER),
        (ModelNotFound("nothing", nearest=()), ExitStatus.NOT_FOUND),
        (ConfigurationError("Wrong."), ExitStatus.FAILED),
        (UsageError("Not so."), ExitStatus.USAGE),
        (PullError("No network."), ExitStatus.FAILED),
        (answered(400), ExitStatus.FAILED),
        (answered(401), ExitStatus.REFUSED),
        (answered(403), ExitStatus.REFUSED),
        (answered(404), ExitStatus.NOT_FOUND),
        (answered(429), ExitStatus.LATER),
        (answered(502), ExitStatus.FAILED),
        (answered(503), ExitStatus.LATER),
        (_error(httpx.Response(504, text="gateway timeout")), ExitStatus.FAILED),
    ],
    ids=str,
)
def test_the_kind_of_an_error_is_the_exit_status(error: RoundhouseError, status: ExitStatus) -> None:
    assert status_of(error) is status


def test_every_exit_status_is_explained() -> None:
    for status in ExitStatus:
        assert f"{status.value} " in EXPLAINED


def test_the_remedy_of_a_servers_error_is_one_for_a_terminal() -> None:
    assert "roundhouse list --all" in answered(404, f"There is no such model. {ModelNotFound.where}").message
    assert "ROUNDHOUSE_KEY" in answered(401).message
    assert "keys create" in answered(403).message
