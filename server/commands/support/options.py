"""Errors about a field of a request, told as errors of the option or argument that gave it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Annotated, Any, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from typer.models import ArgumentInfo, OptionInfo

from catalog.errors import InvalidRequest, RoundhouseError
from catalog.validation.wording import shown
from server.commands.support.statuses import ServerAnswered, UsageError

P = ParamSpec("P")
R = TypeVar("R")
_KIND = re.compile(r" \(it is (?:text|empty text)\)")
_REFUSED = frozenset({400, 413, 422})


def gives(**fields: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a command name its options in errors about the fields of its request.

    ``fields`` has the command's parameters that give fields of another name: ``audio_format="response_format"``. A
    parameter gives the field of its own name without an entry. An error about a field that no parameter gave stays
    as it is; another becomes UsageError.
    """

    def decorated(command: Callable[P, R]) -> Callable[P, R]:
        @wraps(command)
        def run(*arguments: P.args, **given: P.kwargs) -> R:
            try:
                return command(*arguments, **given)
            except (InvalidRequest, ServerAnswered) as error:
                raise _as_usage(error, command, given, fields) from None

        return run

    return decorated


def check_fields(model: type[BaseModel], fields: Mapping[str, Any]) -> None:
    """Check a request before it is sent, and before a server is started for it. Raises InvalidRequest."""
    from server.edge.json_body import as_model  # imported at the first use: most commands send no such request

    as_model(model, dict(fields))


def _as_usage(
    error: RoundhouseError, command: Callable[..., Any], given: Mapping[str, Any], fields: Mapping[str, str]
) -> RoundhouseError:
    if not error.param or error.param == "model" or error.status not in _REFUSED:
        return error  # a model that cannot do it is well named
    name = _giver(error.param, command, given, fields)
    if name is None:
        return error
    told = error.message
    if isinstance(given[name], str):
        told = _KIND.sub(lambda _: f" (it is {shown(given[name], value=True)})", told)
    field, label = f"'{error.param}'", _label(command, name)
    return UsageError(told.replace(field, label) if field in told else f"{label}: {told}")


def _giver(
    field: str, command: Callable[..., Any], given: Mapping[str, Any], fields: Mapping[str, str]
) -> str | None:
    """The parameter that gave a field: by its whole name, else by its first or its last part."""
    parameters = inspect.signature(command).parameters
    for part in dict.fromkeys((field, field.partition(".")[0], field.rpartition(".")[2])):
        for name in (*(name for name, each in fields.items() if each == part), part):
            if name in given and given[name] != parameters[name].default:
                return name
    return None


def _label(command: Callable[..., Any], name: str) -> str:
    """A parameter as it is typed: ``--format``, or ``TEXT`` of an argument."""
    hint = get_type_hints(command, include_extras=True)[name]
    for each in get_args(hint)[1:] if get_origin(hint) is Annotated else ():
        if isinstance(each, ArgumentInfo):
            return name.upper()
        if isinstance(each, OptionInfo):
            # A declaration without a default has its first form in the place of the default.
            forms = [form for form in (each.default, *(each.param_decls or ())) if isinstance(form, str)]
            return next((form for form in forms if form.startswith("--")), f"--{name.replace('_', '-')}")
    return f"--{name.replace('_', '-')}"
