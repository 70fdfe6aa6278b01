"""Anthropic's tools that the client runs, as functions for any model.

The shell, the editor, the memory and the computer are one function each; a toolset is a function for each member.
Their types have dates, of which a newer one is taken like the newest known. Sources: Anthropic's pages on these
tools; ``toolsets.json`` is made from the types of its SDK (``tests/server/wires/toolset_schemas.py``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from catalog.types import Json

BETWEEN = "__"
"""Stands between the name of a toolset and that of its member in the name of a function."""

_DATED = re.compile(r"(\w+?)_(\d{8})")
_TEXT: Json = {"type": "string"}
_NUMBER: Json = {"type": "integer"}
_POINT: Json = {
    "type": "array",
    "items": _NUMBER,
    "minItems": 2,
    "maxItems": 2,
    "description": "[x, y] in pixels.",
}
_RANGE: Json = {
    "type": "array",
    "items": _NUMBER,
    "minItems": 2,
    "maxItems": 2,
    "description": "view: the first and the last line to show, from 1; -1 is the end of the file.",
}
_EDITING: Json = {
    "file_text": {**_TEXT, "description": "create: the content of the new file."},
    "old_str": {**_TEXT, "description": "str_replace: the text to replace, which occurs once in the file."},
    "new_str": {**_TEXT, "description": "str_replace: the text in its place."},
    "insert_line": {**_NUMBER, "description": "insert: the line after which to insert; 0 is the beginning."},
    "view_range": _RANGE,
}
_CLICKS = ("left_click", "right_click", "middle_click", "double_click")
_ACTIONS = ("key", "type", "mouse_move", *_CLICKS, "left_click_drag", "screenshot", "cursor_position")
_LATER_ACTIONS = ("triple_click", "left_mouse_down", "left_mouse_up", "scroll", "hold_key", "wait")


def function_of(tool: Json) -> Json | None:
    """The function that stands for the tool; None for a tool that the client does not run, and for a toolset."""
    match = _DATED.fullmatch(str(tool.get("type")))
    make = None if match is None else _TOOLS.get(match[1])
    if match is None or make is None:
        return None
    described, parameters = make(tool, match[2])
    return {"name": tool.get("name"), "description": described, "parameters": parameters}


def toolset_of(tool: Json) -> str | None:
    """The name of the toolset ("computer", "browser") that a tool of the request is; None for another tool."""
    match = _DATED.fullmatch(str(tool.get("type")))
    name = None if match is None else match[1].removesuffix("_toolset")
    return name if name in toolsets() and match is not None and match[1] != name else None


def members_of(tool: Json, toolset: str) -> Iterator[tuple[str, Json]]:
    """The names and functions of the members that the tool does not switch off."""
    configs = tool.get("configs")
    for name, member in toolsets()[toolset].items():
        config = configs.get(name) if isinstance(configs, dict) else None
        if not isinstance(config, dict) or config.get("enabled") is not False:
            yield name, {"name": f"{toolset}{BETWEEN}{name}", **member}


@cache
def toolsets() -> Json:
    """The members of each toolset: their descriptions and parameters."""
    read: Json = orjson.loads(Path(__file__).with_name("toolsets.json").read_bytes())
    return read


def _object(properties: Json, *required: str) -> Json:
    return {"type": "object", "properties": properties, "required": list(required)}


def _bash(_tool: Json, _date: str) -> tuple[str, Json]:
    properties = {
        "command": {**_TEXT, "description": "The command to run. Needed unless 'restart' is true."},
        "restart": {"type": "boolean", "description": "Starts the shell anew."},
    }
    return "Runs a command in a shell of bash that stays open, and returns its output.", _object(properties)


def _editor(tool: Json, date: str) -> tuple[str, Json]:
    undo = ["undo_edit"] if date < "20250429" else []
    commands = ["view", "create", "str_replace", "insert", *undo]
    properties: Json = {
        "command": {"enum": commands, **_TEXT, "description": "What to do."},
        "path": {**_TEXT, "description": "The absolute path of a file, or of a folder to view."},
        **_EDITING,
    }
    inserted = "insert_text" if date >= "20250728" else "new_str"
    also = "str_replace: the text in its place. " if inserted == "new_str" else ""
    properties[inserted] = {**_TEXT, "description": f"{also}insert: the text to insert."}
    limit = tool.get("max_characters")
    shown = f" A view shows {limit} characters at most." if isinstance(limit, int) else ""
    return f"Views, creates and edits text files.{shown}", _object(properties, "command", "path")


def _memory(_tool: Json, _date: str) -> tuple[str, Json]:
    commands = ["view", "create", "str_replace", "insert", "delete", "rename"]
    properties: Json = {
        "command": {"enum": commands, **_TEXT, "description": "What to do."},
        "path": {**_TEXT, "description": "A path within /memories; rename has two others."},
        **_EDITING,
        "insert_text": {**_TEXT, "description": "insert: the text to insert."},
        "old_path": {**_TEXT, "description": "rename: the present path."},
        "new_path": {**_TEXT, "description": "rename: the new path."},
    }
    return (
        "Keeps notes in files within /memories, which outlast the conversation. View the folder before you begin.",
        _object(properties, "command"),
    )


def _computer(tool: Json, date: str) -> tuple[str, Json]:
    later = _LATER_ACTIONS if date >= "20250124" else ()
    zoom = ("zoom",) if tool.get("enable_zoom") is True else ()
    properties: Json = {
        "action": {"enum": [*_ACTIONS, *later, *zoom], **_TEXT, "description": "What to do."},
        "coordinate": _POINT,
        "text": {**_TEXT, "description": "type: the text; key and hold_key: keys as xdotool names them."},
    }
    if date >= "20250124":
        properties |= {
            "start_coordinate": {**_POINT, "description": "left_click_drag: where it begins, [x, y] in pixels."},
            "scroll_direction": {"enum": ["up", "down", "left", "right"], **_TEXT},
            "scroll_amount": {**_NUMBER, "description": "scroll: how many clicks of the wheel."},
            "duration": {"type": "number", "description": "hold_key and wait: seconds."},
        }
    if zoom:
        corners = {"minItems": 4, "maxItems": 4, "description": "zoom: the region, [x0, y0, x1, y1] in pixels."}
        properties["region"] = {"type": "array", "items": _NUMBER, **corners}
    size = f"{tool.get('display_width_px')} by {tool.get('display_height_px')} pixels"
    return (
        f"Shows a screen of {size} and uses its mouse and keyboard. Take a screenshot to see what an action did.",
        _object(properties, "action"),
    )


_TOOLS: Mapping[str, Callable[[Json, str], tuple[str, Any]]] = {
    "bash": _bash,
    "text_editor": _editor,
    "memory": _memory,
    "computer": _computer,
}
