"""Translates the hosted web search of other APIs into a chat's ``web_search_options``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from catalog.errors import InvalidRequest, ModelNotFound
from catalog.model import Capability
from catalog.types import Json
from routing.plan import NOT_SET_UP, Block
from routing.reading.intent import is_auto
from server.callers import Caller
from server.runtime import Runtime

OF_RESPONSES = ("web_search", "web_search_2025_08_26", "web_search_preview", "web_search_preview_2025_03_11")
"""Types of the tool in the Responses API."""
OF_MESSAGES = "web_search_"
"""The beginning of the tool's types in Anthropic's API; a date follows."""


def can_search(requested: str, runtime: Runtime, caller: Caller) -> bool:
    """Whether the named model searches the web; under ``auto``, whether one that is set up for the caller does.

    True for an unknown name, which routing refuses.
    """
    if not is_auto(requested):
        try:
            return any(Capability.WEB_SEARCH in row.capabilities for row in runtime.catalog.replicas(requested))
        except ModelNotFound:
            return True
    return any(
        Capability.WEB_SEARCH in row.capabilities
        and caller.allows(row.id, runtime.catalog)
        and is_set_up(runtime.unavailable(row))
        for row in runtime.catalog.models()
    )


def is_set_up(block: Block | None) -> bool:
    """Whether what keeps a model from being called, if anything, passes without a change of the set-up."""
    return block is None or block.code not in NOT_SET_UP


def from_responses(tool: Json, where: str, lose: Callable[[str], None]) -> Json:
    """The options of a Responses API's tool; names of what they do not hold go to ``lose``.

    Raises InvalidRequest for a malformed place.
    """
    options = {name: tool[name] for name in ("search_context_size", "filters") if tool.get(name) is not None}
    for name in tool.keys() - {"type", "user_location", "external_web_access", *options}:
        if tool[name] is not None and not (name == "search_content_types" and tool[name] in ([], ["text"])):
            lose(f"tools.{name}")
    return options | _place(tool.get("user_location"), where)


def from_messages(tool: Json, where: str, lose: Callable[[str], None]) -> Json:
    """The options of Anthropic's tool; names of what they do not hold go to ``lose``."""
    domains = {name: tool[name] for name in ("allowed_domains", "blocked_domains") if tool.get(name)}
    options: Json = {"filters": domains} if domains else {}
    if tool.get("max_uses") is not None:
        options["max_uses"] = tool["max_uses"]
    for name in tool.keys() - {"type", "name", "max_uses", "allowed_domains", "blocked_domains", "user_location"}:
        if tool[name] is not None:
            lose(f"tools.{name}")
    return options | _place(tool.get("user_location"), where)


def _place(given: Any, where: str) -> Json:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise InvalidRequest("A user_location is an object.", param=f"{where}.user_location")
    place = {name: value for name, value in given.items() if name != "type" and value is not None}
    return {"user_location": {"type": given.get("type") or "approximate", "approximate": place}}
