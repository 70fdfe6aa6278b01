"""Files in a message."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from catalog.errors import ConfigurationError
from server.commands.chat import attachments
from server.commands.chat.attachments import content_of, missing_files, read_message


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("remember ```this```")
    (tmp_path / "my cat.PNG").write_bytes(b"\x89PNG")
    (tmp_path / "dog.jpg").write_bytes(b"\xff\xd8")
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "text", "files"),
    [
        ("what is in @notes.txt ?", "what is in notes.txt ?", ["notes.txt"]),
        ('look at "my cat.PNG"', "look at my cat.PNG", ["my cat.PNG"]),
        ("look at my\\ cat.PNG and dog.jpg", "look at my cat.PNG and dog.jpg", ["my cat.PNG", "dog.jpg"]),
        ("look at '@nothing' and gone.png", "look at '@nothing' and gone.png", []),
        ("mail bob@notes.txt", "mail bob@notes.txt", []),
        ("@alice said @app.route", "@alice said @app.route", []),
        ("notes.txt is no picture", "notes.txt is no picture", []),
        ('@"my cat.PNG"', "my cat.PNG", ["my cat.PNG"]),
        ("a\0b.png @\0", "a\0b.png @\0", []),
    ],
)
def test_named_files_and_paths_of_pictures_are_taken_and_nothing_else(
    folder: Path, typed: str, text: str, files: list[str]
) -> None:
    assert read_message(typed) == (text, [Path(name) for name in files])


def test_text_is_put_before_the_question_in_a_fence_that_it_cannot_close(folder: Path) -> None:
    told: list[str] = []
    content = content_of("why?", [Path("notes.txt")], told.append)
    assert content == "notes.txt:\n````\nremember ```this```\n````\n\nwhy?"
    assert told == ["attached notes.txt (19 bytes)"]


def test_pictures_recordings_and_documents_are_parts(folder: Path) -> None:
    for name in ("a.wav", "b.pdf", "c.MOV"):
        (folder / name).write_bytes(b"data")
    files = [Path("my cat.PNG"), Path("a.wav"), Path("b.pdf"), Path("c.MOV")]
    content = content_of("see", files, lambda _: None)
    assert isinstance(content, list)
    assert [part["type"] for part in content] == ["image_url", "input_audio", "file", "video_url", "text"]
    assert content[3]["video_url"]["url"].startswith("data:video/quicktime;base64,")
    encoded = base64.b64encode(b"\x89PNG").decode()
    assert content[0]["image_url"]["url"] == f"data:image/png;base64,{encoded}"


@pytest.mark.parametrize("name", ["gone.txt", "binary.dat", "big.txt", "."])
def test_a_file_that_cannot_be_sent_is_refused_by_name(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attachments, "MAX_TEXT", 100)
    (folder / "binary.dat").write_bytes(b"\x00\x01\xff")
    (folder / "big.txt").write_text("x" * 101)
    with pytest.raises(ConfigurationError, match=f"^{name}"):
        content_of("?", [Path(name)], lambda _: None)


def test_what_looks_like_a_file_and_is_none_is_told() -> None:
    assert missing_files('@notes.txt and @"a b/c.md", but not @ada or a@b.org') == ["notes.txt", "a b/c.md"]
