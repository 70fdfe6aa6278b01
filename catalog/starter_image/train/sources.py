"""Reads the openly licensed emoji: pictures of three sets by code point, English names and keywords.

All come from packages of the npm registry, pinned here and fetched with ``npm pack``. A package is read as an
archive; nothing of it is installed or run.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STYLES: Mapping[str, str] = {
    "fluent": "@iconify-json/fluent-emoji-flat@1.2.6",  # Microsoft, MIT
    "noto": "@iconify-json/noto@1.2.9",  # Google, Apache-2.0
    "twemoji": "@iconify-json/twemoji@1.2.5",  # Twitter and contributors, CC-BY-4.0
}
NAMES = "emojibase-data@17.0.0"  # Miles Johnson, MIT
KEYWORDS = "emojilib@4.0.3"  # Mu-An Chiou, MIT
SHORTCODES = ("iamcal", "github")
"""Vocabularies of the names that people type between colons, such as ``:car:``."""
PEOPLE, FLAGS = 1, 9
"""Groups of emojibase whose pictures are learned in one style alone, because there are so many of them."""
MIRRORED = frozenset({3, 4, 5, 6, 7})
"""Groups whose pictures may be mirrored: animals, food, travel, activities and objects, but no signs."""
_TURNED = ("clock", "keycap", "button", "letter", "calendar", "ABCD", "1234", "musical", "o'clock", "thirty")


@dataclass(frozen=True)
class Emoji:
    """An emoji without skin tones: ``names`` are what people type for it, ``drawings`` SVG documents by style."""

    name: str
    names: tuple[str, ...]
    tags: tuple[str, ...]
    keywords: tuple[str, ...]
    group: int
    mirrored: bool
    drawings: Mapping[str, str]


def archive_path(folder: Path, package: str) -> Path:
    """The file that npm makes of ``package`` (``name@version``)."""
    name, _, version = package.rpartition("@")
    return folder / f"{name.removeprefix('@').replace('/', '-')}-{version}.tgz"


def archive(folder: Path, package: str) -> Path:
    """The archive of ``package`` in ``folder``; fetched with npm if it is not there yet."""
    path = archive_path(folder, package)
    if not path.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise SystemExit(f"{path.name} is not in {folder}, and there is no npm to fetch it with.")
        subprocess.run([npm, "pack", "--silent", package], cwd=folder, check=True)  # noqa: S603 - ours alone
    return path


def read_emojis(folder: Path) -> list[Emoji]:
    """Every emoji that at least one set has drawn, in Unicode's order."""
    sets = {style: _pictures(archive(folder, package)) for style, package in STYLES.items()}
    keywords = _member(archive(folder, KEYWORDS), "dist/emoji-en-US.json")
    typed: dict[str, list[str]] = {}
    for vocabulary in SHORTCODES:
        for hexcode, codes in _member(archive(folder, NAMES), f"en/shortcodes/{vocabulary}.json").items():
            listed = [codes] if isinstance(codes, str) else codes
            typed.setdefault(_code(hexcode), []).extend(
                code.replace("_", " ").replace("-", " ") for code in listed
            )
    words = {_plain(symbol): tuple(found) for symbol, found in keywords.items()}
    emojis = []
    for row in _member(archive(folder, NAMES), "en/data.json"):
        if "group" not in row or row["group"] == 2:
            continue
        code = _code(row["hexcode"])
        drawings = {style: pictures[code] for style, pictures in sets.items() if code in pictures}
        if row["group"] in {PEOPLE, FLAGS}:
            drawings = dict(list(drawings.items())[:1])
        if not drawings:
            continue
        name = row["label"].replace("\u2019", "'").removeprefix("flag: ")
        emojis.append(
            Emoji(
                name=f"flag of {name}" if row["label"].startswith("flag: ") else name,
                names=tuple(dict.fromkeys(typed.get(code, ()))) if row["group"] != FLAGS else (),
                tags=tuple(row.get("tags", ())),
                keywords=tuple(w.replace("_", " ") for w in words.get(_plain(row["emoji"]), ())),
                group=row["group"],
                mirrored=row["group"] in MIRRORED and not any(word in name for word in _TURNED),
                drawings=drawings,
            )
        )
    return emojis


def _pictures(path: Path) -> dict[str, str]:
    """The SVG documents of a set in Iconify's form, by code points."""
    icons = _member(path, "icons.json")
    width, height = icons.get("width", 16), icons.get("height", 16)
    found = {}
    for code, name in _member(path, "chars.json").items():
        icon = icons["icons"].get(name) or icons["icons"].get(icons.get("aliases", {}).get(name, {}).get("parent"))
        if icon is not None:
            box = f"0 0 {icon.get('width', width)} {icon.get('height', height)}"
            found[_code(code)] = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">{icon["body"]}</svg>'
    return found


def _member(path: Path, name: str) -> Any:
    with tarfile.open(path) as package:
        file = package.extractfile(f"package/{name}")
        assert file is not None
        return json.load(file)


def _code(hexcode: str) -> str:
    """Code points without variation selectors, with which the sets write some emojis and some not."""
    return hexcode.upper().replace("-FE0F", "").replace("-FE0E", "")


def _plain(symbol: str) -> str:
    return symbol.replace("\ufe0f", "").replace("\ufe0e", "")
