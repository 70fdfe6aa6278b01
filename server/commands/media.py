"""``embed``, ``speak``, ``transcribe`` and ``draw``: files in, files out, through a running server."""

from __future__ import annotations

import base64
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES, EISDIR, ENOENT, ENOTDIR
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from backends.wire.audio import SpeechRequest, TranscriptionRequest
from backends.wire.images import ImageRequest
from catalog.errors import ConfigurationError
from catalog.store.file_checks import read_regular
from server.commands.client import Config, Key, ServerClient, Url
from server.commands.running import reach
from server.commands.support.completion import complete_model
from server.commands.support.options import check_fields, gives
from server.commands.support.remarks import Remarks
from server.commands.support.statuses import ServerAnswered, UsageError
from server.commands.terminal import counted

app = typer.Typer()
Model = Annotated[
    str, typer.Option("--model", "-m", help="A model, an alias or auto.", autocompletion=complete_model)
]
_MOST_TEXT, _MOST_AUDIO, _MOST_PICTURE = 64 * 2**20, 128 * 2**20, 50 * 2**20
"""Bytes of a file to embed or to speak, of a recording, and of a picture to change."""
_OF_A_FILE = frozenset({400, 413, 422})
"""Statuses of a refusal that may be of one recording; others (a key, a limit) are of all."""
_BATCH = 128
"""Texts of one embeddings request."""
_SPOKEN = 4000
"""Characters of one request of speech; OpenAI's limit is 4096."""
_GIVEN = "text"
"""The source of a text of the command line."""
_JOINED = ("wav", "mp3", "aac", "opus", "pcm")
"""Formats whose pieces can be joined into one file; the frames of all but WAV simply follow each other."""


class UnreadableFile(ConfigurationError):
    """A file that a command names cannot be read."""


@app.command()
@gives(texts="input")
def embed(
    files: Annotated[
        list[str] | None, typer.Argument(help="Files of text, each embedded as a whole; - is standard input.")
    ] = None,
    texts: Annotated[list[str] | None, typer.Option("--text", "-t", help="A text to embed. Repeatable.")] = None,
    lines: Annotated[bool, typer.Option("--lines", help="Embed each line of the files by itself.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File for the vectors: JSON lines, or a NumPy array as *.npy."),
    ] = None,
    dimensions: Annotated[
        int | None, typer.Option(min=1, help="Shorten the vectors, where the model can.")
    ] = None,
    model: Model = "auto",
    url: Url = None,
    key: Key = None,
    config: Config = None,
) -> None:
    """Embed texts: one JSON object a line, with the source, the line's number and the vector."""
    sources = list(_texts(files or ([] if texts else ["-"]), texts or [], by_line=lines))
    if not sources:
        raise UsageError("There is no text to embed.")
    for name, _, text in sources:
        if not text:
            raise UsageError("--text: it must not be empty." if name == _GIVEN else f"{name} is empty.")
    _check_place(output)
    client = reach(url, key, config)
    vectors: list[list[float]] = []
    remarks = Remarks()
    for at in range(0, len(sources), _BATCH):
        part = [text for _, _, text in sources[at : at + _BATCH]]
        body = {"model": model, "input": part} | ({} if dimensions is None else {"dimensions": dimensions})
        response = client.request("POST", "/v1/embeddings", json=body)
        remarks.tell(response)
        document = response.json()
        vectors += [row["embedding"] for row in document["data"]]
        model = document["model"]  # the rest by the same model: vectors of two cannot be compared
    told = f"{counted(len(vectors), 'vector')} of {counted(len(vectors[0]), 'dimension')} by {model}"
    if output is not None and output.suffix == ".npy":
        import numpy

        with _writable(output):
            numpy.save(output, numpy.asarray(vectors, dtype=numpy.float32))
    else:
        rows = (
            {"source": name, **({} if line is None else {"line": line}), "model": model, "embedding": vector}
            for (name, line, _), vector in zip(sources, vectors, strict=True)
        )
        text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
        if output is None:
            sys.stdout.write(text)
        else:
            with _writable(output):
                output.write_text(text, "utf-8")
    typer.echo(told if output is None else f"{told} -> {output}", err=True)


