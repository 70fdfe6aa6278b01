"""Places in a TOML file: the line of every key and table, which the standard library's parser does not tell."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

Path = tuple[str | int, ...]
"""The names from the top of the file to a key, with the number of each row in a list of tables."""


def lines_of(text: str) -> dict[Path, int]:
    """The line of each key and table of a file that parses, from 1.

    A statement (a header, or a key with its value) ends at the first line at which it parses by itself.
    """
    places: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    table: Path = ()
    begun, statement = 1, ""
    for number, line in enumerate(text.splitlines(), start=1):
        if not statement:
            begun = number
        statement = f"{statement}\n{line}" if statement else line
        with suppress(tomllib.TOMLDecodeError):
            parsed = tomllib.loads(statement)
            header = statement.lstrip().startswith("[")
            statement = ""
            if not parsed:
                continue
            if header:
                table = _header(parsed, counts)
                _note(places, table, begun)
            else:
                for path in _keys(parsed):
                    _note(places, table + path, begun)
    return places


def line_of(places: Mapping[Path, int], path: Path) -> int | None:
    """The line of a key, else of the nearest table around it that is in the file."""
    return next((places[path[:length]] for length in range(len(path), 0, -1) if path[:length] in places), None)


def _note(places: dict[Path, int], path: Path, line: int) -> None:
    for length in range(1, len(path) + 1):
        places.setdefault(path[:length], line)


def _header(parsed: Any, counts: dict[Path, int]) -> Path:
    """The path of the table that a header opens; each header of a list of tables is a new row."""
    path: Path = ()
    while parsed:
        if isinstance(parsed, list):
            counts[path] = counts.get(path, -1) + 1
            path, parsed = (*path, counts[path]), parsed[0]
            continue
        ((name, parsed),) = parsed.items()
        path = (*path, name)
        if isinstance(parsed, Mapping) and path in counts:  # a table within the last row
            path = (*path, counts[path])
    return path


def _keys(parsed: Any, prefix: Path = ()) -> list[Path]:
    """The paths of all keys of a value, those within tables and lists of tables too."""
    if isinstance(parsed, Mapping):
        return [path for name, each in parsed.items() for path in [(*prefix, name), *_keys(each, (*prefix, name))]]
    if isinstance(parsed, list):
        return [path for n, each in enumerate(parsed) for path in [(*prefix, n), *_keys(each, (*prefix, n))]]
    return []
