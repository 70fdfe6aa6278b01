"""Every setting in one typed tree: ``roundhouse.toml``, then ``ROUNDHOUSE_*``, then the command line.

The one place that reads the environment. A key is never written in the file: the file names the
environment variable that holds it.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from platformdirs import user_data_path
from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from backends.settings import BackendSettings
from backends.workers.settings import WorkerSettings
from catalog.errors import ConfigurationError
from routing.accounts.spend import SpendSettings
from routing.calling.retry_budget import RetrySettings
from routing.calling.traces import TraceSettings
from routing.persistence import PersistenceSettings
from routing.settings import RoutingSettings
from routing.state.factory import StateSettings
from routing.upstreams.breaker import BreakerSettings
from routing.upstreams.discovery import DiscoverySettings

_SECTION = ConfigDict(frozen=True, extra="forbid")
MIB = 1024 * 1024
FILE_NAME = "roundhouse.toml"
FILE_VARIABLE = "ROUNDHOUSE_CONFIG"
STATE_FILE = "state.sqlite3"
"""In the data folder: what must survive a restart, virtual keys among it."""


class LimitSettings(BaseModel):
    """What one request, one caller and all callers together may take; sizes in bytes."""

    model_config = _SECTION
    body_bytes: int = Field(default=32 * MIB, gt=0, description="a JSON body")
    audio_bytes: int = Field(default=128 * MIB, gt=0, description="a multipart body with audio")
    form_fields: int = Field(default=64, gt=0)
    form_field_bytes: int = Field(default=MIB, gt=0)
    header_bytes: int = Field(default=32 * 1024, gt=0, description="all header lines and the request line")
    headers: int = Field(default=100, gt=0)
    concurrency: int = Field(default=2048, gt=0, description="requests at work in this process")
    concurrency_per_key: int | None = Field(default=None, gt=0)
    retry_after: float = Field(default=1.0, gt=0, description="seconds that a refusal for load asks to wait")


class TimeoutSettings(BaseModel):
    """Seconds that the gate waits for a client."""

    model_config = _SECTION
    headers: float = Field(default=8.0, gt=0, description="from connecting to the end of the headers")
    body: float = Field(default=600.0, gt=0, description="from the headers to the end of the body")
    body_idle: float = Field(default=7.0, gt=0, description="between two pieces of a body")
    body_rate: int = Field(
        default=4096,
        gt=0,
        description="bytes a second that a body must come at, after its first body_idle seconds",
    )
    send: float = Field(default=30.0, gt=0, description="for a slow reader to take the next piece")
    keep_alive: float = Field(default=75.0, gt=0, description="an idle connection")


class StreamSettings(BaseModel):
    """How event streams behave."""

    model_config = _SECTION
    headers_after: float = Field(
        default=10.0, gt=0, description="seconds after which headers leave though no chunk has come"
    )
    ping: float = Field(default=15.0, ge=0, description="seconds between keep-alive comments; 0 sends none")
    buffer: int = Field(default=256, gt=0, description="chunks held for a slow reader before its upstream waits")


class CorsSettings(BaseModel):
    """Which web pages may call; none by default."""

    model_config = _SECTION
    origins: tuple[str, ...] = ()
    credentials: bool = False

    @model_validator(mode="after")
    def _no_open_door(self) -> Self:
        if self.credentials and "*" in self.origins:
            raise ValueError(
                "origins = ['*'] with credentials lets any web page act as its visitor: name the origins"
            )
        return self


class ServerSettings(BaseModel):
    """Where to listen, whom to answer, and how to stop."""

    model_config = _SECTION
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    admin_host: str | None = Field(default=None, description="where admin routes are, when not at `host`")
    admin_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="a second listener, the only one with admin routes",
    )
    insecure: bool = Field(default=False, description="serve without keys on an address others can reach")
    allowed_hosts: tuple[str, ...] = Field(
        default=(), description="Host headers to answer besides loopback and `host`; '*' is any"
    )
    cors: CorsSettings = CorsSettings()
    limits: LimitSettings = LimitSettings()
    timeouts: TimeoutSettings = TimeoutSettings()
    streams: StreamSettings = StreamSettings()
    processes: int = Field(default=1, ge=1, le=256, description="gateway processes that share the workers")
    drain: float = Field(default=30.0, ge=0, description="seconds that answers may take to end on shutdown")
    backlog: int = Field(default=2048, gt=0)
    docs: bool = Field(default=True, description="serve /openapi.json")

    @model_validator(mode="after")
    def _admin_address(self) -> Self:
        if self.admin_host is not None and self.admin_port is None:
            raise ValueError("admin_host needs admin_port")
        return self

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach what is listened on."""
        return all(_is_loopback(host) for host in (self.host, self.admin_host) if host is not None)

    @property
    def admin_elsewhere(self) -> bool:
        """Whether admin routes have an address of their own."""
        return self.admin_port is not None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class LogSettings(BaseModel):
    """What is written to standard error."""

    model_config = _SECTION
    format: Literal["console", "json"] = "console"
    level: Literal["debug", "info", "warning", "error"] = "info"
    access: bool = Field(default=True, description="one line per request")
    prompts: bool = Field(
        default=False,
        description="log what callers send, the first 10,000 characters of it; off, no prompt is ever written",
    )


class TelemetrySettings(BaseModel):
    """OpenTelemetry traces; none unless ``endpoint`` is set. Needs the extra ``otel``."""

    model_config = _SECTION
    endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s@]+$",
        description="the collector's OTLP/HTTP address, as http://host:4318",
    )
    service_name: str = Field(default="roundhouse", min_length=1)
    sample: float = Field(
        default=1.0, ge=0, le=1, description="share of traces kept, when the caller did not decide"
    )
    propagate: bool = Field(default=True, description="tell upstreams of the trace, in traceparent")


