"""Tools of the Responses API that the client runs and that have items of their own, as functions for any model.

``local_shell``, ``shell``, ``apply_patch`` and ``tool_search`` become functions. A call of such a function becomes
the item that the client knows, and such items of a conversation become calls and results again. Source: OpenAI's
SDK types.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NotRequired

import orjson
from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from catalog.errors import AnswerInvalid, InvalidRequest
from catalog.types import Json


def _words(value: Any) -> Any:
    """The words of a command line; a single text, which some models send, goes to a shell."""
    return ["bash", "-lc", value] if isinstance(value, str) else value


def _lines(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class _Exec(TypedDict):
    command: Annotated[list[str], BeforeValidator(_words), Field(description="The program, then its arguments.")]
    working_directory: NotRequired[str]
    timeout_ms: NotRequired[int]
    env: NotRequired[dict[str, str]]
    user: NotRequired[str]


class _Commands(TypedDict):
    commands: Annotated[list[str], BeforeValidator(_lines), Field(description="Shell commands, run in order.")]
    timeout_ms: NotRequired[int]
    max_output_length: NotRequired[Annotated[int, Field(description="The most characters of output to return.")]]


class _Patch(TypedDict):
    type: Literal["create_file", "update_file", "delete_file"]
    path: Annotated[str, Field(description="The file, relative to the workspace.")]
    diff: NotRequired[
        Annotated[
            str,
            Field(
                description="create_file: each line of the file, after '+'. update_file: hunks, each a line '@@' "
                "and lines that begin with ' ' (kept), '-' (removed) or '+' (added). delete_file: none."
            ),
        ]
    ]


@dataclass(frozen=True, slots=True)
class ClientTool:
    """One type of tool. ``item`` is the type of its calls, ``prefix`` begins their ids.

    ``holder`` is the field of an item with the arguments, ``within`` are fixed fields in it, ``fixed`` those
    beside it, and ``begun`` are the arguments of a call that has only begun. ``shape`` is None for a tool that
    brings the schema of its arguments.
    """

    item: str
    prefix: str
    holder: str
    description: str = ""
    shape: TypeAdapter[Any] | None = None
    begun: Mapping[str, Any] = field(default_factory=dict)
    within: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def function(self, tool: Json, name: str) -> Json:
        """The function that stands for the tool."""
        parameters = tool.get("parameters") if self.shape is None else self.shape.json_schema()
        described = (tool.get("description") or self.description) + _skills(tool)
        return {"name": name, "description": described, "parameters": parameters or {"type": "object"}}

    def fields(self, arguments: Json) -> Json:
        """The fields of an item with these arguments."""
        return {**self.fixed, self.holder: {**self.within, **arguments}}

    def read(self, text: str) -> Json:
        """The arguments of a whole call. Raises AnswerInvalid for others than the tool has."""
        try:
            given = orjson.loads(text or "{}")
            if not isinstance(given, dict):
                raise ValueError("not an object")
            said = {name: value for name, value in given.items() if value is not None}
            return said if self.shape is None else dict(self.shape.validate_python(said))
        except (ValueError, ValidationError):
            raise AnswerInvalid(
                f"The model's call of '{self.item.removesuffix('_call')}' lacks the arguments of that tool."
            ) from None

    def arguments_of(self, item: Json, where: str) -> str:
        """The arguments of an item of a conversation, as JSON. Raises InvalidRequest for one without."""
        given = item.get(self.holder)
        if isinstance(given, str) and self.shape is None:
            return given
        if not isinstance(given, dict):
            raise InvalidRequest(f"{where}.{self.holder} must be an object.", param=f"{where}.{self.holder}")
        kept = {name: value for name, value in given.items() if value not in (None, self.within.get(name))}
        return orjson.dumps(kept).decode()


def _skills(tool: Json) -> str:
    """The purposes of a local environment's skills, and the places of their instructions."""
    environment = tool.get("environment")
    skills = environment.get("skills") if isinstance(environment, dict) else None
    told = [
        f"\n- {skill.get('name')}: {skill.get('description')} (in {skill.get('path')})"
        for skill in (skills if isinstance(skills, list) else ())
        if isinstance(skill, dict)
    ]
    return f" Skills, to read before use:{''.join(told)}" if told else ""


CLIENT_TOOLS: Mapping[str, ClientTool] = {
    "local_shell": ClientTool(
        "local_shell_call",
        "lsh",
        "action",
        "Runs a program on the user's computer and returns its output.",
        TypeAdapter(_Exec),
        begun={"command": []},
        within={"type": "exec", "env": {}},
    ),
    "shell": ClientTool(
        "shell_call",
        "sh",
        "action",
        "Runs shell commands on the user's computer and returns their output and exit codes.",
        TypeAdapter(_Commands),
        begun={"commands": []},
    ),
    "apply_patch": ClientTool(
        "apply_patch_call",
        "apc",
        "operation",
        "Creates, changes or deletes one file of the user's workspace.",
        TypeAdapter(_Patch),
        begun={"type": "update_file", "path": "", "diff": ""},
    ),
    "tool_search": ClientTool(
        "tool_search_call",
        "tsc",
        "arguments",
        "Searches for more tools, and makes those that it finds available.",
        fixed={"execution": "client"},
    ),
}
"""The tools by their type."""

ITEMS: Mapping[str, str] = {tool.item: kind for kind, tool in CLIENT_TOOLS.items()}
"""The type of the tool by the type of its calls."""

RESULTS = frozenset({"tool_search_output", *(f"{item}_output" for item in ITEMS)})


def is_hosted(tool: Json) -> bool:
    """Whether the provider runs a tool of one of these types: a shell in its container, or its own search."""
    if tool.get("type") == "tool_search":
        return tool.get("execution") != "client"
    environment = tool.get("environment")
    return isinstance(environment, dict) and environment.get("type") != "local"


def result_of(item: Json) -> str:
    """The part of a result item that a model reads: its text, or the whole as JSON where it says more."""
    output = item.get("output")
    if isinstance(output, str) and item.get("status") != "failed":
        return output
    told = {name: item[name] for name in ("status", "output", "max_output_length") if item.get(name) is not None}
    return orjson.dumps(told).decode()
