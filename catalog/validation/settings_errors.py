"""Validation errors of the settings as one line that says how to correct them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from catalog.validation.wording import UNKNOWN, describe, place

_MAY_BE_SECRET = re.compile("key|url|proxy|endpoint|model|settings")
"""Settings whose wrong text is not repeated: it may be a secret, or a URL with one."""


def one_line(error: ValidationError, settings: type[BaseModel], file: Path | None) -> str:
    """Describe the first error. An unknown setting comes with the most similar names."""
    first = error.errors(include_url=False)[0]
    where = place(first) or "settings"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    origin = f"{file}, the environment or a flag" if file else "the environment or a flag"
    if first["type"] == UNKNOWN:
        return f"There is no setting '{where}'{more}.{_suggestion(where, settings)} Correct it in {origin}."
    wrong = describe(first, value=not _MAY_BE_SECRET.search(where))
    return f"Invalid setting '{where}': {wrong}{more}. Correct it in {origin}."


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
        for inner in _models(field.annotation):
            yield from _paths(inner, f"{prefix}{name}.")


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for part in get_args(annotation):
        yield from _models(part)
