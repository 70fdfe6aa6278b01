"""The reference of the settings, from their types."""

from __future__ import annotations

import enum
import inspect
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from catalog.model import Endpoint, Model
from server.settings import Settings
from tests.docs.markdown import prose, table

HEAD = """# Settings

Settings come from `roundhouse.toml`, then from the environment, then from the flags of `roundhouse serve`: a later
source wins. The file is the one that `--config` or `ROUNDHOUSE_CONFIG` names, else `roundhouse.toml` in the folder
where the server starts. A variable is named `ROUNDHOUSE_`, section and setting, with two underscores between
levels: `server.limits.body_bytes` is `ROUNDHOUSE_SERVER__LIMITS__BODY_BYTES`. Its lists and tables are JSON.

Without settings the starter models are served on 127.0.0.1:8000. An unknown name or a wrong value is refused at
the start, with its place and the remedy. The examples show a value of each setting, not advice. Keys are never in
the file, which names the variables that hold them.

`make reference` writes this page from the types.
"""
ROWS = """## Rows: models and endpoints

A row of the file is added to the catalogue. One with the id of a built-in row changes only the fields that it
names. [Providers and keys](../providers.md) and [Models](../models.md) have whole examples.
"""
_SECRET = ("api_keys", "admin_keys", "metrics_keys")


class Setting(NamedTuple):
    """One setting: its dotted name, and its field."""

    name: str
    field: FieldInfo

    @property
    def key(self) -> str:
        """The name within its section."""
        return self.name.rpartition(".")[2]

    @property
    def default(self) -> Any:
        """The default as plain values; ``None`` where there is none."""
        return None if self.field.is_required() else plain(self.field.get_default(call_default_factory=True))

    @property
    def example(self) -> Any:
        """A value that may stand in the file: the field's first example, else its default."""
        return plain(self.field.examples[0]) if self.field.examples else self.default


class SettingsSection(NamedTuple):
    """A section: its dotted name (empty for the top), its type, and its own settings."""

    name: str
    model: type[BaseModel]
    settings: tuple[Setting, ...]

    @property
    def words(self) -> str:
        """The words above the settings, in Markdown: the type's, and those of the tables in it."""
        parts = [prose(inspect.getdoc(self.model) or "")]
        inner = dict.fromkeys(each for setting in self.settings for each in tables(setting.field.annotation))
        for each in inner:
            fields = (f"`{name}` ({field.description})" for name, field in each.model_fields.items())
            parts.append(f"Tables here have {_join(fields)}.")
        return "\n\n".join(parts)


def sections(model: type[BaseModel], prefix: str = "") -> Iterator[SettingsSection]:
    """The sections of a settings model: its own settings, then those of the models nested in it.

    A nested model whose fields all have no default, such as three weights, is a table and one setting.
    """
    own: list[Setting] = []
    nested: list[tuple[str, type[BaseModel]]] = []
    for name, field in model.model_fields.items():
        inner = [each for each in _models(field.annotation) if not _is_table(each)]
        nested += [(f"{prefix}{name}", each) for each in inner]
        if len(inner) != 1:
            own.append(Setting(f"{prefix}{name}", field))
    yield SettingsSection(prefix.removesuffix("."), model, tuple(own))
    for name, each in nested:
        yield from sections(each, f"{name}.")


def page() -> str:
    """The page as Markdown."""
    parts = [HEAD]
    parts += [_section(section) for section in sections(Settings)]
    parts.append(ROWS)
    for kind, model in (("model", Model), ("endpoint", Endpoint)):
        parts += [_section(section, row=kind) for section in sections(model)]
    return "\n".join(parts)


def toml(section: SettingsSection) -> str:
    """An example of every setting of a section, as it stands in the file."""
    lines = [f"[{section.name}]"] if section.name else []
    for setting in section.settings:
        if setting.key in _SECRET or setting.example in (None, [], {}):
            continue
        lines.append(f"{setting.key} = {value(setting.example)}")
    return "\n".join(lines) + "\n"


def value(item: Any) -> str:
    """A value in TOML."""
    match item:
        case bool():
            return str(item).lower()
        case Mapping():
            return "{ " + ", ".join(f"{_key(name)} = {value(each)}" for name, each in item.items()) + " }"
        case list():
            return f"[{', '.join(map(value, item))}]"
        case str():
            return '"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"'
        case int():
            return f"{item:_}" if item >= 100_000 else str(item)
    return str(item)


