"""Files of this machine in a message: pictures, videos, audio, PDF and text, as OpenAI's content parts."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path

from catalog.errors import ConfigurationError
from catalog.store.file_checks import read_regular
from catalog.types import Json

PICTURES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".bmp": "image/bmp",
}
"""Media types of pictures, by the suffix of their files."""
_VIDEOS = {
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".mov": "video/quicktime",
    ".webm": "video/webm",
    ".mkv": "video/x-matroska",
    ".avi": "video/x-msvideo",
}
_AUDIO = {".wav": "wav", ".mp3": "mp3"}
MAX_MEDIA, MAX_TEXT = 20 * 2**20, 2**20
"""The largest picture, video, recording or PDF, and the largest text, in bytes."""
_SUFFIXES = "|".join(suffix[1:] for suffix in PICTURES)
_NAMED = re.compile(r"""(?<!\S)@(?:"([^"\n]+)"|'([^'\n]+)'|((?:\\.|[^\s"'\\])+))""")
_PICTURE = re.compile(
    rf"""(?<!\S)(?:"([^"\n]+\.(?:{_SUFFIXES}))"|'([^'\n]+\.(?:{_SUFFIXES}))'|((?:\\.|[^\s"'\\])+\.(?:{_SUFFIXES})))(?!\S)""",
    re.IGNORECASE,
)


def read_message(text: str) -> tuple[str, list[Path]]:
    """A typed message without its files, and the files: each ``@path``, and each path of a picture.

    Terminals write a file that is dropped on them as its path. Paths of no file stay in the text, as they are.
    """
    files: list[Path] = []

    def take(found: re.Match[str]) -> str:
        name = next(group for group in found.groups() if group is not None)
        path = Path(re.sub(r"\\(.)", r"\1", name)).expanduser()
        try:
            if not path.is_file():
                return found[0]
        except (OSError, ValueError):
            return found[0]
        files.append(path)
        return path.name

    for pattern in (_NAMED, _PICTURE):
        text = pattern.sub(take, text)
    return text, files


def missing_files(text: str) -> list[str]:
    """The names written as files, ``@name.txt``, in a message whose files were taken out of it."""
    names = [next(group for group in found.groups() if group is not None) for found in _NAMED.finditer(text)]
    return [name for name in names if "/" in name or "." in name.strip(".")]


def content_of(text: str, files: list[Path], tell: Callable[[str], None]) -> str | list[Json]:
    """The content of a message: a string, or parts where there is more than text among the files.

    ``tell`` gets a line for each file. Raises ConfigurationError for a file that cannot be read or sent.
    """
    parts: list[Json] = []
    for file in files:
        part, size = _part(file)
        parts.append(part)
        tell(f"attached {file} ({size:,} bytes)")
    if all(part["type"] == "text" for part in parts):
        return "\n\n".join([*(part["text"] for part in parts), text])
    return [*parts, {"type": "text", "text": text}]


def _part(path: Path) -> tuple[Json, int]:
    suffix = path.suffix.lower()
    media = suffix in PICTURES or suffix in _VIDEOS or suffix in _AUDIO or suffix == ".pdf"
    most = MAX_MEDIA if media else MAX_TEXT
    try:
        data = read_regular(path.expanduser(), limit=most, timeout=10)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from None
    if media:
        return _media(path, suffix, base64.b64encode(data).decode()), len(data)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ConfigurationError(f"{path} is neither text (UTF-8) nor a picture, a video, a recording or a PDF.")
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))
    return {"type": "text", "text": f"{path.name}:\n{fence}\n{text}\n{fence}"}, len(data)


def _media(path: Path, suffix: str, encoded: str) -> Json:
    if suffix in PICTURES:
        return {"type": "image_url", "image_url": {"url": f"data:{PICTURES[suffix]};base64,{encoded}"}}
    if suffix in _VIDEOS:
        return {"type": "video_url", "video_url": {"url": f"data:{_VIDEOS[suffix]};base64,{encoded}"}}
    if suffix in _AUDIO:
        return {"type": "input_audio", "input_audio": {"data": encoded, "format": _AUDIO[suffix]}}
    return {
        "type": "file",
        "file": {"filename": path.name, "file_data": f"data:application/pdf;base64,{encoded}"},
    }
