"""Translates ``web_search_options`` into Gemini's Google Search tool. Source: Google's pages on grounding."""

from __future__ import annotations

from urllib.parse import urlsplit

from backends.base import Upstream
from backends.google.models import GeminiTraits
from backends.parameters import refuse_domains
from backends.translation import Dropped
from backends.wire.chat import WebSearchOptions
from catalog.errors import UnsupportedParameter
from catalog.types import Json


def add_search(
    search: WebSearchOptions, can: GeminiTraits, upstream: Upstream, body: Json, dropped: Dropped
) -> None:
    """Add the tool to the body. Raises UnsupportedParameter for what Google does not keep or take.

    Gemini searches as often as it likes, from any place, and reads as much as it likes: those options are dropped.
    """
    host = urlsplit(upstream.base_url).hostname or ""
    vertex = upstream.protocol == "vertex" or host.endswith("aiplatform.googleapis.com")
    refuse_domains(search, upstream, "allowed_domains", *(() if vertex else ("blocked_domains",)))
    excluded = search.filters.blocked_domains if search.filters is not None else None
    if "tools" in body:
        if not can.search_with_tools:
            raise UnsupportedParameter(
                "This Gemini model cannot search the web beside tools.", param="web_search_options"
            )
        config = body.pop("toolConfig", {})
        if config.get("functionCallingConfig") == {"mode": "AUTO"}:
            del config["functionCallingConfig"]  # beside a search, the default is VALIDATED, which is auto, too
        if not vertex:
            config["includeServerSideToolInvocations"] = True
        if config:
            body["toolConfig"] = config
    body["tools"] = [*body.get("tools", ()), {"googleSearch": {"excludeDomains": excluded} if excluded else {}}]
    dropped.add(*(f"web_search_options.{name}" for name in _unkept(search)))


def _unkept(search: WebSearchOptions) -> list[str]:
    asked = {
        "max_uses": search.max_uses is not None,
        "user_location": search.user_location is not None,
        "search_context_size": search.search_context_size not in (None, "medium"),
    }
    return [name for name, is_asked in asked.items() if is_asked]
