"""Texts in parts, audio joined again, and errors in the words of the command line."""

from __future__ import annotations

import io
import json
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from catalog.errors import ConfigurationError, RoundhouseError
from server.cli import app
from server.commands import media
from server.commands.client import ServerClient, _error
from server.commands.media import _new_file, joined_wav, spoken_parts
from server.commands.support.statuses import ExitStatus, status_of


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One. Two.", ["One. Two."]),
        ("One sentence. Another one.", ["One sentence.", "Another one."]),
        ("no end of a sentence here at all", ["no end of a", "sentence here at", "all"]),
        ("x" * 40, ["x" * 18, "x" * 18, "xxxx"]),
        ("", []),
        ("first line\nsecond line", ["first line", "second line"]),
    ],
)
def test_a_long_text_is_cut_after_sentences_else_after_words(text: str, parts: list[str]) -> None:
    assert list(spoken_parts(text, 18)) == parts


def recording(frames: bytes, rate: int = 24_000) -> bytes:
    made = io.BytesIO()
    with wave.open(made, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(frames)
    return made.getvalue()


def test_recordings_are_joined_into_one_and_not_if_their_rates_differ() -> None:
    with wave.open(io.BytesIO(joined_wav([recording(b"\1\0" * 3), recording(b"\2\0" * 2)]))) as whole:
        assert whole.readframes(10) == b"\1\0" * 3 + b"\2\0" * 2
    with pytest.raises(ConfigurationError, match="sample rates"):
        joined_wav([recording(b"\1\0"), recording(b"\1\0", 16_000)])


def test_a_file_without_a_name_overwrites_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert _new_file("speech", "mp3") == Path("speech.mp3")
    (tmp_path / "speech.mp3").touch()
    (tmp_path / "speech-2.mp3").touch()
    assert _new_file("speech", "mp3") == Path("speech-3.mp3")


def refusal(*command: str) -> tuple[str, ExitStatus]:
    """The message and the exit status of a command that fails."""
    ended = CliRunner().invoke(app, list(command)).exception
    assert isinstance(ended, RoundhouseError), ended
    return ended.message, status_of(ended)


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that looks for a server, or starts one, fails."""

    def unwanted(*_: object) -> None:
        raise AssertionError("nothing is sent")

    monkeypatch.setattr(media, "reach", unwanted)


@pytest.mark.usefixtures("no_server")
@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["embed", "--text", ""], "--text: it must not be empty."),
        (["embed", "-t", "a", "-t", ""], "--text: it must not be empty."),
        (["speak", "hello", "--format", "ogg"], "--format: it must be 'mp3'"),
        (["speak", "hello", "--output", "speech.ogg"], "--output: it must be 'mp3'"),
        (["speak", "hello", "--file", "a.txt"], "Give either a text or --file."),
        (["speak", " "], "There is no text to speak."),
        (["transcribe", "a.wav", "--format", "docx"], "--format: it must be 'json'"),
        (["transcribe", "a.wav", "--language", "no language"], "--language: "),
        (["draw", "a house", "--size", "large"], "--size: it must be 'auto' or WIDTHxHEIGHT"),
        (["draw", "", "--size", "64x64"], "PROMPT: "),
        (["draw", "a hat", "--mask", "m.png"], "--mask is for a picture to change"),
        (["draw", "a house", "--output", "house.bmp"], "--output: house.bmp must end in"),
    ],
)
def test_a_wrong_option_is_named_as_it_is_typed_before_anything_is_sent(command: list[str], said: str) -> None:
    message, status = refusal(*command)
    assert message.startswith(said)
    assert status is ExitStatus.USAGE


@pytest.mark.usefixtures("no_server")
def test_a_wrong_value_is_repeated_to_the_person_who_typed_it() -> None:
    assert "(it is 'ogg')" in refusal("speak", "hello", "--format", "ogg")[0]


@pytest.mark.usefixtures("no_server")
def test_an_empty_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    assert refusal("embed", str(tmp_path / "empty.txt"))[0] == f"{tmp_path / 'empty.txt'} is empty."


def answering(monkeypatch: pytest.MonkeyPatch, status: int, param: str | None, message: str) -> None:
    """Let every request of a command be refused like this."""

    def refuse(*_: object, **__: object) -> Any:
        error = {"error": {"message": message, "param": param}}
        raise _error(httpx.Response(status, json=error))

    monkeypatch.setattr(media, "reach", lambda *_: ServerClient("http://127.0.0.1:9", None, None))
    for name in ("request", "post", "get"):
        monkeypatch.setattr(ServerClient, name, refuse)


@pytest.mark.parametrize(
    ("command", "param", "said", "expected"),
    [
        (
            "draw x --size 640x640",
            "size",
            "'size': it must be a multiple of 512.",
            "--size: it must be a multiple",
        ),
        ("draw x -n 9", "n", "This model draws one picture.", "--count: This model draws one picture."),
        ("speak x --voice robin", "voice", "'voice': there is no 'robin'.", "--voice: there is no 'robin'."),
        ("embed -t x --dimensions 9", "dimensions", "'dimensions': too many.", "--dimensions: too many."),
        ("load m --context 999999", "context", "'context': 4096 at most.", "--context: 4096 at most."),
        ("load m -o batch=1", "options.batch", "'options.batch': 32 at least.", "--option: 32 at least."),
        ("usage --start x", "start", "'start': a day.", "--start: a day."),
        ("register m x --capability fly", "capabilities.0", "'capabilities.0': no.", "--capability: no."),
        ("register m e/x --url-of u", "endpoint.base_url", "'endpoint.base_url': no.", "--url-of: no."),
        ("route x --workload no", "routing.workload", "'routing.workload': no.", "--workload: no."),
    ],
)
def test_a_servers_error_about_a_field_names_the_option_that_gave_it(
    monkeypatch: pytest.MonkeyPatch, command: str, param: str, said: str, expected: str
) -> None:
    answering(monkeypatch, 400, param, said)
    message, status = refusal(*command.split())
    assert message.startswith(expected)
    assert status is ExitStatus.USAGE


class Answers:
    """A server of the commands' own client: notes each request, and answers by ``reply``."""

    def __init__(self, reply: Callable[[str, dict[str, Any]], httpx.Response]) -> None:
        self.asked: list[dict[str, Any]] = []
        self._reply = reply

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        self.asked.append(arguments)
        response = self._reply(path, arguments)
        if response.is_error:
            raise _error(response)
        return response


def served(monkeypatch: pytest.MonkeyPatch, reply: Callable[[str, dict[str, Any]], httpx.Response]) -> Answers:
    server = Answers(reply)
    monkeypatch.setattr(media, "reach", lambda *_: server)
    return server


REMARKS = {"x-roundhouse-dropped": "negative_prompt, speed", "x-roundhouse-notice": "It ends on Friday."}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {"json": {"model": "m", "data": [{"embedding": [0.5]}]}},
    "/v1/audio/speech": {"content": b"sound"},
    "/v1/audio/transcriptions": {"text": "words"},
    "/v1/audio/translations": {"text": "words"},
    "/v1/images/generations": {"json": {"data": [{"b64_json": "cGljdHVyZQ=="}]}},
    "/v1/images/edits": {"json": {"data": [{"b64_json": "cGljdHVyZQ=="}]}},
}


