"""The curated catalogue as a whole: read once, looked up by any name that people give a model."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from pydantic import ValidationError

from catalog.curated.entries import Entry, canonical
from catalog.errors import ConfigurationError
from catalog.files.quantization import quantization_of
from catalog.names.addresses import Address, address_of
from catalog.validation.wording import describe, place


class Named(NamedTuple):
    """An entry, and the quantisation that a name asks for beside it (``qwen3:8b-q8_0``)."""

    entry: Entry
    quantization: str | None = None

    @property
    def command(self) -> str:
        """The command that pulls it."""
        tail = f"-{self.quantization.lower()}" if self.quantization else ""
        return f"roundhouse pull {self.entry.id}{tail}"


class Curated:
    """Entries by id and by every name."""

    def __init__(self, entries: Iterable[Entry], sources: Mapping[str, str] | None = None) -> None:
        self.entries = tuple(entries)
        self.sources = dict(sources or {})
        """The sources that the values of ``verified`` stand for."""
        self._by_id = {entry.id: entry for entry in self.entries}
        self._by_name: dict[str, Entry] = {}
        self._by_repository: dict[str, Entry] = {}
        for entry in self.entries:
            self._by_name.setdefault(canonical(entry.id), entry)
        for entry in self.entries:
            for name in entry.called():
                self._by_name.setdefault(canonical(name), entry)
            for repository in entry.repositories():
                self._by_repository.setdefault(repository.casefold(), entry)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def get(self, entry_id: str) -> Entry | None:
        """The entry with this id."""
        return self._by_id.get(entry_id.casefold())

    def of_repository(self, repository: str) -> Entry | None:
        """The entry one of whose forms is in this repository."""
        return self._by_repository.get(repository.casefold())

    def find(self, name: str) -> Named | None:
        """The entry of a name, in any spelling, perhaps with a quantisation at its end; ``None`` for no entry.

        ``OWNER/REPOSITORY[:QUANTISATION]`` is the entry with that repository; another pattern names files, and no
        entry.
        """
        name = re.sub(r"^(https?://)?(www\.)?ollama\.com/(library/)?", "", name.strip(), flags=re.IGNORECASE)
        address = address_of(name)
        if address is not None:
            return self._of_address(address)
        found = self._by_name.get(canonical(name))
        if found is not None:
            return Named(found)
        quantization = quantization_of(name)
        if quantization is None:
            return None
        bare = re.sub(rf"[-_:.]*{re.escape(quantization)}$", "", name.strip(), flags=re.IGNORECASE)
        found = self._by_name.get(canonical(bare)) if bare else None
        return None if found is None else Named(found, quantization)

    def _of_address(self, address: Address) -> Named | None:
        entry = self.of_repository(address.repository)
        if entry is None or address.revision is not None:
            return None
        if address.pattern is None:
            return Named(entry)
        quantization = quantization_of(address.pattern)
        same = entry.gguf is not None and entry.gguf.repository.casefold() == address.repository.casefold()
        if same and quantization is not None and quantization.casefold() == address.pattern.casefold():
            return Named(entry, quantization)
        return None

    def nearest(self, name: str, count: int = 3) -> tuple[str, ...]:
        """The ids of the entries whose names resemble ``name``, the nearest first."""
        close = difflib.get_close_matches(canonical(name), list(self._by_name), n=count * 3, cutoff=0.6)
        return tuple(dict.fromkeys(self._by_name[match].id for match in close))[:count]


@cache
def curated() -> Curated:
    """The entries of ``catalog/builtin/hub``, read at the first call.

    Raises ConfigurationError that names the file, the entry and the field.
    """
    entries: list[Entry] = []
    sources: dict[str, str] = {}
    folder = files("catalog").joinpath("builtin").joinpath("hub")
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".toml"):
            document = tomllib.loads(file.read_text("utf-8"))
            sources.update(document.get("sources", {}))
            entries += read_entries(document, file.name)
    return Curated(entries, sources)


def read_entries(document: Mapping[str, Any], file: str) -> list[Entry]:
    """Validate the entries of one file; an entry has what its ``template`` has and it has not.

    Raises ConfigurationError.
    """
    templates = document.get("template", {})
    entries = []
    for table in document.get("model", ()):
        filled = {**templates.get(table.get("template", ""), {}), **table}
        filled.pop("template", None)
        try:
            entries.append(Entry.model_validate(filled))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ConfigurationError(
                f"{file}, '{table.get('id', 'without an id')}': {place(first)}: {describe(first, value=True)}"
            ) from error
    return entries
