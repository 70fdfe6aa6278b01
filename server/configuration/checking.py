"""Checks the settings as a server would read them: every error, and the place to correct it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from backends.registry import PROVIDERS, check_protocols
from backends.workers.engines.common.options import paths_of
from backends.workers.engines.registry import builtin_engines, check_engines
from backends.workers.placement import check_memory
from backends.workers.settings import WorkerSettings
from catalog import toml_rows
from catalog.catalog import Catalog
from catalog.errors import ConfigurationError, ModelNotFound
from catalog.hardware import detect
from catalog.model import Endpoint, Model, PathSource
from catalog.store.file_checks import read_regular
from catalog.store.store import Store
from catalog.validation.settings_errors import explained
from catalog.validation.wording import describe, or_known, place, shown
from routing.beliefs.prior_files import faults
from routing.state.redis_clients import has_password
from server.catalog_updates import may_discover, unknown_preferred, wrong_preferences
from server.configuration.exposure import check_exposure
from server.configuration.origins import variable_of
from server.configuration.places import Path as Place
from server.configuration.places import line_of, lines_of
from server.configuration.tree import ROWS, every_setting
from server.configuration.valid_part import valid_part
from server.settings import (
    ENV_PREFIX,
    FILE_VARIABLE,
    KEY_SETTINGS,
    STATE_FILE,
    Settings,
    environment_given,
    environment_names,
    find_file,
    unreadable_variables,
    unset_secrets,
)

NOT_SETTINGS = frozenset({FILE_VARIABLE, "ROUNDHOUSE_KEY", "ROUNDHOUSE_URL"})
"""Variables of ours that are no settings: the file's path, and a client's key and address."""
_OF_EXPOSURE = (
    *("server.host", "server.admin_host", "server.admin_port", "server.insecure", "state.url", "data_dir"),
    *("api_keys", "admin_keys", "api_keys_env", "admin_keys_env"),
)
"""Settings that tell whether the server may be reached without a key."""
ReadsRow = Callable[[Any], Sequence[Model | Endpoint]]
_AT_LINE = re.compile(r" ?\(at line (\d+), column \d+\)")
_OF_ROW = re.compile(r"\[\[(model|endpoint)\]\] '([^']*)'(?:: ([\w.]+): )?")
_OF_SETTING = re.compile(r"(?:Invalid setting '|There is no setting '|^)([a-z_]+(?:\.[a-z0-9_*\"-]+(?::\d+)?)+)")
_REMEDY = re.compile(r"\.? Correct it in [^.]*(?:\.toml|the settings|the environment or a flag)\.?$")


@dataclass(frozen=True, slots=True)
class Finding:
    """An error, or a remark that keeps no server from starting. ``where`` is the file and line, or a variable."""

    where: str
    message: str
    error: bool = True

    def __str__(self) -> str:
        told = f"{self.where}: {self.message}" if self.where else self.message
        return told if self.error else f"{told} (not an error)"


def check(path: Path | None) -> list[Finding]:
    """The refusals and remarks of a server with this settings file and this environment, in the file's order.

    ``path`` as for :func:`server.settings.load_settings`.
    """
    return list(_Check(path).run())


class _Check:
    def __init__(self, path: Path | None) -> None:
        self._file = find_file(path)
        self._lines: Mapping[Place, int] = {}
        self._content: dict[str, Any] = {}
        self._environment: Mapping[str, Any] = {}
        self._left_out: set[Place] = set()
        """Places of what is wrong, without which the rest is checked."""

    def run(self) -> Iterator[Finding]:
        found = list(self._variables())
        unread = self._read()
        if unread is not None:  # what the settings are together is not known then
            found += [unread, *self._values()[1], *self._unknown_variables()]
        else:
            found += self._secrets_in_file()
            settings, wrong = self._values()
            found += wrong
            found += self._rows()
            found += self._together(settings)
            found += self._unknown_variables()
        yield from sorted(found, key=lambda each: (not each.error, _line(each.where), each.where))

    def _variables(self) -> Iterator[Finding]:
        """Variables that cannot be read."""
        unreadable = unreadable_variables()
        self._environment = environment_given(without=unreadable)
        for name in unreadable:
            self._left_out.add(tuple(name.lower().removeprefix(ENV_PREFIX.lower()).split("__")))
            yield Finding(name, "It is not JSON, which tables and lists are written in.")

    def _read(self) -> Finding | None:
        """Read the file; a finding if it cannot be read."""
        if self._file is None:
            return None
        try:
            text = read_regular(self._file).decode("utf-8-sig")
            self._content = tomllib.loads(text)
        except OSError as error:
            return Finding(str(self._file), f"It cannot be read: {error.strerror}.")
        except UnicodeDecodeError:
            return Finding(str(self._file), "It is not UTF-8 text.")
        except tomllib.TOMLDecodeError as error:
            line = _AT_LINE.search(str(error))
            where = f"{self._file}:{line[1]}" if line else str(self._file)
            return Finding(where, f"It is not TOML: {_AT_LINE.sub('', str(error))}.")
        except RecursionError:
            return Finding(str(self._file), "Its lists or tables are nested too deeply.")
        self._lines = lines_of(text)
        return None

    def _secrets_in_file(self) -> Iterator[Finding]:
        for name in KEY_SETTINGS:
            if name in self._content:
                del self._content[name]
                self._left_out.add((name,))
                advice = f"set {variable_of(name, {})}, or name a variable with {name}_env"
                yield Finding(self._at((name,)), f"Keys do not belong in the settings file: {advice}.")
        state = self._content.get("state")
        url = state.get("url") if isinstance(state, dict) else None
        if isinstance(url, str) and has_password(url):
            message = "A password does not belong in the settings file: name its variable with url_env in [state]."
            yield Finding(self._at(("state", "url")), message)

    def _values(self) -> tuple[Settings, list[Finding]]:
        """The settings that are right, and errors of single ones, of the file and the environment together."""
        settings, errors, left_out = valid_part(_merged(self._content, self._environment))
        self._left_out |= left_out
        found = [Finding(self._at(each["loc"]), explained(each, Settings)) for each in errors]
        for setting, message in unset_secrets(settings):
            place = tuple(setting.split("."))
            self._left_out.add(place)
            found.append(Finding(self._at(place), message))
        return settings, found

    def _rows(self) -> Iterator[Finding]:
        """Errors of each row by itself."""
        models, endpoints = toml_rows.builtin_rows()
        known_models = {row.id.lower(): row for row in models}
        known_endpoints = {row.id: row for row in endpoints}
        read: dict[str, ReadsRow] = {
            "model": lambda row: toml_rows.user_models([row], known_models),
            "endpoint": lambda row: toml_rows.user_endpoints([row], known_endpoints),
        }
        values = _merged(self._content, self._environment)
        for table in ROWS:
            rows = values.get(table)
            wrong: dict[str, bool] = {}  # by id, whether a row before has an error
            for number, row in enumerate(rows if isinstance(rows, list) else ()):
                if not isinstance(row, dict):
                    continue
                found = list(self._row(table, number, row, read[table]))
                named = str(row.get("id", ""))
                name = named.lower() if table == "model" else named
                if name in wrong and (found or wrong[name]):  # two that are right are found with the catalogue
                    said = f"[[{table}]] '{named[:100]}' is given twice; remove one."
                    found.append(Finding(self._at((table, number, "id")), said))
                wrong[name] = wrong.get(name, False) or bool(found)
                if found:
                    self._left_out.add((table, number))
                yield from found

    def _row(self, table: str, number: int, row: Any, read: ReadsRow) -> Iterator[Finding]:
        try:
            found = read(row)[0]
            if isinstance(found, Model):
                check_engines([found], builtin_engines(WorkerSettings().python))
            else:
                check_protocols([found])
        except ConfigurationError as error:
            wrong = error.__cause__
            if isinstance(wrong, ConfigurationError):  # of options of an engine
                for message, param in ((wrong.message, wrong.param), *wrong.also):
                    at: Place = (table, number, *(param or "").split("."))
                    yield Finding(self._at(at), f"[[{table}]] '{row.get('id')}': {message}")
                return
            if not isinstance(wrong, ValidationError):
                yield Finding(self._at((table, number, *_field_of(error.message))), error.message)
                return
            for each in wrong.errors(include_url=False):
                field = place(each)
                value = str(each["loc"][0] if each["loc"] else "") not in toml_rows.MAY_BE_SECRET
                label = f"[[{table}]] '{str(row.get('id', 'without an id'))[:100]}'"
                said = f"{label}: {field + ': ' if field else ''}{describe(each, value=value)}."
                yield Finding(self._at((table, number, *each["loc"])), said)
            wrong_fields = {each["loc"][0] for each in wrong.errors(include_url=False) if each["loc"]}
            yield from self._unknown_name(table, number, row, wrong_fields)

    def _unknown_name(self, table: str, number: int, row: Any, wrong: Collection[int | str]) -> Iterator[Finding]:
        """An unknown engine or protocol of a row that has other errors, for which it was not read as a whole."""
        field = "engine" if table == "model" else "protocol"
        known: Collection[str] = builtin_engines(WorkerSettings().python) if table == "model" else PROVIDERS
        name = row.get(field)
        if isinstance(name, str) and field not in wrong and name not in known:
            said = f"[[{table}]] '{str(row.get('id', 'without an id'))[:100]}': {field}: there is no "
            told = f"{said}{shown(name, value=True)}{or_known(name, known)}."
            yield Finding(self._at((table, number, field)), told.replace("?.", "?"))

    def _together(self, settings: Settings) -> Iterator[Finding]:
        """Errors and remarks of settings that are right each by itself.

        A check that reads a setting which is wrong is left out: its error might be none once that is mended.
        """
        may_have_keys = settings.state.url is not None or (settings.data_dir / STATE_FILE).exists()
        devices = detect().devices
        for fault in faults(settings.routing.priors):
            yield self._located(fault.message)
        checks: list[tuple[Collection[str], Callable[[], object]]] = [
            ((), partial(check_memory, {device: size}, devices))
            for device, size in settings.workers.memory.items()
        ]
        checks.append((_OF_EXPOSURE, lambda: check_exposure(settings, virtual_keys=may_have_keys)))
        for reads, each in checks:
            if self._is_wrong(reads):
                continue
            try:
                each()
            except ConfigurationError as error:
                yield self._located(error.message)
        yield from self._of_catalog(settings)

    def _of_catalog(self, settings: Settings) -> Iterator[Finding]:
        """Errors and remarks of the rows together, and of the settings that name a model.

        A row with an error is left out, so that the next one is found; nothing is said of what only lacks it.
        """
        rows, absent = self._rows_and_absent(settings)
        pulled = Store(settings.data_dir / "models").rows()
        while True:
            try:
                catalog = Catalog.load(user_models=rows["model"], user_endpoints=rows["endpoint"], pulled=pulled)
                break
            except ConfigurationError as error:
                if not _lacks(error.message, absent):
                    yield self._located(error.message)
                row = _OF_ROW.search(error.message)
                wrong = [] if row is None else [each for each in rows[row[1]] if str(each.get("id")) == row[2]]
                if not wrong:
                    return
                rows[row[1]].remove(wrong[-1])  # type: ignore[index]
                if len(wrong) == 1:
                    absent |= _names(wrong[-1])
        for each in wrong_preferences(settings, catalog):
            if not _lacks(each.message, absent):
                yield self._located(each.message)
        for remark in catalog.remarks():
            yield self._located(remark, error=False)
        yield from self._absent_files(settings, catalog)
        missing_models = unknown_preferred(settings.routing, catalog) if may_discover(settings, catalog) else ()
        for setting, missing in missing_models:
            if not _lacks(missing.message, absent):
                said = f"'{setting}' is not known yet, and may be found at the start: {missing.message}"
                yield self._located(said, error=False, setting=setting)

    def _absent_files(self, settings: Settings, catalog: Catalog) -> Iterator[Finding]:
        """Remarks on folders and files that are not there. They may come later: a server starts without them."""
        for folder in settings.discovery.folders:
            if not folder.expanduser().is_dir():
                yield Finding(self._at(("discovery", "folders")), f"There is no folder {folder}.", error=False)
        for number, row in enumerate(settings.model):
            model = catalog.get(str(row.get("id")))
            if ("model", number) in self._left_out or model is None:
                continue
            named = {"source.path": model.source.path} if isinstance(model.source, PathSource) else {}
            options = builtin_engines(settings.workers.python).options_of(model) if "options" in row else None
            named |= {f"options.{name}": str(path) for name, path, _ in paths_of(options) if path != Path()}
            for name, path in named.items():
                if not Path(path).expanduser().exists():
                    said = f"[[model]] '{row.get('id')}': {name}: there is no file or folder {path}."
                    yield Finding(self._at(("model", number, *re.split(r"[.[]", name)[:2])), said, error=False)

    def _rows_and_absent(self, settings: Settings) -> tuple[dict[str, list[dict[str, Any]]], set[str]]:
        """The rows that are right each by itself, and the names of the others."""
        absent: set[str] = set()
        rows: dict[str, list[dict[str, Any]]] = {}
        for table in ROWS:
            given = list(enumerate(getattr(settings, table)))
            absent |= {name for n, row in given if (table, n) in self._left_out for name in _names(row)}
            rows[table] = [row for n, row in given if (table, n) not in self._left_out]
        return rows, absent

    def _is_wrong(self, settings: Collection[str]) -> bool:
        """Whether one of these settings, or a part of one, is among what is wrong."""
        paths = [tuple(each.split(".")) for each in settings]
        return any(left[: len(path)] == path[: len(left)] for path in paths for left in self._left_out)

    def _unknown_variables(self) -> Iterator[Finding]:
        """Variables with our prefix that nothing reads: a misspelt one is ignored without a word by the server."""
        settings = {variable_of(each.name, {}) for each in every_setting()}
        sections = {name.rpartition("__")[0] for name in settings} - {""}
        for name, written in environment_names().items():
            known = name in settings | sections | NOT_SETTINGS
            if not known and not any(name.startswith(f"{each}__") for each in settings | sections):
                yield Finding(written, "No setting has this variable, so it is not read.", error=False)

    def _located(self, message: str, *, error: bool = True, setting: str = "") -> Finding:
        """A finding whose message names the setting or the row at fault."""
        message = _REMEDY.sub("", message).replace(ModelNotFound.where, "").rstrip(". ") + "."
        row, named = _OF_ROW.search(message), _OF_SETTING.search(setting or message)
        if row is not None:
            rows = self._content.get(row[1], ())
            numbers = [n for n, each in enumerate(rows) if str(each.get("id")) == row[2]]
            path = (row[1], *numbers[-1:], *_field_of(message))
            return Finding(self._at(path) if numbers else str(self._file or ""), message, error)
        if named is not None:
            return Finding(self._at(tuple(named[1].replace('"', "").split("."))), message, error)
        return Finding(str(self._file or ""), message, error)

    def _at(self, path: Place) -> str:
        """The place of a value: the variable that gives it, else its line in the file."""
        if _holds(self._environment, path):
            return variable_of(".".join(map(str, path)), environment_names())
        line = line_of(self._lines, path)
        if line is not None:
            return f"{self._file}:{line}"
        return "" if self._file is None else str(self._file)


def _field_of(message: str) -> tuple[str, ...]:
    """The field of a row that a message names."""
    found = _OF_ROW.search(message)
    return () if found is None or found[3] is None else tuple(found[3].split("."))


def _names(row: Mapping[str, Any]) -> set[str]:
    """The names of a row that may be wrong."""
    aliases = row.get("aliases")
    names = (row.get("id"), row.get("name"), *(aliases if isinstance(aliases, list | tuple) else ()))
    return {name.casefold() for name in names if isinstance(name, str)}


def _lacks(message: str, absent: Collection[str]) -> bool:
    """Whether an error names a row that is there and is wrong itself."""
    said = message.casefold()
    return any(f"'{name}'" in said for name in absent)


def _line(where: str) -> int:
    found = re.search(r":(\d+)$", where)
    return int(found[1]) if found else 0


def _holds(values: Any, path: Place) -> bool:
    """Whether nested values have a value on the path, at least that of its beginning's last table."""
    for part in path:
        if not isinstance(values, Mapping):
            return True  # a list or text, in which the rest of the path is
        if part not in values:
            return False
        values = values[part]
    return True


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables, those of ``above`` over those of ``below``."""
    both = {**below, **above}
    for name in below.keys() & above.keys():
        if isinstance(below[name], Mapping) and isinstance(above[name], Mapping):
            both[name] = _merged(below[name], above[name])
    return both
