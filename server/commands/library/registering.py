"""``register`` and ``unregister``: rows of the catalogue of a running server, and of all that share its state."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from catalog.types import Json
from server.commands import terminal
from server.commands.client import AdminKey, Config, ServerClient, Url
from server.commands.support.options import gives

app = typer.Typer()


@app.command()
@gives(
    model="id",
    capability="capabilities",
    alias="aliases",
    url_of="endpoint.base_url",
    protocol="endpoint.protocol",
    key_env="endpoint.key_env",
)
def register(
    model: Annotated[str, typer.Argument(help="Id of the model in the catalogue.")],
    source: Annotated[
        str | None,
        typer.Argument(
            help="hub:OWNER/REPOSITORY[:QUANTISATION], a file or folder, or ENDPOINT/MODEL with --url-of."
        ),
    ] = None,
    url_of: Annotated[
        str | None, typer.Option(help="Base URL of the model's own server, such as http://10.0.0.5:8000/v1.")
    ] = None,
    protocol: Annotated[str, typer.Option(help="Its API, with --url-of.")] = "openai",
    key_env: Annotated[
        str | None, typer.Option(help="Name of the server's environment variable with the key for it.")
    ] = None,
    capability: Annotated[
        list[str] | None,
        typer.Option(help="chat, embed, tools... Repeatable. Default: what a file says of itself."),
    ] = None,
    engine: Annotated[str | None, typer.Option(help="llamacpp, onnx, whisper, vllm, mlx...")] = None,
    alias: Annotated[list[str] | None, typer.Option(help="Another name. Repeatable.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", "-o", help="A field of the row as TOML, such as options.context=16384. Repeatable."
        ),
    ] = None,
    url: Url = None,
    key: AdminKey = None,
    config: Config = None,
) -> None:
    """Add a model to the catalogue, or change one; no file of settings and no restart is needed."""
    row: Json = {"id": model, **toml_fields(option or ())}
    if capability:
        row["capabilities"] = capability
    if engine is not None:
        row["engine"] = engine
    if alias:
        row["aliases"] = alias
    if source is not None:
        row |= _source(source, url_of, protocol, key_env)
    made = ServerClient(url, key, config).post("/v1/models", row)
    state = "is ready" if made["available"] else f"is registered. {made['unavailable_reason']}"
    terminal.say(f"{made['id']} {state}")


@app.command()
def unregister(
    model: Annotated[str, typer.Argument(help="Id or alias of the model.")],
    files: Annotated[bool, typer.Option("--files", help="Delete the files that were pulled for it, too.")] = False,
    url: Url = None,
    key: AdminKey = None,
    config: Config = None,
) -> None:
    """Remove a model that was registered; a built-in one is as it came."""
    path = f"/v1/models/{quote(model, safe='/')}?files={'true' if files else 'false'}"
    response = ServerClient(url, key, config).request("DELETE", path)
    gone = response.json()
    terminal.say(f"{gone['id']} is removed{'. ' + gone['note'] if gone.get('note') else ''}")


def _source(source: str, url_of: str | None, protocol: str, key_env: str | None) -> Json:
    """The fields of a row for a source as the command line has it."""
    if url_of is not None:
        endpoint, slash, name = source.partition("/")
        if not slash:
            raise typer.BadParameter(
                f"with --url-of it is ENDPOINT/MODEL, an id of your choice and the name there: lan/{source[:80]}"
            )
        server: Json = {"id": endpoint, "base_url": url_of, "protocol": protocol}
        if key_env is not None:
            server["key_env"] = [key_env]
        return {"source": {"kind": "upstream", "endpoint": endpoint, "model": name}, "endpoint": server}
    if not source.startswith(("hub:", "hf.co/", "https://")) and Path(source).expanduser().exists():
        return {"source": str(Path(source).expanduser().absolute())}
    return {"source": source}


def toml_fields(lines: Iterable[str]) -> Json:
    """The fields that lines of TOML give, such as ``options.context=1024``. Raises typer.BadParameter."""
    try:
        return tomllib.loads("\n".join(lines))
    except tomllib.TOMLDecodeError as error:
        raise typer.BadParameter(
            f"--option is no TOML ({error}): write NAME=VALUE, with quotes around text"
        ) from None
