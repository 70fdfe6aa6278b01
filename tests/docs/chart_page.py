"""The reference of the chart's values, from its schema and its defaults."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.docs.markdown import table

CHART = Path(__file__).parents[2] / "deploy" / "helm"
_HEAD = """# Values of the Helm chart

The chart is `deploy/helm`; [Deploying](../deploying.md#kubernetes) says how to use it. A value that is not here is
refused.

"""


def page() -> str:
    """The page as Markdown."""
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    defaults = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    return _HEAD + table(["value", "type", "default", "meaning"], _rows(schema, defaults, ""))


def _rows(schema: dict[str, Any], default: Any, path: str) -> Iterator[list[str]]:
    for name, value in schema["properties"].items():
        where = f"{path}{name}"
        given = default.get(name) if isinstance(default, dict) else None
        if "properties" in value:
            yield [f"`{where}`", "", "", value["description"]]
            yield from _rows(value, given, f"{where}.")
        elif "properties" in value.get("items", {}):
            yield [f"`{where}`", "list", "", value["description"]]
            yield from _rows(value["items"], given[0] if given else None, f"{where}[].")
        else:
            yield [f"`{where}`", _type(value), f"`{json.dumps(given)}`", value["description"]]


def _type(value: dict[str, Any]) -> str:
    if "enum" in value:
        return ", ".join(f"`{each}`" for each in value["enum"])
    kind = value["type"]
    return kind if isinstance(kind, str) else " or ".join(kind)
