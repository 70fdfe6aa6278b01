"""The JSON Schema of the settings file, for editors: completion, meanings and errors while typing."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from catalog.model import Endpoint, Model
from catalog.types import Json
from server.settings import KEY_SETTINGS, Settings

SCHEMA_FILE = "roundhouse.schema.json"
"""The name under which the sample settings file refers to the schema."""
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_OURS = frozenset({"origin"})
"""Fields of a row that no file sets."""


def file_schema() -> Json:
    """The schema of ``roundhouse.toml``: without keys, which the file may not have, and with the fields of rows.

    A row may leave out every field but its id, because it may change a built-in one.
    """
    found, schema = models_json_schema([(Settings, "validation"), (Model, "validation"), (Endpoint, "validation")])
    definitions: Json = schema["$defs"]
    references = {kind: its["$ref"].rpartition("/")[2] for (kind, _), its in found.items()}
    for kind in (Model, Endpoint):
        row = definitions[references[kind]]
        row["required"] = ["id"]
        row["properties"] = {name: its for name, its in row["properties"].items() if name not in _OURS}
    file = definitions.pop(references[Settings])
    for section in (file, *definitions.values()):
        for each in section.get("properties", {}).values():
            if "$ref" in each:  # the defaults of a section are those of its settings
                each.pop("default", None)
    properties = {name: its for name, its in file["properties"].items() if name not in KEY_SETTINGS}
    for name, kind in (("model", Model), ("endpoint", Endpoint)):
        rows: dict[str, Any] = {"type": "array", "items": {"$ref": f"#/$defs/{references[kind]}"}}
        properties[name] = {"description": properties[name].get("description", ""), **rows}
    return {
        "$schema": _DIALECT,
        "title": "Roundhouse's settings (roundhouse.toml)",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "$defs": definitions,
    }
