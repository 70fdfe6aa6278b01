"""Writes the schemas of Anthropic's toolsets from the types of its SDK.

``python -m tests.server.wires.toolset_schemas`` writes the file; ``test_client_tools`` notices when it
differs from the SDK. Each member of a toolset has a name, a description and the schema of its input.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import orjson
from anthropic.types.beta.beta_browser_tool_use_block import BetaBrowserToolUseBlock
from anthropic.types.beta.beta_computer_tool_use_block import BetaComputerToolUseBlock

from catalog.types import Json
from server.wires.messages import client_tools

FAMILIES: dict[str, Any] = {"browser": BetaBrowserToolUseBlock, "computer": BetaComputerToolUseBlock}
FILE = Path(client_tools.__file__).with_name("toolsets.json")


def toolsets() -> Json:
    """The members of each toolset by its name, with ``description`` and ``parameters``."""
    return {family: dict(_members(union)) for family, union in FAMILIES.items()}


def written() -> bytes:
    """The file's content."""
    return orjson.dumps(toolsets(), option=orjson.OPT_INDENT_2) + b"\n"


def _members(union: Any) -> Iterator[tuple[str, Json]]:
    for block in get_args(get_args(union)[0]):
        (name,) = get_args(block.model_fields["name"].annotation)
        schema = _schema(block.model_fields["input"].annotation)
        yield name, {"description": schema.pop("description"), "parameters": schema}


def _schema(model: Any) -> Json:
    schema = model.model_json_schema()
    told = _told(model)
    for name, described in told.items():
        schema["properties"][name].setdefault("description", described)
    made: Json = _plain(schema, schema.get("$defs", {}))
    return made


def _told(model: Any) -> Json:
    """The descriptions of a type's fields, which the SDK writes below each."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(body, ast.ClassDef)
    told = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if not isinstance(field, ast.AnnAssign) or not isinstance(below, ast.Expr):
            continue
        assert isinstance(field.target, ast.Name)
        name = model.model_fields[field.target.id].alias or field.target.id
        told[name] = _line(ast.literal_eval(below.value))
    return told


def _plain(value: Any, definitions: Json) -> Any:
    """A schema without references, titles and nulls: a field that may be null may be left out."""
    if isinstance(value, list):
        return [_plain(each, definitions) for each in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        target = definitions[value["$ref"].rpartition("/")[2]]
        return _plain({**target, **{name: each for name, each in value.items() if name != "$ref"}}, definitions)
    made: Json = {}
    for name, each in value.items():
        if name in ("title", "$defs", "discriminator") or (name, each) in (
            ("default", None), ("additionalProperties", True),
        ):  # fmt: skip
            continue
        if name == "properties":
            made[name] = {field: _plain(inner, definitions) for field, inner in each.items()}
        elif name == "description":
            made[name] = _line(each)
        else:
            made[name] = _plain(each, definitions)
    choices = [choice for choice in made.get("anyOf", ()) if choice != {"type": "null"}]
    if "anyOf" in made and len(choices) == 1:
        del made["anyOf"]
        return {**choices[0], **made}
    return {**made, "anyOf": choices} if choices else made


def _line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


if __name__ == "__main__":
    FILE.write_bytes(written())
