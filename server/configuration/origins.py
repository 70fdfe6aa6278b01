"""The settings in force, and where each comes from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, Literal

from typing_extensions import TypedDict

from server.configuration.tree import ROWS, Setting, every_setting, plain
from server.settings import ENV_PREFIX, KEY_SETTINGS, Settings, environment_names

HIDDEN = "[hidden]"
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_HOLD_URLS = ("backends.proxy", "state.url")


class SettingInForce(TypedDict):
    """A setting and its value, where no secret is shown.

    ``origin`` is the source that won; a table may have parts of several. ``where`` is the file, the variable or
    the flag; null for a default.
    """

    name: str
    value: Any
    origin: Literal["default", "file", "environment", "flag"]
    where: str | None


FLAGS = {
    "server.host": "--host",
    "server.port": "--port",
    "server.processes": "--workers",
    "server.insecure": "--insecure",
    "log.level": "--log-level",
}
"""The flag of ``serve`` for a setting."""


def in_force(settings: Settings) -> list[SettingInForce]:
    """Every setting in force, section by section."""
    given, variables = settings.given, environment_names()
    found: list[SettingInForce] = []
    for setting in every_setting():
        origin, where = _origin(setting, settings, given, variables)
        value = shown(setting.name, attrgetter(setting.name)(settings))
        found.append({"name": setting.name, "value": value, "origin": origin, "where": where})
    return found


def shown(name: str, value: Any) -> Any:
    """A value as it may be shown: no key, no credentials in a URL; of rows their ids."""
    if name in KEY_SETTINGS:
        return [HIDDEN] * len(value)
    if name in ROWS:
        return [str(row.get("id", "")) for row in value]
    told = plain(value)
    if name in _HOLD_URLS and told is not None:
        return _CREDENTIALS.sub(f"{HIDDEN}@", told)
    return told


def variable_of(name: str, variables: Mapping[str, str]) -> str:
    """The variable that gives a setting: its own, or that of a table around it; its own where none is set."""
    parts = name.upper().split(".")
    forms = [ENV_PREFIX + "__".join(parts[:count]) for count in range(len(parts), 0, -1)]
    within = (form for form in variables if form.startswith(f"{forms[0]}__"))
    known = next((form for form in forms if form in variables), None) or next(within, forms[0])
    return variables.get(known, known)


def _origin(
    setting: Setting,
    settings: Settings,
    given: Sequence[tuple[str, Mapping[str, Any]]],
    variables: Mapping[str, str],
) -> tuple[Literal["default", "file", "environment", "flag"], str | None]:
    for source, values in given:
        if not _has(values, setting):
            continue
        if source == "flag":
            return "flag", FLAGS.get(setting.name)
        if source == "environment":
            return "environment", variable_of(setting.name, variables)
        return "file", str(settings.file)
    if setting.name in (*KEY_SETTINGS, "state.url") and (named := attrgetter(f"{setting.name}_env")(settings)):
        return "environment", str(named)
    return "default", None


def _has(names: Any, setting: Setting) -> bool:
    """Whether nested names have a setting."""
    for part in setting.name.split(".")[:-1]:
        names = names.get(part)
        if not isinstance(names, Mapping):
            return False
    return any(key in names for key in setting.keys)