class Settings(BaseSettings):
    """All settings. Without any, the starter models are served on 127.0.0.1:8000."""

    model_config = SettingsConfigDict(
        env_prefix="ROUNDHOUSE_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    server: ServerSettings = ServerSettings()
    backends: BackendSettings = BackendSettings()
    workers: WorkerSettings = WorkerSettings()
    routing: RoutingSettings = RoutingSettings()
    discovery: DiscoverySettings = DiscoverySettings()
    spend: SpendSettings = SpendSettings()
    breakers: BreakerSettings = BreakerSettings()
    retries: RetrySettings = RetrySettings()
    traces: TraceSettings = TraceSettings()
    persistence: PersistenceSettings = PersistenceSettings()
    state: StateSettings = StateSettings()
    log: LogSettings = LogSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    data_dir: Path = Field(default_factory=lambda: user_data_path("roundhouse", appauthor=False))
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    admin_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    api_keys_env: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*$")] | None = Field(
        default=None, description="names the environment variable with the keys, comma-separated"
    )
    admin_keys_env: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*$")] | None = None
    model: tuple[dict[str, Any], ...] = Field(default=(), description="[[model]] rows, read by the catalogue")
    endpoint: tuple[dict[str, Any], ...] = Field(default=(), description="[[endpoint]] rows")

    @model_validator(mode="before")
    @classmethod
    def _split_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for name in ("api_keys", "admin_keys"):
                if isinstance(data.get(name), str):
                    data = {**data, name: tuple(k.strip() for k in data[name].split(",") if k.strip())}
        return data

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del dotenv_settings, file_secret_settings
        return (init_settings, env_settings, _File(settings_cls))


class _File(TomlConfigSettingsSource):
    """The settings file, which names secrets and does not hold them."""

    def __call__(self) -> dict[str, Any]:
        data = super().__call__()
        for name in ("api_keys", "admin_keys"):
            if name in data:
                raise ConfigurationError(
                    f"Keys do not belong in the settings file: set ROUNDHOUSE_{name.upper()}, or name an "
                    f"environment variable with {name}_env."
                )
        state = data.get("state")
        url = state.get("url") if isinstance(state, dict) else None
        if isinstance(url, str) and "@" in url:
            raise ConfigurationError(
                "A password does not belong in the settings file: name an environment variable that holds the "
                "state's URL with url_env in [state]."
            )
        return data


def load_settings(path: Path | None = None, **overrides: Any) -> Settings:
    """Read and check all settings.

    ``path`` is the settings file; without it ``$ROUNDHOUSE_CONFIG``, or ``roundhouse.toml`` in the working
    directory if there is one. ``overrides`` are nested dictionaries from the command line; they win.
    Raises ConfigurationError with one line that says what to do.
    """
    file = _find(path)
    source = type("_Source", (Settings,), {"__module__": __name__}, toml_file=file) if file else Settings
    try:
        if file is not None:
            file.read_text(encoding="utf-8")
        settings = source(**overrides)
        settings = _with_named_keys(settings)
    except OSError as error:
        raise ConfigurationError(f"Cannot read the settings file {file}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"The settings file {file} is not UTF-8 text.") from error
    except ValidationError as error:
        from server.settings_errors import one_line  # a start that goes well does without it

        raise ConfigurationError(one_line(error, Settings, file)) from error
    except (SettingsError, ValueError) as error:
        raise ConfigurationError(f"The settings cannot be read ({file or 'environment'}): {error}") from error
    return settings


def may_be_open(server: ServerSettings) -> bool:
    """Whether everybody who reaches the server may be let in while there is no key at all."""
    return server.loopback or server.insecure


def check_exposure(settings: Settings, *, virtual_keys: bool = False) -> None:
    """Refuse to open a door that nobody guards. ``virtual_keys``: whether any was ever made.

    Raises ConfigurationError.
    """
    server = settings.server
    if may_be_open(server) or settings.api_keys or settings.admin_keys or virtual_keys:
        return
    host = server.host if not _is_loopback(server.host) else server.admin_host
    raise ConfigurationError(
        f"Refusing to serve on {host} without API keys: anyone who reaches it could use the models. "
        "Set ROUNDHOUSE_API_KEYS, make a key with 'roundhouse keys create', or pass --insecure."
    )


def _find(path: Path | None) -> Path | None:
    named = path or (Path(value) if (value := os.environ.get(FILE_VARIABLE)) else None)
    if named is not None:
        return named.expanduser()
    here = Path(FILE_NAME)
    return here if here.is_file() else None


def _with_named_keys(settings: Settings) -> Settings:
    update: dict[str, Any] = {}
    for field in ("api_keys", "admin_keys"):
        variable = getattr(settings, f"{field}_env")
        if variable is None:
            continue
        keys = [key.strip() for key in os.environ.get(variable, "").split(",") if key.strip()]
        if not keys:
            raise ConfigurationError(
                f"{field}_env names ${variable}, which is not set. Set it, or remove {field}_env."
            )
        update[field] = (*getattr(settings, field), *(SecretStr(key) for key in keys))
    variable = settings.state.url_env
    if variable is not None:
        url = os.environ.get(variable)
        if not url:
            raise ConfigurationError(
                f"state.url_env names ${variable}, which is not set. Set it, or remove url_env."
            )
        state = {**settings.state.model_dump(), "url": url}
        try:
            update["state"] = StateSettings.model_validate(state)
        except ValidationError:
            raise ConfigurationError(
                f"${variable}, which state.url_env names, must begin with redis://, rediss:// or unix://."
            ) from None
    return settings.model_copy(update=update) if update else settings
