"""One pass that fits tools, their results and the choice among them to a provider."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from backends.adapting.arguments import REPORTED, with_object_arguments, wraps_arguments
from backends.adapting.choices import narrowed
from backends.adapting.custom import as_functions, custom_names, lost_grammars
from backends.adapting.names import NameRule, renamed, sent_names
from backends.adapting.restoring import Restoration
from backends.adapting.results import has_media, with_text_results
from backends.adapting.schemas import object_root
from backends.wire.chat import ChatRequest, Tool


@dataclass(frozen=True, slots=True)
class ToolRules:
    """The forms that a provider takes.

    ``names``: None allows all. ``refused_roots`` are keywords that it refuses at the root of a tool's parameters.
    ``allowed_tools``: it has this tool choice. ``media_results``: messages of tools may hold more than text.
    ``custom_tools``: it has tools whose input is any text. ``input_grammars``: where it has none, the backend
    binds the inputs to their grammars itself. ``any_arguments``: those of past calls may be any text.
    """

    names: NameRule | None = None
    refused_roots: Set[str] = frozenset()
    allowed_tools: bool = False
    media_results: bool = True
    custom_tools: bool = True
    input_grammars: bool = False
    any_arguments: bool = False


ALL = ToolRules(any_arguments=True)
"""Everything is taken but the tool choice ``allowed_tools``."""


def is_plain(request: ChatRequest) -> bool:
    """Whether a request has texts alone, without tools, parts, or fields that not all servers have."""
    if request.tools:
        return False
    for message in request.messages:
        content = message.content
        if (
            (content is not None and content.__class__ is not str)
            or message.model_extra
            or message.tool_calls
            or message.role == "tool"
        ):
            return False
    return True


def uses_tools(request: ChatRequest) -> bool:
    """Whether a request has tools, calls or results."""
    return bool(request.tools) or any(m.tool_calls or m.role == "tool" for m in request.messages)


def adapted(request: ChatRequest, rules: ToolRules) -> ChatRequest:
    """The request in the provider's forms; itself if it has no tools, or if nothing differs.

    Raises InvalidRequest for a malformed tool choice, UnsupportedParameter for a schema that cannot be rewritten.
    """
    if not uses_tools(request):
        return request
    if not rules.allowed_tools:
        request = narrowed(request)
    if not rules.custom_tools:
        request = as_functions(request, bound=rules.input_grammars)
    sent = renames(request, rules)
    if sent:
        request = renamed(request, sent)
    update: dict[str, Any] = {}
    if not rules.any_arguments and (mended := with_object_arguments(request.messages)) is not None:
        request = request.model_copy(update={"messages": mended})
    if not rules.media_results and any(map(has_media, request.messages)):
        update["messages"] = with_text_results(request.messages)
    if rules.refused_roots and request.tools:
        tools = [_with_root(tool, rules.refused_roots, at) for at, tool in enumerate(request.tools)]
        if any(made is not tool for made, tool in zip(tools, request.tools, strict=True)):
            update["tools"] = tools
    return request.model_copy(update=update) if update else request


def lost_forms(request: ChatRequest, rules: ToolRules) -> tuple[str, ...]:
    """The names of what :func:`adapted` describes to the model and does not hold it to, and of what it wraps."""
    kept = rules.custom_tools or rules.input_grammars or not request.tools
    lost = () if kept else lost_grammars(request)
    return lost if rules.any_arguments or not wraps_arguments(request.messages) else (*lost, REPORTED)


def renames(request: ChatRequest, rules: ToolRules) -> Mapping[str, str]:
    """The name that is sent by the caller's, for those that the provider does not allow."""
    return sent_names(request, rules.names) if rules.names is not None and uses_tools(request) else {}


def restoration_for(request: ChatRequest, rules: ToolRules, *, json_object: bool = False) -> Restoration | None:
    """The changes to undo in the answer to the caller's ``request``, as it was before adapting; None for none."""
    sent = renames(request, rules)
    custom = frozenset() if rules.custom_tools or not request.tools else custom_names(request)
    if not sent and not custom and not json_object:
        return None
    return Restoration({made: name for name, made in sent.items()}, custom, json_object)


def _with_root(tool: Tool, refused: Set[str], position: int) -> Tool:
    function = tool.function
    if function is None or not function.parameters:
        return tool
    where = f"tools.{position}.function.parameters"
    root = object_root(function.parameters, refused, where)
    if root is function.parameters:
        return tool
    return tool.model_copy(update={"function": function.model_copy(update={"parameters": root})})
