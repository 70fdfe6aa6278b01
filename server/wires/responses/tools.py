"""The tools of a Responses request, as tools of a chat. Source: OpenAI's API reference and SDK types.

Namespaces are flattened: a tool in one is sent as ``namespace__name``, and its calls get both names back. Tools
come from ``tools`` and from items of ``input`` that add some to a conversation. Tools that a provider runs itself
are listed apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from backends.adapting.names import OPENAI
from backends.wire.chat import MAX_TOOLS
from backends.wire.responses import ResponsesRequest
from catalog.errors import InvalidRequest, UnsupportedParameter
from catalog.types import Json
from server.wires.responses import drawing
from server.wires.responses.client_tools import CLIENT_TOOLS, is_hosted
from server.wires.translation import Losses, meant, named
from server.wires.web_search import OF_RESPONSES

_FUNCTION = ("name", "description", "parameters", "strict")
_KNOWN = frozenset({"type", "format", "execution", "environment", "defer_loading", *_FUNCTION})
"""Fields of tools that are read. A deferred tool is given at once, since nothing here searches for it."""
_BRING_TOOLS = ("additional_tools", "tool_search_output")
_PLAIN = frozenset({"function", "custom"})
_DIGITS = 8
_SEARCHES = frozenset(OF_RESPONSES)


class ToolKey(NamedTuple):
    """A tool of the request. ``kind`` is "function", "custom", "image_generation" or of :data:`CLIENT_TOOLS`."""

    kind: str
    name: str
    namespace: str | None = None


DRAWING = ToolKey(drawing.DRAW, drawing.DRAW)


class Toolbox:
    """The tools that the model may call, each with a name of its own in the chat.

    The names are the same in every turn of a conversation: the name of a tool without a namespace is kept, and
    the others avoid it. ``hosted`` are the tools that the provider runs, with their places. ``draws`` tells
    whether the gateway draws for a tool that asks for pictures. Raises InvalidRequest for a malformed tool.
    """

    def __init__(self, request: ResponsesRequest, *, draws: Callable[[Json], bool] = lambda _: False) -> None:
        self._draws = draws
        self.hosted: list[tuple[Json, str]] = []
        self._given: dict[ToolKey, Json] = {}
        self._lost: dict[str, None] = {}
        self._twice: str | None = None
        self._names: dict[ToolKey, str] = {}
        self._keys: dict[str, ToolKey] = {}
        for tool, where in _tools_of(request):
            self._add(tool, where)
        for key in sorted(self._given, key=_precedence):
            self.name_of(key)

    @property
    def is_lossy(self) -> bool:
        """Whether a provider of the same API may call tools that the chat lacks, or has by another name."""
        return bool(self.hosted) or any(
            name != key.name or key.kind not in _PLAIN for key, name in self._names.items()
        )

    @property
    def drawing(self) -> Json | None:
        """The tool for which the gateway draws."""
        return self._given.get(DRAWING)

    def name_of(self, key: ToolKey) -> str:
        """The name of a tool in the chat, also of one that the request no longer has."""
        found = self._names.get(key)
        if found is None:
            found = self._names[key] = self._new_name(key)
            self._keys.setdefault(found, key)
        return found

    def key_of(self, name: str) -> ToolKey:
        """The tool that a name in the chat means, also without its namespace; a function for an unknown name."""
        found = self._keys.get(name)
        if found is None:
            whole = {_whole(key): key for key in self._given if key.kind != "custom"}
            found = whole.get(meant(name, whole) or "")
        return found or ToolKey("function", name)

    def chat_tools(self, losses: Losses) -> list[Json]:
        """The tools for the chat; fields that no chat has go to ``losses``."""
        losses.add(*self._lost)
        made = [_chat_tool(key, tool, self.name_of(key)) for key, tool in self._given.items()]
        with losses.refusing():
            if self._twice is not None:
                raise UnsupportedParameter(
                    f"Two tools have the name '{self._twice[:80]}'. Give each a name of its own.", param="tools"
                )
            if len(made) > MAX_TOOLS:
                raise UnsupportedParameter(f"This model takes {MAX_TOOLS} tools at most.", param="tools")
        return made[:MAX_TOOLS]

    def chosen(self, given: Json) -> Json | None:
        """A tool choice, or one of its list, as a chat's; None for a tool that is not the model's to call."""
        key = _key_named(given)
        if key not in self._given:
            return None
        kind = "custom" if key.kind == "custom" else "function"
        return {"type": kind, kind: {"name": self.name_of(key)}}

    def keys_named(self, given: Json) -> list[ToolKey]:
        """The model's tools that a tool choice names: one, or all of a namespace."""
        if given.get("type") == "namespace":
            return [key for key in self._given if key.namespace is not None and key.namespace == given.get("name")]
        return [key] if (key := _key_named(given)) in self._given else []

    def has_hosted(self, given: Json) -> bool:
        """Whether a tool that the provider runs has the named type; all web searches are one."""
        kind = given.get("type")
        return any(tool["type"] == kind or {tool["type"], kind} <= _SEARCHES for tool, _ in self.hosted)

    def _add(self, tool: Any, where: str, space: Json | None = None) -> None:
        kind = tool.get("type") if isinstance(tool, dict) else None
        if not isinstance(kind, str) or not kind:
            raise InvalidRequest(f"{where} must be an object with a 'type'.", param=where)
        if kind == "namespace" and space is None:
            self._add_all(tool, where)
        elif kind in _PLAIN:
            key = ToolKey(kind, named(tool, "name", where), str(space["name"]) if space else None)
            if where.startswith("tools[") and not self._given.keys().isdisjoint(
                key._replace(kind=k) for k in _PLAIN
            ):
                self._twice = key.name
            self._given[key] = tool
            self._lose(tool)
        elif kind in CLIENT_TOOLS and not is_hosted(tool):
            if not isinstance(tool.get("description"), str | None):
                raise InvalidRequest(f"{where}.description must be a string.", param=f"{where}.description")
            self._given[ToolKey(kind, kind)] = tool
            self._lose(tool)
        elif kind == drawing.DRAW and where.startswith("tools[") and space is None and self._draws(tool):
            self._given[DRAWING] = tool
            self._lose(tool, drawing.KNOWN)
        else:
            self.hosted.append((tool, where))

    def _add_all(self, space: Json, where: str) -> None:
        named(space, "name", where)
        tools, about = space.get("tools"), space.get("description")
        if not isinstance(tools, list):
            raise InvalidRequest("A namespace has a list of 'tools'.", param=f"{where}.tools")
        for at, tool in enumerate(tools):
            if at == 0 and isinstance(tool, dict) and isinstance(about, str) and about:
                told = f"All {space['name']} tools: {about}\n{tool.get('description') or ''}"
                tool = {**tool, "description": told}
            self._add(tool, f"{where}.tools[{at}]", space)

    def _lose(self, tool: Json, known: frozenset[str] = _KNOWN) -> None:
        for name in tool.keys() - known:
            if tool[name] not in (None, False, []):
                self._lost[f"tools.{name}"] = None

    def _new_name(self, key: ToolKey) -> str:
        if key.namespace is None and key.kind in _PLAIN:
            return key.name
        whole = _whole(key)
        if OPENAI.allowed.fullmatch(whole) and whole not in self._keys:
            return whole
        digits = _DIGITS
        while (made := OPENAI.made_of(whole, digits)) in self._keys:
            digits += 1
        return made