def plain(item: Any) -> Any:
    """A default or an example in TOML's own types: sets as sorted lists, models as tables."""
    match item:
        case BaseModel():
            return {name: plain(getattr(item, name)) for name in type(item).model_fields}
        case enum.Enum():
            return item.value
        case Mapping():
            return {str(plain(name)): plain(each) for name, each in item.items()}
        case set() | frozenset():
            return sorted(map(plain, item))
        case list() | tuple():
            return [plain(each) for each in item]
        case Path():
            return str(item)
        case SecretStr():
            return item.get_secret_value()
    return item


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else f'"{name}"'


def _section(section: SettingsSection, row: str = "") -> str:
    if not section.settings:
        return ""
    parts = [f"{'###' if row else '##'} {_title(section, row)}\n", f"{section.words}\n"]
    rows = [
        (f"`{setting.key}`", kind(setting.field), _default(setting), setting.field.description or "")
        for setting in section.settings
    ]
    parts.append(table(("setting", "type", "default", "meaning"), rows))
    if not row:
        parts.append(f"```toml\n{toml(section)}```\n")
    return "\n".join(parts)


def _title(section: SettingsSection, row: str) -> str:
    if not row:
        return f"[{section.name}]" if section.name else "At the top of the file"
    if not section.name:
        return f"[[{row}]]"
    said = f"[{row}.{section.name}]"
    own = section.model.model_fields.get("kind")
    return said if own is None else f'{said} of kind "{own.default}"'


def _join(texts: Iterable[str]) -> str:
    *others, last = texts
    return f"{', '.join(others)} and {last}" if others else last


def _default(setting: Setting) -> str:
    if setting.field.is_required():
        return "needed"
    if setting.name == "data_dir":
        return "of the system"
    default = setting.default
    if default is None or default in ([], {}, ""):
        return ""
    if isinstance(default, dict) and len(value(default)) > 60:
        return "below"
    return f"`{value(default)}`"


def kind(field: FieldInfo) -> str:
    """A field's type and bounds in words."""
    said = _kind(field.annotation)
    bounds = [text for each in _flat(field.metadata) if (text := _bound(each))]
    return ", ".join([said, *dict.fromkeys(bounds)])


def _flat(metadata: list[Any]) -> Iterator[Any]:
    for each in metadata:
        yield from _flat(each.metadata) if isinstance(each, FieldInfo) else [each]


def _bound(each: Any) -> str:
    match each:
        case annotated_types.Ge(ge=0):
            return ""
        case annotated_types.Ge(ge=least):
            return f"≥ {least}"
        case annotated_types.Gt(gt=0):
            return "> 0"
        case annotated_types.Gt(gt=least):
            return f"> {least}"
        case annotated_types.Le(le=most):
            return f"≤ {most}"
        case annotated_types.Lt(lt=most):
            return f"< {most}"
    return ""


_WORDS = {int: "integer", float: "number", str: "text", bool: "true or false", SecretStr: "secret", Any: "any"}


def _kind(annotation: Any) -> str:
    if hasattr(annotation, "__value__"):
        annotation = annotation.__value__
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_kind(each) for each in arguments if each is not type(None)))
    if origin is Literal:
        return " or ".join(f"`{each}`" for each in arguments)
    if origin is not None and issubclass(origin, Mapping):
        return f"table of {_kind(arguments[1])}"
    if origin is not None:
        return f"list of {_kind(arguments[0])}"
    if annotation in _WORDS:
        return _WORDS[annotation]
    if isinstance(annotation, type):
        if issubclass(annotation, enum.Enum):
            return "text" if len(annotation) > 6 else " or ".join(f"`{each.value}`" for each in annotation)
        if issubclass(annotation, Path):
            return "path"
        if issubclass(annotation, BaseModel):
            return f"table of {', '.join(annotation.model_fields)}" if _is_table(annotation) else "table"
    return getattr(annotation, "__name__", str(annotation))


def tables(annotation: Any) -> list[type[BaseModel]]:
    """The models within an annotation that are tables of one setting."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation] if _is_table(annotation) else []
    return [each for part in get_args(annotation) for each in tables(part)]


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The nested sections of an annotation: one, or those of a union; none within a list or table."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, types.UnionType):
        return [each for part in get_args(annotation) for each in _models(part)]
    return []


def _is_table(model: type[BaseModel]) -> bool:
    """Whether a model's fields all have no default."""
    return all(field.is_required() for field in model.model_fields.values())
