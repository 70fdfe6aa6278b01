"""The reference of the settings, from their types."""

from __future__ import annotations

import enum
import inspect
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from catalog.model import Endpoint, Model
from server.configuration.tree import ROWS, SectionOfSettings, Setting, sections, toml, toml_key
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
OF_ROWS = """## Rows: models and endpoints

A row of the file is added to the catalogue. One with the id of a built-in row changes only the fields that it
names. [Providers and keys](../providers.md) and [Models](../models.md) have whole examples.
"""


def rows() -> Iterator[tuple[str, SectionOfSettings]]:
    """The sections of the rows, each with the row's kind; the kinds of a source are sections of their own."""
    for kind, row in (("model", Model), ("endpoint", Endpoint)):
        for section in sections(row):
            yield kind, section
            for setting in section.settings:
                for each in _alternatives(setting.field.annotation):
                    yield kind, next(sections(each, f"{setting.name}."))


def page() -> str:
    """The page as Markdown."""
    parts = [HEAD, *(_section(section) for section in sections()), OF_ROWS]
    parts += [_section(section, row=kind) for kind, section in rows()]
    return "\n".join(part for part in parts if part)


def example(section: SectionOfSettings) -> str:
    """A value of every setting of a section, as it stands in the file."""
    lines = [f"[{section.name}]"] if section.name else []
    for setting in section.settings:
        value = "/var/lib/roundhouse" if setting.name == "data_dir" else setting.example
        if setting.in_file and setting.name not in ROWS and value not in (None, [], {}, ""):
            lines.append(f"{toml_key(setting.key)} = {toml(value)}")
    return "\n".join(lines) + "\n"


def _section(section: SectionOfSettings, row: str = "") -> str:
    if not section.settings:
        return ""
    described = [
        (f"`{setting.key}`", kind(setting.field), _default(setting), setting.field.description or "")
        for setting in section.settings
    ]
    parts = [f"{'###' if row else '##'} {_title(section, row)}\n", f"{_words(section)}\n"]
    parts.append(table(("setting", "type", "default", "meaning"), described))
    if not row:
        parts.append(f"```toml\n{example(section)}```\n")
    return "\n".join(parts)


def _words(section: SectionOfSettings) -> str:
    """The type's own description, and the contents of the tables in it."""
    parts = [prose(inspect.getdoc(section.type) or "")]
    inner = dict.fromkeys(each for setting in section.settings for each in tables(setting.field.annotation))
    for each in inner:
        fields = (f"`{name}` ({field.description})" for name, field in each.model_fields.items())
        parts.append(f"Tables here have {_join(fields)}.")
    return "\n\n".join(parts)


def _title(section: SectionOfSettings, row: str) -> str:
    if not row:
        return f"[{section.name}]" if section.name else "At the top of the file"
    if not section.name:
        return f"[[{row}]]"
    own = section.type.model_fields.get("kind")
    said = f"[{row}.{section.name}]"
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
    if default in (None, [], {}, ""):
        return ""
    return "below" if isinstance(default, dict) and len(toml(default)) > 60 else f"`{toml(default)}`"


def kind(field: FieldInfo) -> str:
    """A field's type and bounds in words."""
    said = _kind(field.annotation).replace("list of table of any", "rows")
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


def _alternatives(annotation: Any) -> list[type[BaseModel]]:
    """The sections of a union of several, which is one setting."""
    if get_origin(annotation) not in (Union, types.UnionType):
        return []
    found = [each for each in get_args(annotation) if isinstance(each, type) and issubclass(each, BaseModel)]
    return found if len(found) > 1 else []


def _is_table(model: type[BaseModel]) -> bool:
    """Whether a model's fields all have no default."""
    return all(field.is_required() for field in model.model_fields.values())