def _whole(key: ToolKey) -> str:
    return key.name if key.namespace is None else f"{key.namespace}__{key.name}"


def _key_named(given: Json) -> ToolKey:
    kind = str(given.get("type"))
    own = kind in CLIENT_TOOLS or kind == drawing.DRAW
    return ToolKey(kind, kind if own else str(given.get("name")), space_of(given))


def space_of(item: Json) -> str | None:
    """The namespace of a call or a choice."""
    space = item.get("namespace")
    return space if isinstance(space, str) and space else None


def keys_of(tools: Any) -> Iterator[ToolKey]:
    """The keys of a list of tools, those within namespaces included."""
    for tool in tools if isinstance(tools, list) else ():
        space = tool["name"] if tool["type"] == "namespace" else None
        for each in (tool,) if space is None else tool["tools"]:
            if each["type"] in _PLAIN:
                yield ToolKey(each["type"], each["name"], space)


def _tools_of(request: ResponsesRequest) -> Iterator[tuple[Any, str]]:
    for at, tool in enumerate(request.tools or ()):
        yield tool, f"tools[{at}]"
    for position, item in enumerate(request.input if isinstance(request.input, list) else ()):
        if item.get("type") in _BRING_TOOLS:
            given = item.get("tools")
            if not isinstance(given, list):
                raise InvalidRequest(
                    "An item that brings tools has a list of 'tools'.", param=f"input[{position}]"
                )
            for at, tool in enumerate(given):
                yield tool, f"input[{position}].tools[{at}]"


def _precedence(key: ToolKey) -> int:
    return 2 if key.namespace is not None else int(key.kind not in _PLAIN)


def _chat_tool(key: ToolKey, tool: Json, name: str) -> Json:
    if key.kind == "function":
        function = {each: tool[each] for each in _FUNCTION if tool.get(each) is not None}
        return {"type": "function", "function": {**function, "name": name}}
    if key == DRAWING:
        return {"type": "function", "function": drawing.function(tool, name)}
    if key.kind in CLIENT_TOOLS:
        return {"type": "function", "function": CLIENT_TOOLS[key.kind].function(tool, name)}
    custom = {"name": name, **{each: tool[each] for each in ("description",) if tool.get(each) is not None}}
    form = tool.get("format")
    if isinstance(form, dict) and form.get("type") == "grammar":
        grammar = {each: form.get(each) for each in ("definition", "syntax")}
        custom["format"] = {"type": "grammar", "grammar": grammar}
    elif form is not None and form != {"type": "text"}:
        custom["format"] = form  # a server of chats refuses it
    return {"type": "custom", "custom": custom}
