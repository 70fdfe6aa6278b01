"""Dated names of models, and what a listed model inherits from the row that is known of it.

A provider lists snapshots (``claude-haiku-4-5-20251001``, ``gpt-4o-2024-08-06``) of what a row names without a
date, and callers name either.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from catalog.model import ENDPOINTS, Endpoint, Limits, Model, Price, UpstreamSource

_DATE = re.compile(r"(?P<date>[-@](?:20\d{2}-?[01]\d-?[0-3]\d|latest|default))$", re.IGNORECASE)
"""``-20251001`` (Anthropic), ``@20251001`` (Vertex AI), ``-2024-08-06`` (OpenAI), ``-latest``."""

_INHERITED = (
    *("family", "version", "license", "performance", "benchmarks", "languages", "voices", "voice_map"),
    *("parameters", "options", "successor"),
)
_KIN = {"azure": "openai"}
"""Protocols of the same models under another address."""


def undated(name: str) -> str:
    """The name without the date of its snapshot."""
    return _DATE.sub("", name)


def by_undated_name(rows: Iterable[Model]) -> dict[str, tuple[Model, ...]]:
    """Rows by their names without a date, in lower case: those without a date first, then the newest."""
    found: dict[str, list[tuple[str, Model]]] = {}
    for row in rows:
        names = {row.id, *row.aliases, *([row.source.model] if isinstance(row.source, UpstreamSource) else ())}
        dates: dict[str, str] = {}
        for name in (name.lower() for name in names):
            base = undated(name)
            date = name[len(base) + 1 :]
            dates[base] = min(dates.get(base, date), date)  # an empty date is the least
        for base, date in dates.items():
            found.setdefault(base, []).append((date, row))
    return {
        base: tuple(row for _, row in sorted(dated, key=lambda pair: _order(pair[0])))
        for base, dated in found.items()
    }


def _order(date: str) -> tuple[bool, int]:
    digits = date.replace("-", "")
    return bool(date), -int(digits) if digits.isdecimal() else 0


def informed(found: Iterable[Model], own: Iterable[Model], endpoints: Mapping[str, Endpoint]) -> tuple[Model, ...]:
    """The rows of a server's list, with what the rows of the same models know: features, limits, prices.

    A listed model that a row of ``own`` already reaches at the same endpoint is left out. Only rows of servers of
    the same protocol are asked, and prices are taken at the same host alone. A private server's model is its own,
    whatever its name.
    """
    own = tuple(row for row in own if isinstance(row.source, UpstreamSource))
    reached = {(row.endpoint_name, _model(row)) for row in own}
    known = by_undated_name(row for row in own if row.origin == "builtin")
    rows = []
    for row in found:
        if (row.endpoint_name, _model(row)) in reached:
            continue
        server = endpoints.get(row.endpoint_name)
        base = None if server is None or server.private else _base(row, server, known, endpoints)
        rows.append(
            row if base is None or server is None else _with(row, base, _same_host(server, base, endpoints))
        )
    return tuple(rows)


def _model(row: Model) -> str:
    return row.source.model.lower() if isinstance(row.source, UpstreamSource) else ""


def _base(
    row: Model, server: Endpoint, known: Mapping[str, tuple[Model, ...]], endpoints: Mapping[str, Endpoint]
) -> Model | None:
    for candidate in known.get(undated(_model(row)), ()):
        home = endpoints.get(candidate.endpoint_name)
        if home is not None and _kind(home) == _kind(server):
            return candidate
    return None


def _kind(server: Endpoint) -> str:
    return _KIN.get(server.protocol, server.protocol)


def _same_host(server: Endpoint, base: Model, endpoints: Mapping[str, Endpoint]) -> bool:
    home = endpoints[base.endpoint_name]
    return home.id == server.id or urlsplit(home.base_url).hostname == urlsplit(server.base_url).hostname


def _with(row: Model, base: Model, same_host: bool) -> Model:
    """The row with what it lacks. Capabilities of a list without any are a guess, which the known ones replace."""
    known = {
        name: getattr(base, name) for name in _INHERITED if name in base.model_fields_set - row.model_fields_set
    }
    features = row.capabilities - ENDPOINTS
    ours, theirs = base.limits.model_dump(exclude_none=True), row.limits.model_dump(exclude_none=True)
    # A known price may hold for a part of the context window only, which the known row's limits then bound.
    limits = {**theirs, **ours} if same_host else {**ours, **theirs}
    return row.model_copy(
        update={
            **known,
            "capabilities": base.capabilities | features,
            "limits": Limits(**limits),
            "price": base.price if same_host and row.price == Price() else row.price,
            "tags": row.tags | base.tags,
        }
    )