@app.command()
@gives(text="input", file="input", audio_format="response_format", output="response_format")
def speak(
    text: Annotated[str | None, typer.Argument(help="The text. Default: --file, else standard input.")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="A file with the text.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="File for the audio; - is standard output. Default: a new speech.mp3."
        ),
    ] = None,
    audio_format: Annotated[
        str | None, typer.Option("--format", help="mp3, wav, opus, flac, aac or pcm. Default: by the file's name.")
    ] = None,
    voice: Annotated[str | None, typer.Option(help="A voice listed by --voices.")] = None,
    voices: Annotated[
        bool, typer.Option("--voices", help="List the voices of the models, and speak nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --voices: print them as JSON.")] = False,
    speed: Annotated[float, typer.Option(min=0.25, max=4, help="1 is the voice's own.")] = 1.0,
    model: Model = "auto",
    url: Url = None,
    key: Key = None,
    config: Config = None,
) -> None:
    """Speak a text into an audio file. A long text is spoken in parts, by one voice."""
    if voices:
        _list_voices(reach(url, key, config), as_json=as_json)
        return
    if text is not None and file is not None:
        raise UsageError("Give either a text or --file.")
    said = text if text is not None else _text("-" if file is None else str(file))
    if not said.strip():
        raise UsageError("There is no text to speak.")
    suffix = (output.suffix[1:].lower() if output is not None else "") or "mp3"
    form = audio_format or suffix
    body = {"model": model, "voice": voice, "response_format": form, "speed": None if speed == 1 else speed}
    body = {name: value for name, value in body.items() if value is not None}
    check_fields(SpeechRequest, {**body, "input": "a part of the text"})
    target = output or _new_file("speech", form)
    _check_place(target)
    pieces = list(spoken_parts(said, _SPOKEN))
    if len(pieces) > 1 and form not in _JOINED:
        raise UsageError(
            f"A text of {len(said)} characters cannot be spoken as {form}: take one of {', '.join(_JOINED)}."
        )
    client = reach(url, key, config)
    audio = []
    remarks = Remarks()
    by = model
    for piece in pieces:
        response = client.request("POST", "/v1/audio/speech", json={**body, "model": by, "input": piece})
        remarks.tell(response)
        audio.append(response.content)
        by = response.headers.get("x-roundhouse-model", by)  # one voice for the whole text
    _write_bytes(target, joined_wav(audio) if form == "wav" and len(audio) > 1 else b"".join(audio))
    typer.echo(f"{by} spoke {counted(len(said), 'character')} -> {target}", err=True)


@app.command()
@gives(form="response_format", files="file")
def transcribe(
    files: Annotated[list[Path], typer.Argument(help="Recordings, in any usual format.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File for the text. Default: standard output.")
    ] = None,
    form: Annotated[
        str, typer.Option("--format", help="text, srt, vtt, json, verbose_json or diarized_json.")
    ] = "text",
    language: Annotated[str | None, typer.Option(help="The language that is spoken, as en.")] = None,
    translate: Annotated[bool, typer.Option("--translate", help="Translate into English.")] = False,
    model: Model = "auto",
    url: Url = None,
    key: Key = None,
    config: Config = None,
) -> None:
    """Transcribe recordings. Each text of several follows a line with its file's name; JSON is a line each."""
    given = {"model": model, "response_format": form, "language": language}
    fields = {name: value for name, value in given.items() if value is not None}
    check_fields(TranscriptionRequest, {**fields, "file": b"a recording"})
    if len(files) == 1:
        _bytes(files[0], _MOST_AUDIO)  # before a server is started for it
    _check_place(output)
    client = reach(url, key, config)
    path = f"/v1/audio/{'translations' if translate else 'transcriptions'}"
    heard = _Heard(form, several=len(files) > 1)
    try:
        for file in files:
            with heard.of(file):
                upload = (file.name, _bytes(file, _MOST_AUDIO))
                heard.add(file, client.request("POST", path, data=fields, files={"file": upload}))
    finally:
        heard.write(output)
    if heard.failed:
        raise ConfigurationError(f"{heard.failed} of {len(files)} recordings could not be transcribed.")


