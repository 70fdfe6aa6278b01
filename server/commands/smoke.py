"""``roundhouse smoke speech``: speak a sentence, transcribe it, compare. Through a running server, for real."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Annotated

import httpx
import typer

from catalog.errors import RoundhouseError
from server.commands.client import Config, Key, Server, Url

app = typer.Typer(no_args_is_help=True, help="Try a capability for real, end to end.")
SENTENCE = "The quick brown fox jumps over the lazy dog. Please transcribe this sentence exactly."


@app.callback()
def _group() -> None:
    """Keeps ``speech`` a subcommand, also while it is the only one."""


@app.command()
def speech(
    text: Annotated[str, typer.Option(help="What to say.")] = SENTENCE,
    speaker: Annotated[str, typer.Option(help="The model that speaks.")] = "auto",
    listener: Annotated[str, typer.Option(help="The model that transcribes.")] = "auto",
    voice: Annotated[str, typer.Option(help="As in GET /v1/audio/voices.")] = "alloy",
    audio_format: Annotated[str, typer.Option("--format", help="wav, mp3, opus, flac or aac.")] = "wav",
    at_most: Annotated[float, typer.Option(min=0, help="The word error rate that still passes.")] = 0.2,
    url: Url = None,
    key: Key = None,
    config: Config = None,
) -> None:
    """Speak, transcribe, compare; exit status 1 if too many words came back wrong."""
    server = Server(url, key, config)
    began = time.monotonic()
    body = {"model": speaker, "input": text, "voice": voice, "response_format": audio_format}
    spoken = server.ask("POST", "/v1/audio/speech", json=body)
    heard_at = time.monotonic()
    file = (f"speech.{audio_format}", spoken.content)
    heard = server.ask("POST", "/v1/audio/transcriptions", data={"model": listener}, files={"file": file})
    ended = time.monotonic()
    said = str(heard.json()["text"]).strip()
    rate = word_error_rate(words(text), words(said))
    typer.echo(
        f"{_by(spoken.headers)} spoke {len(spoken.content)} bytes of {audio_format} in {heard_at - began:.2f} s"
    )
    typer.echo(f"{_by(heard.headers)} heard in {ended - heard_at:.2f} s: {said}")
    typer.echo(f"word error rate {rate:.2f}")
    if rate > at_most:
        raise RoundhouseError(f"More than {at_most:.2f} of the words came back wrong.")


def _by(headers: httpx.Headers) -> str:
    return str(headers.get("x-roundhouse-model", "the server"))


def words(text: str) -> list[str]:
    """Words without punctuation and case, as a listener would count them."""
    return re.findall(r"[\w']+", text.casefold())


def word_error_rate(reference: Sequence[str], heard: Sequence[str]) -> float:
    """Word insertions, deletions and replacements per word of the reference (Levenshtein's distance)."""
    row = list(range(len(heard) + 1))
    for place, wanted in enumerate(reference, 1):
        diagonal, row[0] = row[0], place
        for at, got in enumerate(heard, 1):
            diagonal, row[at] = row[at], min(row[at] + 1, row[at - 1] + 1, diagonal + (wanted != got))
    return row[-1] / max(1, len(reference))
