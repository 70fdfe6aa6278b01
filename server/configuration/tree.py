"""The settings as a tree of sections, read from their types, and their values in TOML."""

from __future__ import annotations

import enum
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Union, get_args, get_origin

from pydantic import AliasChoices, BaseModel, SecretStr
from pydantic.fields import FieldInfo

from server.settings import KEY_SETTINGS, Settings

ROWS = ("model", "endpoint")
"""Settings that are tables of rows."""


class Setting(NamedTuple):
    """One setting by its dotted name; ``field`` is the one in its section's type."""

    name: str
    field: FieldInfo

    @property
    def key(self) -> str:
        """The name within its section."""
        return self.name.rpartition(".")[2]

    @property
    def keys(self) -> tuple[str, ...]:
        """The names that the file may call it by, in its section."""
        alias = self.field.validation_alias
        others = [str(each) for each in alias.choices] if isinstance(alias, AliasChoices) else []
        return tuple(dict.fromkeys((self.key, *others)))

    @property
    def default(self) -> Any:
        """The default as TOML has it; ``None`` without one."""
        return None if self.field.is_required() else plain(self.field.get_default(call_default_factory=True))

    @property
    def example(self) -> Any:
        """A value that the file may have: the default, else the first example of the type."""
        default = self.default
        if default in (None, [], {}, "") and self.field.examples:
            return plain(self.field.examples[0])
        return default

    @property
    def in_file(self) -> bool:
        """Whether the settings file may have it: secrets are in the environment alone."""
        return self.name not in KEY_SETTINGS


class SectionOfSettings(NamedTuple):
    """A table of the settings file by its dotted name, empty for the top, and the settings right in it."""

    name: str
    type: type[BaseModel]
    settings: tuple[Setting, ...]


def sections(section: type[BaseModel] = Settings, prefix: str = "") -> Iterator[SectionOfSettings]:
    """Every section of the settings, each before those within it."""
    fields = section.model_fields
    inner = {name: kind for name, field in fields.items() if (kind := _section(field.annotation)) is not None}
    own = (Setting(prefix + name, field) for name, field in fields.items() if name not in inner)
    yield SectionOfSettings(prefix.removesuffix("."), section, tuple(own))
    for name, kind in inner.items():
        yield from sections(kind, f"{prefix}{name}.")


def every_setting() -> Iterator[Setting]:
    """Every setting, section by section."""
    for section in sections():
        yield from section.settings


def plain(value: Any) -> Any:
    """A value in TOML's types: sets as sorted lists, models as tables without what is not set."""
    match value:
        case BaseModel():
            fields = {name: plain(getattr(value, name)) for name in type(value).model_fields}
            return {name: each for name, each in fields.items() if each is not None}
        case enum.Enum():
            return value.value
        case Mapping():
            return {str(plain(name)): plain(each) for name, each in value.items()}
        case set() | frozenset():
            return sorted(map(plain, value))
        case list() | tuple():
            return [plain(each) for each in value]
        case Path():
            return str(value)
        case SecretStr():
            return value.get_secret_value()
    return value


def toml(value: Any) -> str:
    """A value of TOML's types as the file has it, in one line. ``None`` is empty: TOML has no null."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case Mapping():
            return "{ " + ", ".join(f"{toml_key(name)} = {toml(each)}" for name, each in value.items()) + " }"
        case list():
            return f"[{', '.join(map(toml, value))}]"
        case str():
            return _quoted(value)
        case int():
            return f"{value:_}" if value >= 100_000 else str(value)
    return str(value)


def toml_key(name: str) -> str:
    """A name of a table's member, quoted where TOML asks for it."""
    bare = name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    return name if bare else _quoted(name)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04X}" for c in escaped) + '"'


def _section(annotation: Any) -> type[BaseModel] | None:
    """The section that an annotation means; a model of needed fields alone, such as three weights, is a value."""
    if get_origin(annotation) in (Union, types.UnionType):
        found = [kind for each in get_args(annotation) if (kind := _section(each)) is not None]
        return found[0] if len(found) == 1 else None
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return None
    return None if all(field.is_required() for field in annotation.model_fields.values()) else annotation