class _Heard:
    """The texts of recordings. One of several that cannot be transcribed is named, and the others go on."""

    def __init__(self, form: str, *, several: bool) -> None:
        self._form = form
        self._several = several
        self._texts: list[str] = []
        self._remarks = Remarks()
        self.failed = 0

    @contextmanager
    def of(self, file: Path) -> Iterator[None]:
        """Tell an error of this recording, and go on; any other error (no server, no key, an option) is raised."""
        try:
            yield
        except (UnreadableFile, ServerAnswered) as error:
            refused = error.status in _OF_A_FILE and error.param in (None, "file")
            if not (self._several and (refused or isinstance(error, UnreadableFile))):
                raise
            self.failed += 1
            told = error.message
            typer.echo(told if told.startswith(str(file)) else f"{file}: {told}", err=True)

    def add(self, file: Path, response: httpx.Response) -> None:
        """Take a recording's text, and tell the remarks of its answer."""
        self._remarks.tell(response, of=str(file) if self._several else "")
        if not self._several:
            self._texts.append(f"{response.text.rstrip()}\n")
        elif self._form.endswith("json"):
            self._texts.append(f"{json.dumps({'file': str(file), **response.json()}, ensure_ascii=False)}\n")
        else:
            self._texts.append(f"{file}:\n{response.text.rstrip()}\n\n")

    def write(self, output: Path | None) -> None:
        """Write the texts, if there are any."""
        if not self._texts:
            return
        if output is None:
            sys.stdout.write("".join(self._texts))
            return
        with _writable(output):
            output.write_text("".join(self._texts), "utf-8")
        typer.echo(output, err=True)


@app.command()
@gives(count="n", negative="negative_prompt", output="output_format")
def draw(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="File for the picture: *.png, *.jpeg or *.webp. Default: a new picture.png."
        ),
    ] = None,
    size: Annotated[str | None, typer.Option(help="Width and height in pixels, as 1024x1024.")] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=10, help="How many pictures.")] = 1,
    seed: Annotated[
        int | None, typer.Option(help="The same seed draws the same picture, where the model can.")
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option(help="A picture to change; several for models that take them.")
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="A PNG that is transparent where the picture is to change.")
    ] = None,
    negative: Annotated[
        str | None, typer.Option(help="What must not be in the picture, where the model can.")
    ] = None,
    model: Model = "auto",
    url: Url = None,
    key: Key = None,
    config: Config = None,
) -> None:
    """Draw pictures into files, or change pictures; of several, picture.png, picture-2.png and so on."""
    form = (output.suffix[1:].lower() if output is not None else "png").replace("jpg", "jpeg")
    if form not in ("png", "jpeg", "webp"):
        raise UsageError(f"--output: {output} must end in .png, .jpeg or .webp.")
    body = {
        "model": model,
        "prompt": prompt,
        "n": None if count == 1 else count,
        "size": size,
        "seed": seed,
        "negative_prompt": negative,
        "output_format": form,
        "response_format": "b64_json",
    }
    body = {name: value for name, value in body.items() if value is not None}
    check_fields(ImageRequest, body)
    if mask is not None and not image:
        raise UsageError("--mask is for a picture to change: name it with --image.")
    files = [("image[]", (one.name, _bytes(one, _MOST_PICTURE))) for one in image or ()]
    files += [] if mask is None else [("mask", (mask.name, _bytes(mask, _MOST_PICTURE)))]
    _check_place(output or _new_file("picture", form))
    client = reach(url, key, config)
    if files:
        fields = {name: str(value) for name, value in body.items()}
        response = client.request("POST", "/v1/images/edits", data=fields, files=files)
    else:
        response = client.request("POST", "/v1/images/generations", json=body)
    Remarks().tell(response)
    for place, picture in enumerate(response.json()["data"], 1):
        if output is None:
            target = _new_file("picture", form)
        else:
            target = output if place == 1 else output.with_stem(f"{output.stem}-{place}")
        _write_bytes(target, base64.b64decode(picture["b64_json"]))
        typer.echo(f"{response.headers.get('x-roundhouse-model', model)} -> {target}", err=True)


