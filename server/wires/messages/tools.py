"""The tools of a Messages request, as tools of a chat. Source: Anthropic's API reference and SDK types.

Tools that Anthropic runs are left out and named. Deferred tools are given once the conversation refers to them,
or at once where no tool of the client's could find them, and messages may add and remove tools.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from backends.wire.chat import NO_PAID_TOOLS, PaidTools
from backends.wire.messages import CountTokensRequest, InputMessage, MessagesRequest
from catalog.errors import InvalidRequest, UnsupportedParameter
from catalog.types import Json
from catalog.validation.wording import of_type
from server.wires.messages.client_tools import BETWEEN, function_of, members_of, toolset_of
from server.wires.translation import Losses, named
from server.wires.web_search import OF_MESSAGES, from_messages

_FUNCTION = frozenset({"type", "name", "description", "strict", "input_schema", "cache_control", "defer_loading"})
_OF_CLIENTS = _FUNCTION | {
    *("display_width_px", "display_height_px", "display_number", "enable_zoom", "max_characters", "configs"),
}
_SEARCHES_TOOLS = "tool_search_tool"
_PAID_FIELDS = ("mcp_servers", "fallbacks")
_CHANGES = {"tool_addition": True, "tool_removal": False}


def add_tools(
    request: MessagesRequest | CountTokensRequest,
    body: Json,
    losses: Losses,
    *,
    searches: Callable[[str], bool] | None,
) -> frozenset[str]:
    """Add the tools to the body of a chat, and the web search where the named model ``searches``.

    Returns the names of the tools that are left out, which goes to ``losses``, too. Raises InvalidRequest for a
    malformed tool.
    """
    left_out: dict[str, None] = {}
    made: list[Json] = []
    for tool, where, hidden in _offered(request, losses):
        kind = tool.get("type")
        functions = list(_functions(tool))
        if hidden and functions:
            continue
        if str(kind).startswith(OF_MESSAGES) and not hidden and (searches is None or searches(request.model)):
            body["web_search_options"] = from_messages(tool, where, losses.add)
            continue
        if not functions:
            if not isinstance(kind, str):
                raise InvalidRequest(f"{where}.type must be a string.", param=f"{where}.type")
            losses.add(f"tools.{kind}")
            left_out[str(tool.get("name"))] = None
            continue
        if kind in (None, "custom") and tool.get("input_schema") is None:
            where = f"{where}.input_schema"
            raise InvalidRequest(f"{where}: a tool needs the JSON schema of its input.", param=where)
        known = _FUNCTION if kind in (None, "custom") else _OF_CLIENTS
        losses.add(*(f"tools.{name}" for name in tool.keys() - known if tool[name] is not None))
        made += [_marked({"type": "function", "function": function}, tool) for function in functions]
    if made:
        body["tools"] = made
    return frozenset(left_out)


def add_choice(choice: Json | None, body: Json, left_out: frozenset[str], losses: Losses) -> None:
    """Add the choice of a tool to the body of a chat.

    One that demands a tool which is ``left_out``, or that the model does not have, can be answered by Anthropic
    alone. Raises InvalidRequest for a choice of an unknown kind.
    """
    if choice is None:
        return
    names = [str(tool["function"]["name"]) for tool in body.get("tools", ())]
    name = named(choice, "name", "tool_choice") if choice.get("type") == "tool" else ""
    wanted: Any = None
    match choice.get("type"):
        case "auto" | "none" as kind:
            wanted = kind if names else None
        case "any" if names:
            wanted = "required"
        case "any":
            _demanded(next(iter(left_out), None), body, losses)
        case "tool" if name in left_out or ("web_search_options" in body and name not in names):
            _demanded(name if name in left_out else None, body, losses)
        case "tool" if (called := _called(name, names)) in names:
            wanted = {"type": "function", "function": {"name": called}}
        case "tool":
            with losses.refusing():
                raise _absent(name)
        case kind:
            raise InvalidRequest(f"A tool_choice {of_type(kind)} is not known.", param="tool_choice")
    if wanted is not None:
        body["tool_choice"] = wanted
    alone = choice.get("disable_parallel_tool_use")
    if not isinstance(alone, bool | None):
        where = "tool_choice.disable_parallel_tool_use"
        raise InvalidRequest(f"{where} must be true or false.", param=where)
    if names and alone:
        body["parallel_tool_calls"] = False


def paid_tools(request: MessagesRequest | CountTokensRequest) -> PaidTools:
    """The tools and fields by which Anthropic runs something for money.

    A search for tools costs its tokens alone. Deferred tools count, because Anthropic may find them.
    """
    fields = [name for name in _PAID_FIELDS if (request.model_extra or {}).get(name)]
    searches: int | None = 0
    others: dict[str, None] = {}
    for tool, where in _defined(request):
        kind = str(tool.get("type"))
        if kind.startswith(OF_MESSAGES):
            most = tool.get("max_uses")
            if type(most) is not int and where.startswith("messages"):
                others[kind] = None  # the gateway puts no bound into messages
            searches = None if searches is None or type(most) is not int else searches + most
        elif not kind.startswith(_SEARCHES_TOOLS) and not any(_functions(tool)):
            others[kind] = None
    if not (searches == 0 and not others and not fields):
        return PaidTools(searches=searches, others=(*others, *fields))
    return NO_PAID_TOOLS


def members_called(tools: Sequence[Json] | None) -> dict[str, tuple[str, str]]:
    """The toolset and the member that each function of a toolset stands for."""
    return {
        function["name"]: (toolset, name)
        for tool in tools or ()
        if (toolset := toolset_of(tool)) is not None
        for name, function in members_of(tool, toolset)
    }


def _functions(tool: Json) -> Iterator[Json]:
    if tool.get("type") in (None, "custom"):
        function = {name: tool[name] for name in ("name", "description", "strict") if tool.get(name) is not None}
        yield {"name": None, **function, "parameters": tool.get("input_schema")}
    elif (toolset := toolset_of(tool)) is not None:
        yield from (function for _, function in members_of(tool, toolset))
    elif (made := function_of(tool)) is not None:
        yield made if tool.get("strict") is None else {**made, "strict": tool["strict"]}


def _called(name: str, names: Sequence[str]) -> str:
    """The function that is chosen by its name, or by its name in a toolset."""
    members = [each for each in names if each.endswith(f"{BETWEEN}{name}")]
    return members[0] if members and name not in names else name


def _demanded(name: str | None, body: Json, losses: Losses) -> None:
    """Note a choice that no function stands for: of a search, which a model makes when it sees fit, or of a tool
    that is left out."""
    if name is None and "web_search_options" in body:
        losses.add("tool_choice")
        return
    with losses.refusing():
        raise _absent(name)


def _absent(name: str | None) -> UnsupportedParameter:
    what = f"The tool {name[:80]!r}" if name else "A tool"
    return UnsupportedParameter(
        f"{what} is demanded, and this model has no such tool. Leave 'tool_choice' out to go without.",
        param="tool_choice",
    )


def _offered(request: MessagesRequest | CountTokensRequest, losses: Losses) -> Iterator[tuple[Json, str, bool]]:
    """The tools that messages have not removed: each with its place in the request, and whether it is hidden.

    A deferred tool stays hidden until a search of the client's has found it, or the choice of a tool names it. A
    search of Anthropic's own cannot be made here, so all its tools are given. So are they where every tool of the
    client's is deferred and nothing can find one; that deferral goes to ``losses``.
    """
    given = {f"tools[{at}]": tool for at, tool in enumerate(request.tools or ())}
    changes = dict(_changes(request.messages, given))
    if any(str(tool.get("type")).startswith(_SEARCHES_TOOLS) for tool in given.values()):
        changes = {**dict.fromkeys(_names(given), True), **changes}
    elif (request.tool_choice or {}).get("type") == "tool":
        changes.setdefault(str((request.tool_choice or {}).get("name")), True)
    clients = {where for where, tool in given.items() if any(_functions(tool))}
    findable = any(not _is_deferred(given[where]) for where in clients)
    for where, tool in given.items():
        shown = changes.get(str(tool.get("name")))
        hidden = shown is None and _is_deferred(tool)
        if hidden and not findable and where in clients:
            losses.add("tools.defer_loading")
            hidden = False
        if shown is not False:
            yield tool, where, hidden


def _is_deferred(tool: Json) -> bool:
    return tool.get("defer_loading") is True


def _defined(request: MessagesRequest | CountTokensRequest) -> Iterator[tuple[Json, str]]:
    """All tools that the request defines, also hidden ones, with their places."""
    given = {f"tools[{at}]": tool for at, tool in enumerate(request.tools or ())}
    for _ in _changes(request.messages, given):
        pass
    yield from ((tool, where) for where, tool in given.items())


def _names(tools: dict[str, Json]) -> list[str]:
    return [str(tool.get("name")) for tool in tools.values()]


def _changes(messages: Sequence[InputMessage], given: dict[str, Json]) -> Iterator[tuple[str, bool]]:
    """The tools that messages make available or take away, in order; definitions go to ``given``."""
    for position, message in enumerate(messages):
        for at, block in enumerate(message.content if isinstance(message.content, list) else ()):
            if block.get("type") == "tool_use":
                yield str(block.get("name")), True
            elif block.get("type") in ("tool_result", "tool_search_tool_result"):
                yield from ((name, True) for name in _found(block.get("content")))
            elif block.get("type") == "compaction":
                listed = block.get("tool_changes")
                for change in listed if isinstance(listed, list) else ():
                    yield from _change(change, f"messages[{position}].content[{at}]", given)
            elif str(block.get("type")) in _CHANGES:
                yield from _change(block, f"messages[{position}].content[{at}]", given)


def _change(block: Any, where: str, given: dict[str, Json]) -> Iterator[tuple[str, bool]]:
    tool = block.get("tool") if isinstance(block, dict) else None
    if not isinstance(tool, dict) or str(block.get("type")) not in _CHANGES:
        raise InvalidRequest(f"{where}: a change of tools has a 'tool'.", param=where)
    defined = tool.get("definition")
    if isinstance(defined, dict):
        for earlier in [place for place, each in given.items() if each.get("name") == defined.get("name")]:
            del given[earlier]
        given[f"{where}.tool.definition"] = tool = defined
    if isinstance(tool.get("name"), str):
        yield tool["name"], _CHANGES[block["type"]]


def _found(content: Any) -> Iterator[str]:
    """The names of tools that a search has found."""
    if isinstance(content, dict):
        content = content.get("tool_references")
    for block in content if isinstance(content, list) else ():
        if (
            isinstance(block, dict)
            and block.get("type") == "tool_reference"
            and isinstance(block.get("tool_name"), str)
        ):
            yield block["tool_name"]


def _marked(made: Json, tool: Json) -> Json:
    mark = tool.get("cache_control")
    return {**made, "cache_control": mark} if isinstance(mark, dict) else made
