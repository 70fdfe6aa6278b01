"""Finds the running server, starts one in the background for commands that need it, and stops it (``stop``)."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import typer
from filelock import FileLock

from catalog.errors import ConfigurationError, NoModels
from server.commands import terminal
from server.commands.client import Config, ServerClient
from server.commands.support.statuses import NoServer, ServerAnswered
from server.processes.data_folder import ServerAddress, check_data_dir, read_address
from server.processes.sockets import bind, reachable
from server.program import program
from server.settings import Settings, load_settings

app = typer.Typer()
LOG_FILE = "server.log"
"""In the data folder: the log of a server that a command started."""
START_LIMIT = 120.0
"""Seconds within which a server that was started must be ready."""
_POLL = 0.05


def reach(url: str | None, key: str | None, config: Path | None) -> ServerClient:
    """A client of the running server; without one, and without ``url``, starts one in the background and says so.

    Raises NoServer if ``url`` does not answer, ConfigurationError with the reason if the server does not start.
    """
    client = ServerClient(url, key, config)
    if url is not None or _is_ready(client):
        return client
    settings = client.settings
    check_data_dir(settings.data_dir)
    with FileLock(settings.data_dir / "starting.lock", timeout=START_LIMIT):  # two commands start one server
        client = ServerClient(None, key, config)
        if not _is_ready(client):
            start(settings, config)
            client = ServerClient(None, key, config)
    return client


def start(settings: Settings, config: Path | None) -> ServerAddress:
    """Start a server in the background, with the starter models, and wait until it is ready.

    It listens at the address of the settings; where another program uses their default port, at a free one. It
    stays when this command ends. Raises ConfigurationError with its last line if it ends before it is ready.
    """
    from server.commands.library.pulling import fetch_starter

    check_data_dir(settings.data_dir)
    fetch_starter(settings)
    log = settings.data_dir / LOG_FILE
    command = [sys.executable, "-P", "-m", "server.cli", "serve", "--log-level", "warning"]
    # -P: no module of the working directory. Warnings alone, as nothing ever shortens the log.
    if config is not None:
        command += ["--config", str(config.resolve())]
    command += _port(settings)
    told = terminal.console(stderr=True)
    with told.status("No server is running: starting one..."):
        with log.open("wb") as sink:
            process = subprocess.Popen(  # noqa: S603 - this program, with arguments of its own
                command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True
            )
        address = _wait_ready(process, settings, log)
    stop = f"{program()} stop" + ("" if config is None else f" --config {shlex.quote(str(config.resolve()))}")
    told.print(
        f"No server was running: started one at {address.url}, which stays. Stop it: {stop}",
        style="dim",
        highlight=False,
        soft_wrap=True,
    )
    return address


def stop_server(settings: Settings) -> ServerAddress:
    """End the server that runs on the data folder, once its running answers have ended; returns its address.

    Raises NoServer if none runs, ConfigurationError if it may not be ended or does not end.
    """
    address = read_address(settings.data_dir)
    if address is None:
        raise NoServer(f"No server runs on the data folder {settings.data_dir}.")
    try:
        process = psutil.Process(address.pid)
        process.send_signal(signal.SIGTERM)
        process.wait(settings.server.drain + START_LIMIT)
    except psutil.NoSuchProcess:
        pass
    except psutil.AccessDenied:
        raise ConfigurationError(
            f"The server is process {address.pid} of another user, who alone can stop it."
        ) from None
    except psutil.TimeoutExpired:
        raise ConfigurationError(f"The server (process {address.pid}) has not ended. See its log.") from None
    return address


@app.command()
def stop(config: Config = None) -> None:
    """Stop the server of this machine once its running answers have ended."""
    address = stop_server(load_settings(config))
    typer.echo(f"The server at {address.url} (process {address.pid}) has stopped")


def _is_ready(client: ServerClient) -> bool:
    """Whether a server of ours answers; waits for one that is starting. Another program's answer is none."""
    end = time.monotonic() + START_LIMIT
    while True:
        try:
            answer = client.get("/ready")
            return isinstance(answer, dict) and answer.get("status") == "ready"
        except NoServer as error:
            if error.refused or read_address(client.settings.data_dir) is None:
                return False
            raise
        except ServerAnswered as error:
            if error.told == NoModels.code:
                return True
            if error.status != 503:
                return False
            if time.monotonic() > end:
                raise
        time.sleep(_POLL)


def _port(settings: Settings) -> list[str]:
    """``--port 0`` if another program uses the default port and the settings name no other; else nothing."""
    if "port" in settings.server.model_fields_set:
        return []
    try:
        bind(settings.server.host, settings.server.port, 1).close()
    except ConfigurationError:
        return ["--port", "0"]
    return []


def _wait_ready(process: subprocess.Popen[bytes], settings: Settings, log: Path) -> ServerAddress:
    end = time.monotonic() + START_LIMIT
    while process.poll() is None and time.monotonic() < end:
        address = read_address(settings.data_dir)
        if address is not None and address.pid == process.pid and _answers(address):
            return address
        time.sleep(_POLL)
    if process.poll() is None:
        process.terminate()
        raise ConfigurationError(f"The server was not ready within {START_LIMIT:.0f} seconds. Its log is {log}.")
    lines = log.read_text("utf-8", "replace").strip().splitlines()
    last = lines[-1].removeprefix("roundhouse: ") if lines else f"exit status {process.returncode}"
    raise ConfigurationError(f"The server did not start: {last}")


def _answers(address: ServerAddress) -> bool:
    try:
        response = httpx.get(f"{reachable(address.url)}/ready", timeout=5, trust_env=False)
    except httpx.HTTPError:
        return False
    return response.status_code == httpx.codes.OK