@pytest.mark.parametrize(
    "command",
    [
        "embed --text hello",
        "speak --file long.txt -o speech.mp3",
        "transcribe a.wav",
        "transcribe --translate a.wav",
        "draw house -o house.png",
        "draw house --image a.wav -o house.png",
    ],
)
def test_a_file_command_says_on_standard_error_what_the_server_dropped_and_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.wav").write_bytes(recording(b"\1\0"))
    Path("long.txt").write_text("A sentence of five words. " * 400)  # spoken in several parts
    served(monkeypatch, lambda path, _: httpx.Response(200, headers=REMARKS, **BODIES[path]))
    done = CliRunner().invoke(app, command.split(), catch_exceptions=False)
    assert done.exit_code == 0
    lines = done.stderr.splitlines()
    assert lines.count("dropped: negative_prompt, speed (the model or its server does not know it)") == 1
    assert lines.count("notice: It ends on Friday.") == 1
    assert "dropped" not in done.stdout


def test_one_of_a_kind_is_told_in_the_singular(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    served(monkeypatch, lambda path, _: httpx.Response(200, **BODIES[path]))
    assert "1 vector of 1 dimension by m\n" in CliRunner().invoke(app, ["embed", "--text", "a"]).stderr
    assert "spoke 1 character -> " in CliRunner().invoke(app, ["speak", "a"]).stderr
    assert "spoke 2 characters -> " in CliRunner().invoke(app, ["speak", "ab"]).stderr


def hears_all_but_b(path: str, asked: dict[str, Any]) -> httpx.Response:
    del path
    name, content = asked["files"]["file"]
    if name == "b.wav":
        error = {"message": "The file is not audio that can be read.", "param": "file"}
        return httpx.Response(400, json={"error": error})
    if name == "locked.wav":
        return httpx.Response(401, json={"error": {"message": "No key.", "param": None}})
    words = f"words of {name}, {len(content)} bytes"
    form = asked["data"]["response_format"]
    return httpx.Response(200, json={"text": words}) if form == "json" else httpx.Response(200, text=words)


@pytest.fixture
def recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c", "locked"):
        Path(f"{name}.wav").write_bytes(b"sound")
    served(monkeypatch, hears_all_but_b)


@pytest.mark.usefixtures("recordings")
@pytest.mark.parametrize("bad", ["b.wav", "absent.wav"])
def test_of_several_recordings_the_bad_one_is_named_and_the_others_are_transcribed(bad: str) -> None:
    done = CliRunner().invoke(app, ["transcribe", "a.wav", bad, "c.wav"])
    assert done.stdout == "a.wav:\nwords of a.wav, 5 bytes\n\nc.wav:\nwords of c.wav, 5 bytes\n\n"
    (told,) = done.stderr.splitlines()
    assert told.startswith(bad)
    assert isinstance(done.exception, ConfigurationError)
    assert done.exception.message == "1 of 3 recordings could not be transcribed."
    assert status_of(done.exception) is ExitStatus.FAILED


@pytest.mark.usefixtures("recordings")
def test_the_good_recordings_are_in_the_file_also_when_the_rest_is_refused() -> None:
    done = CliRunner().invoke(
        app, ["transcribe", "a.wav", "locked.wav", "c.wav", "--format", "json", "-o", "texts"]
    )
    assert isinstance(done.exception, RoundhouseError)
    assert status_of(done.exception) is ExitStatus.REFUSED, "no key is an error of all files"
    assert [json.loads(line) for line in Path("texts").read_text().splitlines()] == [
        {"file": "a.wav", "text": "words of a.wav, 5 bytes"}
    ]


@pytest.mark.usefixtures("recordings")
def test_no_file_is_written_where_no_recording_could_be_transcribed() -> None:
    assert refusal("transcribe", "b.wav", "absent.wav", "-o", "texts")[0].startswith("2 of 2")
    assert not Path("texts").exists()
    assert refusal("transcribe", "b.wav") == ("FILES: The file is not audio that can be read.", ExitStatus.USAGE)


def test_a_command_sends_no_default_that_a_model_might_have_to_drop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    server = served(monkeypatch, lambda path, _: httpx.Response(200, **BODIES[path]))
    for command in (["speak", "hello"], ["draw", "a house"]):
        assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    speech, picture = (asked["json"] for asked in server.asked)
    assert "speed" not in speech
    assert not picture.keys() & {"n", "size", "seed", "negative_prompt"}


@pytest.mark.parametrize(
    ("status", "param", "expected"),
    [
        (400, None, ExitStatus.FAILED),
        (400, "size", ExitStatus.FAILED),  # which was not given
        (404, "prompt", ExitStatus.NOT_FOUND),
        (503, "prompt", ExitStatus.LATER),
    ],
)
def test_any_other_error_of_a_server_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch, status: int, param: str | None, expected: ExitStatus
) -> None:
    answering(monkeypatch, status, param, "No.")
    assert refusal("draw", "a house") == ("No.", expected)


@pytest.mark.parametrize(
    ("place", "reason"),
    [("gone/x.png", "No such file"), ("a.wav/x.png", "Not a directory"), ("d.png", "Is a dir")],
)
@pytest.mark.parametrize("command", ["draw house", "speak hello", "transcribe a.wav", "embed --text hello"])
def test_a_file_that_cannot_be_written_is_told_before_anything_is_paid_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, place: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.wav").write_bytes(recording(b"\1\0"))
    Path("d.png").mkdir()
    server = served(monkeypatch, lambda path, _: httpx.Response(200, **BODIES[path]))
    form = ["--format", "mp3"] if command.startswith("speak") else []
    message, _ = refusal(*command.split(), *form, "-o", place)
    assert f"{place} cannot be written: {reason}" in message
    assert server.asked == []
