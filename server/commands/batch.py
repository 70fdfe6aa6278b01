"""``batch``: answers every line of a file by a running server, and writes the results."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Annotated, Any

import typer

from catalog.errors import ConfigurationError, RoundhouseError
from server.commands import terminal
from server.commands.client import Config, Key, ServerClient, Url
from server.commands.support.options import gives
from server.commands.support.statuses import NoServer, UsageError

app = typer.Typer()
POLL = 1.0
ENDED = ("completed", "failed", "expired", "cancelled")
MARK = "roundhouse_input"
"""The metadata that says which file a batch was made of."""


@app.command()
@gives(window="completion_window")
def batch(
    source: Annotated[
        str, typer.Argument(metavar="FILE.jsonl", help="The requests, one a line; or the id of a batch to follow.")
    ],
    output: Annotated[
        Path | None, typer.Option(help="File for the answers. Default: FILE.results.jsonl.", dir_okay=False)
    ] = None,
    errors: Annotated[
        Path | None, typer.Option(help="File for failed requests. Default: FILE.errors.jsonl.", dir_okay=False)
    ] = None,
    window: Annotated[str, typer.Option(help="Time for the batch, such as 30m, 24h or 7d.")] = "24h",
    detach: Annotated[bool, typer.Option("--detach", help="Begin the batch and do not wait for it.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel the batch and take what is answered.")] = False,
    url: Url = None,
    key: Key = None,
    config: Config = None,
) -> None:
    """Answer the requests of a JSONL file, each as its endpoint would, and write the results.

    An unfinished batch of the same file is followed instead of made anew. Ctrl-C asks whether to cancel it or to
    leave it at work.
    """
    base = Path(source).name.removesuffix(".jsonl")
    beside = Path(source).parent if Path(source).exists() else Path()
    output = output or beside / f"{base}.results.jsonl"
    errors = errors or beside / f"{base}.errors.jsonl"
    if not detach:
        _check_targets(Path(source), output, errors)
    client = ServerClient(url, key, config)
    told = _batch_of(client, source, window, anew=not cancel)
    if cancel and told["status"] not in ENDED:
        told = client.post(f"/v1/batches/{told['id']}/cancel")
    console = terminal.console(stderr=True)
    if detach:
        console.print(f"The batch is {told['id']}. Follow it with: roundhouse batch {told['id']}", highlight=False)
        return
    try:
        told = _follow(client, told)
    except KeyboardInterrupt:
        if not (sys.stdin.isatty() and typer.confirm("\nCancel the batch? Otherwise it goes on", err=True)):
            console.print(f"It goes on. Follow it with: roundhouse batch {told['id']}", highlight=False)
            raise typer.Exit(130) from None
        told = _follow(client, client.post(f"/v1/batches/{told['id']}/cancel"))
    _write(client, told["output_file_id"], output)
    _write(client, told["error_file_id"], errors)
    if told["status"] == "completed" and told["error_file_id"] is None:
        errors.unlink(missing_ok=True)  # those of an earlier run
    counts = told["request_counts"]
    console.print(
        f"{told['status']}: {counts['completed']} answered, {counts['failed']} failed, of {counts['total']}",
        highlight=False,
    )
    if notice := told.get("notice"):
        console.print(notice, highlight=False, markup=False)
    for problem in (told["errors"] or {}).get("data", ())[:10]:
        line = "" if problem["line"] is None else f"line {problem['line']}: "
        console.print(f"{line}{problem['message']}", highlight=False)
    if told["status"] != "completed" or counts["failed"]:
        raise typer.Exit(1)


def _check_targets(source: Path, output: Path, errors: Path) -> None:
    """Check that both files of results can be written, before a request is paid for."""
    try:
        places = [path.resolve() for path in (source, output, errors)]
        if places[1] == places[2]:
            raise UsageError("--output and --errors are the same file. Name two.")
        for name, path, place in (("--output", output, places[1]), ("--errors", errors, places[2])):
            if place == places[0] or (path.exists() and source.exists() and path.samefile(source)):
                raise UsageError(f"{name} is the file of the requests, which it would overwrite.")
            if path.is_dir():
                raise ConfigurationError(f"{path} cannot be written (it is a folder). Set {name}.")
            with TemporaryFile(dir=path.parent):
                pass
    except OSError as error:
        raise ConfigurationError(
            f"The results cannot be written ({error.filename or output.parent}: {error.strerror}). "
            "Set --output and --errors."
        ) from error


def _batch_of(client: ServerClient, source: str, window: str, *, anew: bool) -> Any:
    """The batch with this id, the unfinished one of this file, or a new one if ``anew``."""
    path = Path(source)
    if not path.exists() and source.startswith("batch_"):
        return client.get(f"/v1/batches/{source}")
    try:
        with path.open("rb") as file:
            endpoint = _endpoint(file.readline(1 << 25))
            _check_same(endpoint, file)
            file.seek(0)
            mark = hashlib.file_digest(file, "sha256").hexdigest()
            page = client.get("/v1/batches", limit=100)["data"]
            for each in page:
                if (each["metadata"] or {}).get(MARK) == mark and each["status"] not in ENDED:
                    return each
            if not anew:
                raise ConfigurationError(f"There is no unfinished batch of {path} to cancel.")
            file.seek(0)
            sent = client.request(
                "POST", "/v1/files", files={"file": (path.name, file)}, data={"purpose": "batch"}
            ).json()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read ({error.strerror}).") from error
    request = {
        "input_file_id": sent["id"],
        "endpoint": endpoint,
        "completion_window": window,
        "metadata": {MARK: mark},
    }
    return client.post("/v1/batches", request)


def _endpoint(line: bytes) -> str:
    """The endpoint that the first line asks."""
    try:
        found = json.loads(line)["url"]
    except (ValueError, KeyError, TypeError):
        found = None
    if not isinstance(found, str):
        raise ConfigurationError(
            "The file must have one JSON object a line, as in "
            '{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {...}}'
        )
    return found if found.startswith("/v1/") else f"/v1{found}"


def _check_same(endpoint: str, lines: IO[bytes]) -> None:
    """Check that the other lines ask the same endpoint, before anything is sent; the server checks the rest."""
    others: dict[str, int] = {}
    for line in lines:
        with contextlib.suppress(RoundhouseError):
            found = _endpoint(line)
            if found != endpoint:
                others[found] = others.get(found, 0) + 1
    if others:
        told = ", ".join(f"{count} ask {name[:80]}" for name, count in list(others.items())[:5])
        raise ConfigurationError(
            f"A batch has one URL, that of its first line: {endpoint}. Of the other lines {told}. Make a file for "
            "each URL."
        )


def _follow(client: ServerClient, told: Any) -> Any:
    """Wait for the end of a batch and show how far it is; a server that is away is waited for."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} failed"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=terminal.console(stderr=True)) as progress:
        shown = progress.add_task(told["status"], total=None, failed=0)
        while True:
            counts = told["request_counts"]
            done = counts["completed"] + counts["failed"]
            progress.update(
                shown,
                description=told["status"],
                total=counts["total"] or None,
                completed=done,
                failed=counts["failed"],
            )
            if told["status"] in ENDED:
                return told
            time.sleep(POLL)
            try:
                told = client.get(f"/v1/batches/{told['id']}")
            except NoServer:
                progress.update(shown, description="waiting for the server")


def _write(client: ServerClient, file_id: str | None, path: Path) -> None:
    """Write a file of results; the old one stays until the new one is whole."""
    if file_id is None:
        return
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("wb") as file:
            client.download(f"/v1/files/{file_id}/content", file)
        part.replace(path)
    except OSError as error:
        raise RoundhouseError(f"{path} cannot be written ({error.strerror}).") from error
    finally:
        part.unlink(missing_ok=True)
    terminal.say(path)
