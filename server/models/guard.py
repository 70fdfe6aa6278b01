"""Bounds what a row from a request may name: files, hosts, environment variables, kinds of sources.

A row of the settings file is written by a person with access to the machine, a row over HTTP by the holder of an
admin key. So it may name files in the folders that the settings list, hosts that they list, and keys of providers.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from urllib.parse import urlsplit

from backends.workers.engines.common.options import paths_of
from backends.workers.engines.registry import Engines
from catalog.clouds import address_of
from catalog.errors import ConfigurationError, InvalidRequest, UnsupportedParameter
from catalog.model import Endpoint, Model
from catalog.store.settings import ModelSettings
from catalog.types import Json

KINDS = ("hub", "path", "upstream")
_OF_THE_FILE = ("key_keyring", "credentials_file", "profile")
_KEY = "_API_KEY"


class RowGuard:
    """Checks rows, endpoints and options from a request. Every method raises InvalidRequest with the field.

    ``at_home`` means that the caller sits at the machine: only this machine can reach the server, and it has no
    keys. ``folders`` are those of discovery, ``endpoints`` the built-in ones and those of the settings: a key of
    theirs goes to their hosts alone.
    """

    def __init__(
        self,
        settings: ModelSettings,
        engines: Engines,
        *,
        at_home: bool,
        folders: Iterable[Path] = (),
        endpoints: Iterable[Endpoint] = (),
    ) -> None:
        self._settings = settings
        self._engines = engines
        self._at_home = at_home
        self._folders = (*settings.folders, *folders)
        self._endpoints = tuple(endpoints)

    def check_source(self, source: Json) -> None:
        """Check the source of a row. It follows symbolic links, so call it from a thread."""
        kind = source.get("kind")
        if kind not in KINDS:
            raise InvalidRequest(
                f"source.kind: a row registered over HTTP has the kind {', '.join(KINDS)}; write others into the "
                "settings file.",
                param="source.kind",
            )
        if kind == "path" and isinstance(source.get("path"), str):
            self._check_file(source["path"], "source.path", at_home=self._at_home)

    def check_context(self, row: Model) -> None:
        """Check that the engine of a row whose options name a context has one. Raises UnsupportedParameter."""
        if "context" in row.options and self._engines.context(row, 1) is None:
            having = sorted(name for name, engine in self._engines.items() if engine.context)
            said = f"'context' is not for the engine '{row.engine}' of '{row.id}'"
            raise UnsupportedParameter(f"{said}; these have it: {', '.join(having)}.", param="context")

    def check_options(self, row: Model, given: Collection[str]) -> None:
        """Check the options of a row's engine, and the files that those named in ``given`` lead to.

        It follows symbolic links. The other options are not the request's: a pull sets a projector, for one.
        """
        try:
            options = self._engines.options_of(row)
        except ConfigurationError as error:
            raise InvalidRequest(error.message, param=error.param or "options") from None
        if options is None and given:
            raise InvalidRequest(f"options: the engine '{row.engine}' has none.", param="options")
        for name, path, _ in paths_of(options):
            if re.split(r"[.\[]", name)[0] in given:
                self._check_file(str(path), f"options.{name}", at_home=False)

    def check_endpoint(self, endpoint: Json) -> None:
        """Check the address and the key's name of an endpoint."""
        for name in _OF_THE_FILE:
            if endpoint.get(name) is not None:
                field = f"endpoint.{name}"
                raise InvalidRequest(f"{field}: only an endpoint of the settings file may have it.", param=field)
        protocol, region = endpoint.get("protocol"), endpoint.get("region")
        address = endpoint.get("base_url")
        if not address and isinstance(protocol, str) and isinstance(region, str | None):
            address = address_of(protocol, region or "global")
        variables = endpoint.get("key_env") or ()
        for name in variables if isinstance(variables, list | tuple) else (variables,):
            self._check_variable(name, address)
        if isinstance(address, str) and address:
            self._check_host(address)

    def _check_variable(self, name: object, address: object) -> None:
        """Check that a variable may hold a key, and that another endpoint's key goes to no host but its own."""
        owners = [owner for owner in self._endpoints if name in owner.key_env]
        if not isinstance(name, str) or not (owners or name.endswith(_KEY)):
            raise InvalidRequest(
                f"endpoint.key_env: an endpoint registered over HTTP takes its key from a variable whose name "
                f"ends with {_KEY}, or from one that an endpoint of the settings names.",
                param="endpoint.key_env",
            )
        if (
            owners
            and isinstance(address, str)
            and _site(address) not in {_site(owner.base_url) for owner in owners}
        ):
            raise InvalidRequest(
                f"endpoint.key_env: the key of {name[:80]} is sent to the host of the endpoint '{owners[0].id}' "
                "alone. Name another variable, or write this endpoint into the settings file.",
                param="endpoint.key_env",
            )

    def _check_host(self, address: str) -> None:
        try:
            host = (urlsplit(address).hostname or "").rstrip(".")
        except ValueError:
            return  # the row's own check says what is wrong with it
        allowed = self._settings.hosts
        if allowed is None:
            fits = self._at_home and not _is_link_local(host)
        else:
            fits = any(host == each or (each.startswith("*.") and host.endswith(each[1:])) for each in allowed)
        if not fits:
            raise InvalidRequest(
                f"endpoint.base_url: the host '{host[:80]}' is not listed. Add it to hosts in [models] of the "
                "settings, and reload them with SIGHUP.",
                param="endpoint.base_url",
            )

    def _check_file(self, name: str, field: str, *, at_home: bool) -> None:
        if "\0" in name:
            raise InvalidRequest(f"{field}: it must be a file or folder.", param=field)
        try:
            path = Path(name).expanduser()
            fits = path.is_absolute() and (at_home or self._is_inside(path))
        except (OSError, RuntimeError):  # a loop of links, or no such user
            fits = False
        if not fits:
            raise InvalidRequest(
                f"{field}: it must be an absolute path in a folder that the settings list. Add the folder to "
                "folders in [models], and reload them with SIGHUP.",
                param=field,
            )

    def _is_inside(self, path: Path) -> bool:
        real = path.resolve()
        return any(real.is_relative_to(folder.expanduser().resolve()) for folder in self._folders)


def _site(address: str) -> tuple[str, str, int | None]:
    """The scheme, host and port of an address; empty for what is none, which the row's own check refuses."""
    try:
        parts = urlsplit(address)
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
        return parts.scheme, (parts.hostname or "").rstrip("."), port
    except ValueError:
        return "", "", None


def _is_link_local(host: str) -> bool:
    """Whether a host is an address at which clouds answer with a machine's own credentials."""
    try:
        return ipaddress.ip_address(host).is_link_local
    except ValueError:
        return False
