"""The HTTP client of the commands that call a running server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any

import httpx
import typer

from catalog.errors import ModelNotFound, RoundhouseError
from server.commands.support.statuses import NoServer, ServerAnswered
from server.processes.data_folder import read_address
from server.processes.sockets import reachable
from server.program import program
from server.settings import Settings, load_settings

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="ROUNDHOUSE_URL",
        show_envvar=True,
        help="URL of the server. Default: that of the server which runs on the data folder, else of the settings.",
    ),
]
Key = Annotated[
    str | None,
    typer.Option("--key", envvar="ROUNDHOUSE_KEY", show_envvar=True, help="A key, if the server requires one."),
]
AdminKey = Annotated[
    str | None,
    typer.Option(
        "--key", envvar="ROUNDHOUSE_KEY", show_envvar=True, help="An admin key, if the server requires keys."
    ),
]
Config = Annotated[
    Path | None, typer.Option("--config", help="Settings file. Default: ./roundhouse.toml if it exists.")
]


_READ, _WORK = 20.0, 600.0
"""Seconds until an answer is given up: of a question, and of work such as a load."""


class ServerClient:
    """Calls a running server. Raises RoundhouseError with one line for every failure or error response."""

    def __init__(self, url: str | None, key: str | None, config: Path | None) -> None:
        settings = load_settings(config)
        self.settings = settings
        self.url = _server_url(url) if url else found_url(settings)
        key = key or _first_key(settings)
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    def get(self, path: str, **params: Any) -> Any:
        """The body of the response: parsed JSON, or text."""
        return self._body("GET", path, params={k: v for k, v in params.items() if v is not None})

    def post(self, path: str, body: Any = None) -> Any:
        """The body of the response: parsed JSON, or text."""
        return self._body("POST", path, json={} if body is None else body)

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """The response, unless it is an error; ``arguments`` are those of httpx."""
        with self._connected(_READ if method == "GET" else _WORK) as client:
            response = client.request(method, path, **arguments)
        if response.is_error:
            raise _error(response)
        return response

    def download(self, path: str, into: IO[bytes]) -> None:
        """Write the body of a response to a file, a piece at a time."""
        with self.stream("GET", path) as response:
            for piece in response.iter_bytes():
                into.write(piece)

    @contextmanager
    def stream(self, method: str, path: str, **arguments: Any) -> Iterator[httpx.Response]:
        """A response, unless it is an error, whose body is read as it comes; ``arguments`` are those of httpx."""
        with self._connected(_WORK) as client, client.stream(method, path, **arguments) as response:
            if response.is_error:
                response.read()
                raise _error(response)
            yield response

    @contextmanager
    def _connected(self, read: float) -> Iterator[httpx.Client]:
        timeout = httpx.Timeout(10, read=read)
        try:
            with httpx.Client(
                base_url=self.url, headers=self._headers, timeout=timeout, trust_env=False
            ) as client:
                yield client
        except httpx.TimeoutException:
            raise NoServer(
                f"The server at {self.url} took the connection and does not answer. See its log, or restart it."
            ) from None
        except httpx.ConnectError:
            raise NoServer(
                f"No server answers at {self.url}. Start one with: {program()} serve, or name it with --url.",
                refused=True,
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise NoServer(f"The request to {self.url} failed: {type(error).__name__}.") from None

    def _body(self, method: str, path: str, **arguments: Any) -> Any:
        response = self.request(method, path, **arguments)
        if response.headers.get("content-type", "").startswith("application/json"):
            return response.json()
        return response.text


def _error(response: httpx.Response) -> RoundhouseError:
    """The server's error, with the remedy of a terminal."""
    param = code = None
    try:
        told = response.json()["error"]
        message, param, code = str(told["message"]), told.get("param"), told.get("code")
    except (ValueError, KeyError, TypeError, AttributeError):
        message = f"The server answered {response.status_code}."
    message = message.replace(ModelNotFound.where, f"All models: {program()} list --all")
    if response.status_code == 401:
        message += " Commands take it from --key or ROUNDHOUSE_KEY."
    if response.status_code == 403:
        message += " An admin key is made by: roundhouse keys create NAME --admin"
    param, code = (each if isinstance(each, str) else None for each in (param, code))
    return ServerAnswered(message, response.status_code, param=param, told=code)


def _server_url(given: str) -> str:
    """The server's root: a base URL of SDKs ends with /v1, and an address may come without its scheme."""
    url = given if "://" in given else f"http://{given}"
    return url.rstrip("/").removesuffix("/v1")


def found_url(settings: Settings) -> str:
    """The URL of the server that runs on the data folder of these settings, else the one that they name."""
    address = read_address(settings.data_dir)
    return _default_url(settings) if address is None else reachable(address.admin_url or address.url)


def _default_url(settings: Settings) -> str:
    server = settings.server
    host, port = server.host, server.port
    if server.admin_port is not None:
        host, port = server.admin_host or server.host, server.admin_port
    return reachable(f"http://{f'[{host}]' if ':' in host else host}:{port}")


def _first_key(settings: Settings) -> str | None:
    for key in (*settings.admin_keys, *settings.api_keys):
        return key.get_secret_value()
    return None