def spoken_parts(text: str, most: int) -> Iterator[str]:
    """A text in parts of at most ``most`` characters, cut after a sentence if there is one, else after a word."""
    rest = text.strip()
    while len(rest) > most:
        head = rest[:most]
        ends = [found.end() for found in re.finditer(r"[.!?。！？][\"'”’)]*\s|\n+", head)]  # noqa: RUF001 - of Chinese
        end = ends[-1] if ends else head.rfind(" ") + 1 or most
        yield rest[:end].strip()
        rest = rest[end:].strip()
    if rest:
        yield rest


def joined_wav(pieces: list[bytes]) -> bytes:
    """Recordings of one format, one after the other. Raises ConfigurationError if their formats differ."""
    import io
    import wave

    made = io.BytesIO()
    with wave.open(made, "wb") as whole:
        form = None
        for piece in pieces:
            with wave.open(io.BytesIO(piece)) as part:
                if form is None:
                    form = part.getparams()[:3]
                    whole.setnchannels(part.getnchannels())
                    whole.setsampwidth(part.getsampwidth())
                    whole.setframerate(part.getframerate())
                elif part.getparams()[:3] != form:
                    raise ConfigurationError("The parts came in different sample rates: take --format mp3.")
                whole.writeframes(part.readframes(part.getnframes()))
    return made.getvalue()


def _list_voices(client: ServerClient, *, as_json: bool) -> None:
    from server.commands import terminal

    listed: list[dict[str, Any]] = client.get("/v1/audio/voices")["data"]
    if as_json:
        typer.echo(json.dumps(listed, indent=1))
        return
    table = terminal.table()
    for column in ("VOICE", "MODEL", "LANGUAGES", ""):
        table.add_column(column, overflow="fold")
    for each in listed:
        own = each["object"] == "audio.voice"
        table.add_row(
            each["id"],
            "" if own else each["model"],
            ", ".join(each.get("languages", ())),
            each["name"] if own else "default" if each["default"] else each["gender"] or "",
        )
    terminal.console().print(table)


def _texts(files: list[str], texts: list[str], *, by_line: bool) -> Iterator[tuple[str, int | None, str]]:
    """Source, line number and text of everything to embed; empty lines are left out."""
    for text in texts:
        yield _GIVEN, None, text
    for name in files:
        content = _text(name)
        if not by_line:
            yield name, None, content
            continue
        for number, line in enumerate(content.splitlines(), 1):
            if line.strip():
                yield name, number, line


def _text(name: str) -> str:
    data = sys.stdin.buffer.read(_MOST_TEXT) if name == "-" else _bytes(Path(name), _MOST_TEXT)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigurationError(f"{'standard input' if name == '-' else name} is not UTF-8 text.") from None


def _bytes(path: Path, most: int) -> bytes:
    try:
        return read_regular(path, limit=most, timeout=60)
    except OSError as error:
        raise UnreadableFile(f"{path} cannot be read: {error.strerror}.") from None


def _new_file(stem: str, suffix: str) -> Path:
    """A name in the working directory that no file has yet."""
    found = (Path(f"{stem}.{suffix}"), *(Path(f"{stem}-{number}.{suffix}") for number in range(2, 10_000)))
    return next(path for path in found if not path.exists())


def _write_bytes(path: Path, content: bytes) -> None:
    if str(path) == "-":
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    with _writable(path):
        path.write_bytes(content)


def _check_place(path: Path | None) -> None:
    """Raises ConfigurationError for a file that surely cannot be written, before anything is paid for."""
    if path is None or str(path) == "-":
        return
    folder = path.parent
    if not folder.is_dir():
        wrong = ENOTDIR if folder.exists() else ENOENT
    elif path.is_dir():
        wrong = EISDIR
    elif not os.access(path if path.exists() else folder, os.W_OK):
        wrong = EACCES
    else:
        return
    raise ConfigurationError(f"{path} cannot be written: {os.strerror(wrong)}.")


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    """Translate an OSError of writing a file into ConfigurationError."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}.") from None
