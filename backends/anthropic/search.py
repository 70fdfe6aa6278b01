"""Translates ``web_search_options`` into Anthropic's web search tool. Source: Anthropic's page on it."""

from __future__ import annotations

from backends.base import Upstream
from backends.translation import Dropped
from backends.wire.chat import WebSearchOptions
from catalog.errors import UnsupportedParameter
from catalog.types import Json

TYPE = "web_search_20250305"
"""The version that searches without running code; every model that searches has it."""
NAME = "web_search"


def add_search(search: WebSearchOptions, upstream: Upstream, body: Json, dropped: Dropped) -> None:
    """Add the tool to the body. Raises UnsupportedParameter for what Anthropic refuses."""
    if any(tool["name"] == NAME for tool in body.get("tools", ())):
        raise UnsupportedParameter(
            f"Anthropic's own search is a tool named '{NAME}', too; give yours another name.", param="tools"
        )
    tool: Json = {"type": TYPE, "name": NAME}
    if search.max_uses is not None:
        tool["max_uses"] = search.max_uses
    if search.filters is not None:
        given = search.filters.model_dump(exclude_unset=True)
        lists = {name: domains for name, domains in given.items() if domains}
        if len(lists) > 1:
            raise UnsupportedParameter(
                f"'{upstream.model}' takes 'allowed_domains' or 'blocked_domains' of a search, not both.",
                param="web_search_options.filters",
            )
        tool |= lists
    if search.user_location is not None:
        place = search.user_location.approximate.model_dump(exclude_none=True)
        tool["user_location"] = {"type": "approximate", **place}
    if search.search_context_size not in (None, "medium"):
        dropped.add("web_search_options.search_context_size")
    body["tools"] = [*body.get("tools", ()), tool]
