"""Applies new settings to a running gateway."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import attrgetter

from pydantic import BaseModel

from catalog.errors import ConfigurationError
from routing.reading.stand_ins import StandIns
from server.configuration.capped_keys import tell_unbound_caps
from server.edge.auth import Keys
from server.edge.services import Services
from server.settings import Settings

SettingsLoader = Callable[[], Settings]
"""Loads the settings anew from file, environment and flags. Raises ConfigurationError."""

APPLIED = (
    "server.allowed_hosts",
    "server.limits.body_bytes",
    "server.limits.audio_bytes",
    "server.limits.image_bytes",
    "server.limits.form_fields",
    "server.limits.form_field_bytes",
    "server.limits.concurrency",
    "server.limits.concurrency_per_key",
    "server.limits.retry_after",
    "server.limits.speech_characters",
    "server.timeouts.body",
    "server.timeouts.body_idle",
    "server.timeouts.body_rate",
    "server.timeouts.send",
    "server.streams",
    "server.drain",
    "backends.connect_timeout",
    "backends.first_byte_timeout",
    "backends.idle_timeout",
    "backends.total_timeout",
    "routing.weights",
    "routing.latency_scale",
    "routing.cost_scale",
    "routing.batch_latency_factor",
    "routing.unnoticed",
    "routing.unnoticed_per_token",
    "routing.able",
    "routing.best_explores",
    "routing.priors",
    "routing.stakes",
    "routing.local_bonus",
    "routing.effort",
    "routing.diversity",
    "routing.candidates",
    "routing.preferred",
    "routing.cold_start",
    "routing.affinity",
    "routing.speech",
    "routing.judge",
    "routing.classify_floor",
    "routing.stand_ins",
    "discovery",
    "models",
    "spend",
    "breakers",
    "retries",
    "traces",
    "persistence",
    "storage.store",
    "storage.keep",
    "storage.bytes_per_key",
    "storage.file_bytes",
    "storage.file_bytes_per_key",
    "storage.image_url_seconds",
    "storage.batch_lines",
    "storage.batch_fallback",
    "storage.provider_ids",
    "realtime.sessions",
    "realtime.sessions_per_key",
    "realtime.session_seconds",
    "realtime.idle_seconds",
    "realtime.buffer_seconds",
    "realtime.audio_bytes",
    "realtime.text_bytes",
    "log.access",
    "api_keys",
    "admin_keys",
    "metrics_keys",
    "api_keys_env",
    "admin_keys_env",
    "metrics_keys_env",
    "model",
    "endpoint",
)
"""Settings, or whole sections, that apply to new requests once they are reloaded."""

NEEDS_RESTART = (
    "server.host",
    "server.port",
    "server.admin_host",
    "server.admin_port",
    "server.insecure",
    "server.proxies",
    "server.forwarded",
    "server.root_path",
    "server.cors",
    "server.limits.header_bytes",
    "server.limits.headers",
    "server.timeouts.headers",
    "server.timeouts.keep_alive",
    "server.processes",
    "server.liveness",
    "server.backlog",
    "server.docs",
    "server.console",
    "backends.max_queue",
    "backends.keepalive",
    "backends.max_response_bytes",
    "backends.max_event_bytes",
    "backends.max_error_bytes",
    "backends.proxy",
    "backends.fetch",
    "backends.ca_file",
    "backends.video_poll",
    "workers",
    "routing.learning",
    "routing.signals",
    "state",
    "storage.files",
    "storage.batches",
    "storage.batch_concurrency",
    "storage.background",
    "storage.videos",
    "realtime.message_bytes",
    "log.format",
    "log.level",
    "log.prompts",
    "telemetry",
    "data_dir",
)
"""Settings, or whole sections, that are read at the start only: a reload that changes one is refused."""


async def apply_settings(services: Services, settings: Settings) -> list[str]:
    """Apply the settings of :data:`APPLIED` to new requests; requests in flight are unaffected.

    Returns the names of those that changed. Raises ConfigurationError, and applies nothing, when a setting of
    :data:`NEEDS_RESTART` has changed.
    """
    changed = applicable(services.settings, settings)
    runtime = services.runtime
    if runtime is not None and runtime.reload is not None:
        await runtime.reload(settings)
        runtime.stand_ins = StandIns(settings.routing.stand_ins)
        tell_unbound_caps(settings, runtime.keys)
    elif changed:
        raise ConfigurationError(f"A change of {', '.join(changed)} needs a restart.")
    services.settings = settings
    services.in_flight.limits = settings.server.limits
    if isinstance(services.authenticator, Keys):
        services.authenticator = services.authenticator.with_settings(settings)
    return changed


def applicable(old: Settings, new: Settings) -> list[str]:
    """The names of the settings whose values differ. Raises ConfigurationError if one of them needs a restart."""
    changed = [name for name in setting_names(Settings) if attrgetter(name)(old) != attrgetter(name)(new)]
    refused = [name for name in changed if _in_table(name, NEEDS_RESTART)]
    if refused:
        raise ConfigurationError(f"A change of {', '.join(refused)} needs a restart.")
    return changed


def setting_names(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted names of a section's settings, those of its own sections one by one."""
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from setting_names(inner, f"{prefix}{name}.")
        else:
            yield prefix + name


def _in_table(name: str, table: tuple[str, ...]) -> bool:
    return any(name == entry or name.startswith(f"{entry}.") for entry in table)
