"""Validates TOML tables (``catalog/builtin/*.toml``, a settings file) into catalogue rows.

A mistake is reported in one line that names the row and the field.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from catalog.errors import ConfigurationError
from catalog.hardware import has_apple_model
from catalog.model import ENDPOINTS, Endpoint, Model
from catalog.prices.rates import KNOWN_TIERS
from catalog.validation.wording import describe, place

Row = TypeVar("Row", bound=BaseModel)
Table = Mapping[str, Any]


def builtin_rows() -> tuple[tuple[Model, ...], tuple[Endpoint, ...]]:
    """Read the built-in rows: those of this machine first, then each provider's.

    The row of Apple's own model is there on machines that have it.
    """
    models: list[Model] = []
    endpoints: list[Endpoint] = []
    found = (entry for entry in files("catalog").joinpath("builtin").iterdir() if entry.name.endswith(".toml"))
    for entry in sorted(found, key=lambda entry: (entry.name != _LOCAL, entry.name)):
        if entry.name == _APPLE and not has_apple_model():
            continue
        document = tomllib.loads(entry.read_text("utf-8"))
        templates = document.get("template", {})
        models += [_row(Model, "model", _filled(table, templates)) for table in document.get("model", ())]
        endpoints += [_row(Endpoint, "endpoint", table) for table in document.get("endpoint", ())]
    return tuple(models), tuple(endpoints)


_LOCAL = "local.toml"
_APPLE = "apple.toml"
_LEAST_WINDOW = 128
"""The smallest context window that an engine takes."""


def _filled(table: Table, templates: Mapping[str, Table]) -> Table:
    """A row with the fields that its ``template`` has and it has not.

    The template's ``endpoint`` becomes the source, in which the model has the row's id.
    """
    if "template" not in table:
        return table
    row = {**templates[table["template"]], **table}
    del row["template"]
    endpoint = row.pop("endpoint")
    return {"source": {"kind": "upstream", "endpoint": endpoint, "model": row["id"]}, **row}


def user_models(tables: Sequence[Table | Model], known: Mapping[str, Model]) -> list[Model]:
    """Validate ``[[model]]`` tables. One with the id of a known row is merged over it, but for the price of a row
    of this machine where the table's is another server's.

    Raises ConfigurationError for a wrong, missing or unknown field, and for a duplicate id.
    """
    rows: dict[str, Model] = {}
    for table in tables:
        if isinstance(table, Model):
            row = table.model_copy(update={"origin": "user"})
        else:
            identifier = str(table.get("id", ""))
            base = known.get(identifier.lower())
            merged = {**_fields(base), **table} if base is not None else dict(table)
            if base is not None and base.local and "price" not in table and _elsewhere(table):
                merged.pop("price", None)  # it costs nothing on this machine, and perhaps there
            row = _row(Model, "model", {**merged, "origin": "user"})
            _check(row)
        row = _with_window(row, table)
        if row.id.lower() in rows:
            raise ConfigurationError(f"[[model]] '{row.id}' is given twice; remove one.", param="id")
        rows[row.id.lower()] = row
    return list(rows.values())


def _elsewhere(table: Table) -> bool:
    source = table.get("source")
    return isinstance(source, Mapping) and source.get("kind") == "upstream"


def _with_window(row: Model, table: Table | Model) -> Model:
    """The row with the context window that its own table names as its engine's, unless the options name another.

    The window of a row that a file's header gave is what the model was trained for, which nobody asked for.
    """
    limits = table.limits.model_dump() if isinstance(table, Model) else table.get("limits")
    window = limits.get("context_window") if isinstance(limits, Mapping) else None
    if not row.local or not isinstance(window, int) or window < _LEAST_WINDOW or "context" in row.options:
        return row
    return row.model_copy(update={"options": {**row.options, "context": window}})


def remarks(rows: Iterable[Model], ids: Mapping[str, Model]) -> Iterator[str]:
    """Sentences about the user's rows that are valid and perhaps a mistake; ``ids`` has all rows by their id."""
    for row in rows:
        if row.origin != "user":
            continue
        for alias in row.aliases:
            named = ids.get(alias.lower())
            if named is None or named.id == row.id:
                continue
            means = f"[[model]] '{row.id}': the alias '{alias}' is the id of another model, "
            if named.origin == "user":
                yield means + "which keeps it: choose another alias."
            else:
                yield means + f"and takes that name from it: ask for that one as '{named.provider}/{named.id}'."
        for tier in row.price.tiers:
            if tier not in KNOWN_TIERS:
                near = difflib.get_close_matches(tier.lower(), KNOWN_TIERS, n=1)
                meant = f" Did you mean '{near[0]}'?" if near else ""
                yield f"[[model]] '{row.id}': price.tiers: no known provider has a tier '{tier}'.{meant}"


def user_endpoints(tables: Sequence[Table | Endpoint], known: Mapping[str, Endpoint]) -> list[Endpoint]:
    """Validate ``[[endpoint]]`` tables, merged over known endpoints as in :func:`user_models`."""
    rows: dict[str, Endpoint] = {}
    for table in tables:
        if isinstance(table, Endpoint):
            row = table
        else:
            base = known.get(str(table.get("id", "")))
            row = _row(Endpoint, "endpoint", {**_fields(base), **table})
        if row.id in rows:
            raise ConfigurationError(f"[[endpoint]] '{row.id}' is given twice; remove one.", param="endpoint.id")
        rows[row.id] = row
    return list(rows.values())


def _check(row: Model) -> None:
    """Raises ConfigurationError for a row of the user's that no request could use as it says."""
    limits = row.limits
    if not row.endpoints:
        known = ", ".join(sorted(ENDPOINTS))
        raise ConfigurationError(
            f"[[model]] '{row.id}': capabilities: it needs at least one of {known}.", param="capabilities"
        )
    if limits.context_window and limits.max_output_tokens and limits.max_output_tokens > limits.context_window:
        raise ConfigurationError(
            f"[[model]] '{row.id}': limits.max_output_tokens: it must be at most limits.context_window, which is "
            f"{limits.context_window} (it is {limits.max_output_tokens}).",
            param="limits.max_output_tokens",
        )


def _fields(base: BaseModel | None) -> dict[str, Any]:
    return {} if base is None else {name: getattr(base, name) for name in base.model_fields_set}


def _row(kind: type[Row], table_name: str, table: Table) -> Row:
    try:
        return kind.model_validate(dict(table))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = place(first) or "id"
        value = str(first["loc"][0] if first["loc"] else "") not in MAY_BE_SECRET
        label = str(table.get("id") or table.get("name") or "without an id")[:100]
        raise ConfigurationError(
            f"[[{table_name}]] '{label}': {field}: {describe(first, value=value)}",
            param=field if table_name == "model" else f"{table_name}.{field}",
        ) from error


MAY_BE_SECRET = frozenset({"base_url", "key_env", "key_keyring", "headers", "query"})
"""Fields whose wrong value is not repeated: it may be a key, or a URL with one."""
