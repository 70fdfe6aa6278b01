"""Applies new settings to a running gateway."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter

from catalog.errors import ConfigurationError
from server.edge.auth import Keys
from server.edge.services import Services
from server.settings import Settings

SettingsLoader = Callable[[], Settings]
"""Loads the settings anew from file, environment and flags. Raises ConfigurationError."""

NEEDS_RESTART = (
    "server.host",
    "server.port",
    "server.admin_host",
    "server.admin_port",
    "server.processes",
    "server.cors",
    "data_dir",
    "workers",
    "state",
    "telemetry",
)
"""Settings that are read at start-up only."""


async def apply_settings(services: Services, settings: Settings) -> None:
    """Apply keys, limits, timeouts and the catalogue's rows to new requests; requests in flight are unaffected.

    Raises ConfigurationError, and applies nothing, when a setting of :data:`NEEDS_RESTART` has changed.
    """
    old = services.settings
    changed = [name for name in NEEDS_RESTART if attrgetter(name)(old) != attrgetter(name)(settings)]
    if changed:
        raise ConfigurationError(f"A change of {', '.join(changed)} needs a restart.")
    runtime = services.runtime
    if runtime is not None and runtime.reload is not None:
        await runtime.reload(settings)
    elif (old.model, old.endpoint) != (settings.model, settings.endpoint):
        raise ConfigurationError("A change of [[model]] or [[endpoint]] rows needs a restart.")
    services.settings = settings
    services.in_flight.limits = settings.server.limits
    if isinstance(services.authenticator, Keys):
        services.authenticator = services.authenticator.with_settings(settings)
