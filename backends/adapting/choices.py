"""The tool choice ``allowed_tools`` for providers that do not have it: only those tools are sent."""

from __future__ import annotations

from typing import Any

from backends.wire.chat import ChatRequest, NamedToolChoice, Tool
from catalog.errors import InvalidRequest


def allowed_tools(request: ChatRequest) -> tuple[str, tuple[str, ...]] | None:
    """``(mode, names)`` of a tool choice of this type, None for any other. The mode is ``auto`` or ``required``.

    Raises InvalidRequest for a choice that is malformed, or names a tool that the request does not have.
    """
    choice = request.tool_choice
    if not isinstance(choice, NamedToolChoice) or choice.type != "allowed_tools":
        return None
    given = (choice.model_extra or {}).get("allowed_tools")
    mode = given.get("mode") if isinstance(given, dict) else None
    tools = given.get("tools") if isinstance(given, dict) else None
    if mode not in ("auto", "required") or not isinstance(tools, list):
        raise InvalidRequest(
            "tool_choice.allowed_tools needs a mode, 'auto' or 'required', and a list of tools.",
            param="tool_choice.allowed_tools",
        )
    names = tuple(_name_of(tool) for tool in tools)
    known = {_name(tool) for tool in request.tools or ()}
    for name in names:
        if not name or name not in known:
            raise InvalidRequest(
                f"tool_choice.allowed_tools names {name[:80]!r}, which is not among the tools.",
                param="tool_choice.allowed_tools",
            )
    if mode == "required" and not names:
        raise InvalidRequest(
            "tool_choice.allowed_tools demands a call and allows no tool; name one, or let its mode be 'auto'.",
            param="tool_choice.allowed_tools",
        )
    return mode, names


def narrowed(request: ChatRequest) -> ChatRequest:
    """The request with the tools that its choice allows, in the mode of the choice. Raises InvalidRequest."""
    allowed = allowed_tools(request)
    if allowed is None:
        return request
    mode, names = allowed
    kept = [tool for tool in request.tools or () if _name(tool) in names]
    return request.model_copy(update={"tools": kept, "tool_choice": mode if kept else "none"})


def _name(tool: Tool) -> str:
    return tool.function.name if tool.function else _name_of(tool.model_extra)


def _name_of(tool: Any) -> str:
    for kind in ("function", "custom"):
        holder = tool.get(kind) if isinstance(tool, dict) else None
        if isinstance(holder, dict) and isinstance(holder.get("name"), str):
            return str(holder["name"])
    return ""
