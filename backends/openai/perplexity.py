"""Perplexity's parameters and its search. Source: the types of its Python SDK, its page on chat completions."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

from backends.base import Upstream
from backends.parameters import ParameterTable
from backends.wire.chat import WebSearchOptions
from catalog.errors import UnsupportedParameter
from catalog.types import Json

MAX_DOMAINS = 20
_EFFORTS = frozenset({"minimal", "low", "medium", "high"})


def search_fields(search: WebSearchOptions, upstream: Upstream) -> tuple[Json, tuple[str, ...]]:
    """The fields of a search in Perplexity's form, and the names of the options that it lacks.

    Raises UnsupportedParameter for a list of domains that it cannot keep to.
    """
    fields: Json = {}
    if domains := _domains(search, upstream):
        fields["search_domain_filter"] = domains
    options = search.to_wire(filters=None, max_uses=None)
    lacking = ["max_uses"] if search.max_uses is not None else []
    if search.user_location is not None:
        place: Json = search.user_location.approximate.to_wire(timezone=None)
        options["user_location"] = {name: value for name, value in place.items() if value is not None}
        if search.user_location.approximate.timezone is not None:
            lacking.append("user_location.approximate.timezone")
    if options:
        fields["web_search_options"] = options
    return fields, tuple(f"web_search_options.{name}" for name in lacking)


def _domains(search: WebSearchOptions, upstream: Upstream) -> list[str]:
    """One list for both kinds: a blocked domain begins with a minus."""
    allowed = (search.filters.allowed_domains if search.filters else None) or []
    blocked = (search.filters.blocked_domains if search.filters else None) or []
    fault = None
    if allowed and blocked:
        fault = "takes 'allowed_domains' or 'blocked_domains' of a search, not both"
    elif len(allowed or blocked) > MAX_DOMAINS:
        fault = f"takes at most {MAX_DOMAINS} domains of a search"
    if fault is not None:
        raise UnsupportedParameter(f"'{upstream.model}' {fault}.", param="web_search_options.filters")
    return allowed or [f"-{domain}" for domain in blocked]


def table(compatible: ParameterTable) -> ParameterTable:
    """The table of api.perplexity.ai, beside that of servers of unknown make. It ignores what it does not know."""
    return replace(
        compatible,
        drops=compatible.drops | {"seed", "logit_bias", "service_tier", "store", "metadata", "user", "verbosity"},
        renames={"max_completion_tokens": "max_tokens"},
        sources=True,
        efforts=_efforts,
        search=search_fields,
    )


def _efforts(model: str) -> Set[str]:
    del model
    return _EFFORTS
