"""``roundhouse smoke speech``: speak a sentence, transcribe it and compare, through a running server."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Annotated

import httpx
import typer

from catalog.errors import RoundhouseError
from server.commands import terminal
from server.commands.client import Config, Key, ServerClient, Url

app = typer.Typer(no_args_is_help=True, help="Test a capability end to end.")
SENTENCE = "The quick brown fox jumps over the lazy dog. Please transcribe this sentence exactly."


@app.callback()
def _group() -> None:
    """Keeps ``speech`` a subcommand while it is the only one."""


@app.command()
def speech(
    text: Annotated[str, typer.Option(help="The text to speak.")] = SENTENCE,
    speaker: Annotated[str, typer.Option(help="The model that speaks.")] = "auto",
    listener: Annotated[str, typer.Option(help="The model that transcribes.")] = "auto",
    voice: Annotated[str, typer.Option(help="A voice listed by GET /v1/audio/voices.")] = "alloy",
    audio_format: Annotated[str, typer.Option("--format", help="wav, mp3, opus, flac or aac.")] = "wav",
    at_most: Annotated[float, typer.Option(min=0, help="The highest word error rate that passes.")] = 0.2,
    url: Url = None,
    key: Key = None,
    config: Config = None,
) -> None:
    """Speak a text, transcribe the audio and compare. Exit status 1 above the word error rate."""
    server = ServerClient(url, key, config)
    began = time.monotonic()
    body = {"model": speaker, "input": text, "voice": voice, "response_format": audio_format}
    speech = server.request("POST", "/v1/audio/speech", json=body)
    spoken_at = time.monotonic()
    file = (f"speech.{audio_format}", speech.content)
    heard = server.request("POST", "/v1/audio/transcriptions", data={"model": listener}, files={"file": file})
    ended = time.monotonic()
    said = str(heard.json()["text"]).strip()
    rate = word_error_rate(words(text), words(said))
    terminal.say(
        f"{_by(speech.headers)} spoke {len(speech.content)} bytes of {audio_format} in {spoken_at - began:.2f} s"
    )
    terminal.say(f"{_by(heard.headers)} heard in {ended - spoken_at:.2f} s: {said}")
    terminal.say(f"word error rate {rate:.2f}")
    if rate > at_most:
        raise RoundhouseError(f"More than {at_most:.2f} of the words came back wrong.")


def _by(headers: httpx.Headers) -> str:
    return str(headers.get("x-roundhouse-model", "the server"))


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return re.findall(r"[\w']+", text.casefold())


def word_error_rate(reference: Sequence[str], heard: Sequence[str]) -> float:
    """Insertions, deletions and replacements of words (Levenshtein distance) per word of the reference."""
    row = list(range(len(heard) + 1))
    for place, wanted in enumerate(reference, 1):
        diagonal, row[0] = row[0], place
        for at, got in enumerate(heard, 1):
            diagonal, row[at] = row[at], min(row[at] + 1, row[at - 1] + 1, diagonal + (wanted != got))
    return row[-1] / max(1, len(reference))
