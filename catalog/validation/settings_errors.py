"""Validation errors of the settings as lines that say how to correct them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from catalog.validation.nesting import models_in
from catalog.validation.wording import UNKNOWN, describe, place

_MAY_BE_SECRET = re.compile("key|url|proxy|endpoint|model|settings")
"""Settings whose wrong text is not repeated: it may be a secret, or a URL with one."""


def one_line(error: ValidationError, settings: type[BaseModel], file: Path | None) -> str:
    """Describe the first error. An unknown setting comes with the most similar names."""
    first = error.errors(include_url=False)[0]
    more = f" (and {error.error_count() - 1} more: roundhouse config check)" if error.error_count() > 1 else ""
    origin = f"{file}, the environment or a flag" if file else "the environment or a flag"
    return f"{explained(first, settings, more=more)} Correct it in {origin}."


def explained(error: ErrorDetails, settings: type[BaseModel], *, more: str = "") -> str:
    """Describe one error; ``more`` follows what is wrong."""
    where = place(error).removesuffix(".[key]") or "settings"
    if error["type"] == UNKNOWN:
        return f"There is no setting '{where}'{more}.{_suggestion(where, settings)}"
    return f"Invalid setting '{where}': {describe(error, value=not _MAY_BE_SECRET.search(where))}{more}."


def _suggestion(where: str, settings: type[BaseModel]) -> str:
    paths = list(_paths(settings))
    last = where.rpartition(".")[2]
    near = difflib.get_close_matches(where, paths, n=1, cutoff=0.7)
    near += [path for path in paths if path.rpartition(".")[2] == last and path not in near]
    return f" Did you mean {' or '.join(repr(path) for path in near[:2])}?" if near else ""


def _paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted names of a model's settings and of those nested in it."""
    for name, field in model.model_fields.items():
        yield prefix + name
        for inner in models_in(field.annotation):
            yield from _paths(inner, f"{prefix}{name}.")
