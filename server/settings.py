"""All settings in one typed tree: ``roundhouse.toml``, then ``ROUNDHOUSE_*`` variables, then the command line.

Only this module reads the environment. The file contains no secrets: it names the environment variables that do.
"""

from __future__ import annotations

import ipaddress
import os
import tomllib
from collections.abc import Collection, Iterator, Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from platformdirs import user_data_path
from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    PrivateAttr,
    SecretStr,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from backends.settings import BackendSettings
from backends.workers.settings import WorkerSettings
from catalog.errors import ConfigurationError
from catalog.store.file_checks import read_regular
from catalog.store.settings import ModelSettings
from catalog.validation.fields import check_host, check_host_pattern, check_network, check_origin, check_path
from catalog.validation.named_secrets import keys_of
from catalog.validation.section import Section
from routing.accounts.caps import SpendSettings
from routing.calling.retry_budget import RetrySettings
from routing.calling.traces import TraceSettings
from routing.persistence import PersistenceSettings
from routing.settings import RoutingSettings
from routing.state.factory import StateSettings
from routing.state.redis_clients import has_password
from routing.upstreams.breaker import BreakerSettings
from routing.upstreams.discovery import DiscoverySettings
from server.observability.settings import LogSettings, TelemetrySettings
from server.storage.settings import RealtimeSettings, StorageSettings

Host = Annotated[str, AfterValidator(check_host)]
MIB = 1024 * 1024
FILE_NAME = "roundhouse.toml"
ENV_PREFIX = "ROUNDHOUSE_"
FILE_VARIABLE = f"{ENV_PREFIX}CONFIG"
KEY_SETTINGS = ("api_keys", "admin_keys", "metrics_keys")
"""Settings with secrets of callers. The file may name an environment variable for each, as ``{name}_env``."""
STATE_FILE = "state.sqlite3"
"""Name of the SQLite file in the data folder: spend, virtual keys, breakers, learned state."""


class LimitSettings(Section):
    """Limits of one request, one key and all requests together. Sizes in bytes."""

    body_bytes: int = Field(default=32 * MIB, gt=0, description="largest JSON body")
    audio_bytes: int = Field(default=128 * MIB, gt=0, description="largest multipart body with audio")
    image_bytes: int = Field(default=64 * MIB, gt=0, description="largest multipart body with pictures to change")
    form_fields: int = Field(default=64, gt=0, description="most fields of a multipart body")
    form_field_bytes: int = Field(
        default=MIB, gt=0, description="largest field of a multipart body, other than its file"
    )
    speech_characters: int = Field(
        default=4096, gt=0, le=100_000, description="longest text to speak; OpenAI's own limit is 4096"
    )
    header_bytes: int = Field(
        default=32 * 1024, gt=0, description="largest head of a request: request line and all headers"
    )
    headers: int = Field(default=100, gt=0, description="most header lines of a request")
    concurrency: int = Field(default=2048, gt=0, description="most requests in flight in one gateway process")
    concurrency_per_key: int | None = Field(
        default=None,
        gt=0,
        description="most requests in flight with one key, in one gateway process; by default without limit",
        examples=[16],
    )
    retry_after: float = Field(
        default=1.0,
        gt=0,
        description="seconds in the Retry-After header of a request that is refused for concurrency",
    )


class TimeoutSettings(Section):
    """Timeouts towards clients. In seconds."""

    headers: float = Field(default=8.0, gt=0, description="seconds from connecting to the end of the headers")
    body: float = Field(
        default=600.0, gt=0, description="seconds from the end of the headers to the end of the body"
    )
    body_idle: float = Field(default=7.0, gt=0, description="seconds between two pieces of a body")
    body_rate: int = Field(
        default=4096,
        gt=0,
        description="lowest bytes per second at which a body may arrive, after its first body_idle seconds",
    )
    send: float = Field(
        default=30.0, gt=0, description="seconds until a client that reads slowly takes the next piece"
    )
    keep_alive: float = Field(default=75.0, gt=0, description="seconds until an idle connection is closed")


class StreamSettings(Section):
    """Event streams (SSE) of answers."""

    headers_after: float = Field(
        default=10.0, gt=0, description="seconds without a first chunk after which the headers are sent anyway"
    )
    ping: float = Field(default=15.0, ge=0, description="seconds between keep-alive comments; 0 sends none")
    buffer: int = Field(
        default=256, gt=0, description="chunks buffered for a slow client before the upstream has to wait"
    )


class CorsSettings(Section):
    """Cross-origin requests (CORS): the web pages that may call the API; none by default."""

    origins: tuple[str, ...] = Field(
        default=(), description="allowed origins; '*' is any", examples=[["https://app.example"]]
    )
    credentials: bool = Field(
        default=False, description="allow cookies and Authorization headers; not together with the origin '*'"
    )

    @field_validator("origins")
    @classmethod
    def _as_browsers_send_them(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            check_origin(origin)
        return origins

    @model_validator(mode="after")
    def _no_credentials_for_any_origin(self) -> Self:
        if self.credentials and "*" in self.origins:
            raise ValueError(
                "origins = ['*'] with credentials lets any web page act as its visitor: name the origins"
            )
        return self


class ServerSettings(Section):
    """The HTTP server: addresses, limits, shutdown."""

    host: Host = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8000, ge=0, le=65535, description="port to listen on; 0 chooses a free one")
    admin_host: Host | None = Field(
        default=None,
        description="address of the admin routes, with admin_port; by default that of host",
        examples=["127.0.0.1"],
    )
    admin_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="port that alone serves the admin routes; by default they are served at port",
        examples=[8001],
    )
    insecure: bool = Field(
        default=False, description="allow serving without API keys on an address that other machines can reach"
    )
    allowed_hosts: tuple[Annotated[str, AfterValidator(check_host_pattern)], ...] = Field(
        default=(),
        description="accepted Host headers besides loopback names and host; '*' is any",
        examples=[["models.example.com"]],
    )
    proxies: tuple[str, ...] = Field(
        default=(),
        description="addresses and networks (10.0.0.0/8) of the reverse proxies whose headers are believed: about "
        "the client's address, the scheme, the host and the path that it asked for; none by default",
        examples=[["10.0.0.0/8"]],
    )
    forwarded: Literal["x-forwarded", "forwarded"] = Field(
        default="x-forwarded",
        description="the headers that `proxies` set: X-Forwarded-For, -Proto, -Host and -Prefix, or Forwarded "
        "(RFC 7239); a client could forge the other kind, so it is not read",
    )
    root_path: str = Field(
        default="",
        max_length=500,
        description="path under which a reverse proxy serves this server, stripped by the proxy or not; addresses "
        "in answers begin with it",
        examples=["/llm"],
    )
    cors: CorsSettings = CorsSettings()
    limits: LimitSettings = LimitSettings()
    timeouts: TimeoutSettings = TimeoutSettings()
    streams: StreamSettings = StreamSettings()
    processes: int = Field(default=1, ge=1, le=256, description="gateway processes, which share the model workers")
    liveness: float = Field(
        default=20.0,
        ge=1,
        description="seconds without an answer after which a gateway process is replaced (with several)",
    )
    drain: float = Field(
        default=30.0, ge=0, description="seconds for which running answers may continue on shutdown"
    )
    backlog: int = Field(default=2048, gt=0, le=65535, description="connections that may wait to be accepted")
    docs: bool = Field(
        default=True, description="serve /openapi.json, and the API reference for browsers at /docs"
    )
    console: bool = Field(default=True, description="serve the console for browsers at /ui, and a page at /")

    @field_validator("proxies")
    @classmethod
    def _networks(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in proxies:
            check_network(proxy)
        return proxies

    @field_validator("root_path")
    @classmethod
    def _a_path(cls, path: str) -> str:
        return check_path(path)

    @model_validator(mode="after")
    def _admin_address(self) -> Self:
        if self.admin_host is not None and self.admin_port is None:
            raise ValueError("admin_host needs admin_port")
        return self

    @property
    def loopback(self) -> bool:
        """Whether every address listened on is reachable from this machine only."""
        return all(is_loopback(host) for host in (self.host, self.admin_host) if host is not None)

    @property
    def admin_elsewhere(self) -> bool:
        """Whether the admin routes have their own address."""
        return self.admin_port is not None


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Settings(Section, BaseSettings):
    """All settings. The defaults serve the starter models on 127.0.0.1:8000."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    rows: ClassVar[frozenset[str]] = frozenset({"model", "endpoint"})

    server: ServerSettings = ServerSettings()
    backends: BackendSettings = BackendSettings()
    workers: WorkerSettings = WorkerSettings()
    routing: RoutingSettings = RoutingSettings()
    discovery: DiscoverySettings = DiscoverySettings()
    models: ModelSettings = ModelSettings()
    spend: SpendSettings = SpendSettings()
    breakers: BreakerSettings = BreakerSettings()
    retries: RetrySettings = RetrySettings()
    traces: TraceSettings = TraceSettings()
    persistence: PersistenceSettings = PersistenceSettings()
    state: StateSettings = StateSettings()
    storage: StorageSettings = StorageSettings()
    realtime: RealtimeSettings = RealtimeSettings()
    log: LogSettings = LogSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    data_dir: Path = Field(
        default_factory=lambda: user_data_path("roundhouse", appauthor=False),
        description="folder of models, logs and state; by default the user's data folder",
        examples=["/var/lib/roundhouse"],
    )
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(),
        description="keys that may call the API, comma-separated; not allowed in the settings file",
        examples=[["choose-a-long-one"]],
    )
    admin_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(), description="keys that may also use the admin routes; not allowed in the settings file"
    )
    metrics_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(), description="keys that may read /metrics and nothing else; not allowed in the settings file"
    )
    api_keys_env: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*$")] | None = Field(
        default=None,
        description="name of an environment variable with more api_keys, comma-separated",
        examples=["MY_API_KEYS"],
    )
    admin_keys_env: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*$")] | None = Field(
        default=None,
        description="name of an environment variable with more admin_keys, comma-separated",
        examples=["MY_ADMIN_KEYS"],
    )
    metrics_keys_env: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*$")] | None = Field(
        default=None,
        description="name of an environment variable with more metrics_keys, comma-separated",
        examples=["MY_METRICS_KEYS"],
    )
    model: tuple[dict[str, Any], ...] = Field(
        default=(), description="[[model]] rows: models that are added to the catalogue, or changed in it"
    )
    endpoint: tuple[dict[str, Any], ...] = Field(
        default=(),
        description="[[endpoint]] rows: servers and providers that are added to the catalogue, or changed in it",
    )

    file_content: ClassVar[Mapping[str, Any]] = {}
    """The tables of the settings file; set on the type that reads it."""

    _file: Path | None = PrivateAttr(default=None)
    _in_file: Mapping[str, Any] = PrivateAttr(default={})
    _flags: Mapping[str, Any] = PrivateAttr(default={})

    @property
    def file(self) -> Path | None:
        """The settings file, for messages."""
        return self._file

    @property
    def given(self) -> tuple[tuple[str, Mapping[str, Any]], ...]:
        """The names that each source gave, nested as the sections are; the source that wins first."""
        return (("flag", self._flags), ("environment", environment_given()), ("file", self._in_file))

    @property
    def sources(self) -> dict[str, Any]:
        """The arguments of :meth:`read_from` as JSON, without values, for another process."""
        return {"file": self._file and str(self._file), "in_file": self._in_file, "flags": self._flags}

    def read_from(self, file: Path | None, in_file: Mapping[str, Any], flags: Mapping[str, Any]) -> Self:
        """These settings, which remember their file, and the names in it and among the flags."""
        self._file, self._in_file, self._flags = file, _outline(in_file), _outline(flags)
        return self

    @model_validator(mode="before")
    @classmethod
    def _split_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for name in KEY_SETTINGS:
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
        return (init_settings, env_settings, _SettingsFile(settings_cls))


class _SettingsFile(TomlConfigSettingsSource):
    """The settings file. Raises ConfigurationError for a secret in it."""

    def _read_file(self, file_path: Path | Traversable) -> dict[str, Any]:
        # A byte order mark, which Windows' editors write, is not TOML.
        try:
            return tomllib.loads(read_regular(Path(str(file_path))).decode("utf-8-sig"))
        except RecursionError:
            raise ConfigurationError(f"{file_path}: its lists or tables are nested too deeply.") from None

    def __call__(self) -> dict[str, Any]:
        data = super().__call__()
        for name in KEY_SETTINGS:
            if name in data:
                raise ConfigurationError(
                    f"Keys do not belong in the settings file: set ROUNDHOUSE_{name.upper()}, or name an "
                    f"environment variable with {name}_env."
                )
        state = data.get("state")
        url = state.get("url") if isinstance(state, dict) else None
        if isinstance(url, str) and has_password(url):
            raise ConfigurationError(
                "A password does not belong in the settings file: name its variable with url_env in [state]."
            )
        if self.settings_cls is not Settings:
            self.settings_cls.file_content = data  # type: ignore[attr-defined]
        return data


def _outline(values: Any) -> Any:
    """Nested values without the values. Of a section that was made already, those count that were set."""
    if isinstance(values, BaseModel):
        values = {name: getattr(values, name) for name in values.model_fields_set}
    return {name: _outline(each) for name, each in values.items()} if isinstance(values, Mapping) else None


def environment_given(*, without: Collection[str] = ()) -> Mapping[str, Any]:
    """The nested values of the ``ROUNDHOUSE_*`` variables that are settings; ``without`` are names of variables.

    Raises SettingsError for a table or list that is not JSON.
    """
    source = EnvSettingsSource(Settings)
    left_out = {name.lower() for name in without}
    source.env_vars = {name: value for name, value in source.env_vars.items() if name not in left_out}
    return source()


def unreadable_variables() -> list[str]:
    """The names of the variables of tables and lists whose value is not JSON."""
    names = list(environment_names().values())
    return [name for name in names if not _is_readable(without=[each for each in names if each != name])]


def _is_readable(*, without: Collection[str]) -> bool:
    try:
        environment_given(without=without)
    except SettingsError:
        return False
    return True


def environment_names() -> Mapping[str, str]:
    """The names of all ``ROUNDHOUSE_*`` variables, as they are written, by those in capitals."""
    return {name.upper(): name for name in os.environ if name.upper().startswith(ENV_PREFIX)}


def load_settings(path: Path | None = None, **overrides: Any) -> Settings:
    """Read and validate all settings.

    ``path`` is the settings file. Without it the file is ``$ROUNDHOUSE_CONFIG``, else ``roundhouse.toml`` in the
    working directory, else there is none. ``overrides`` are nested dictionaries from the command line and take
    precedence. Raises ConfigurationError with one line that says how to correct the setting.
    """
    file = find_file(path)
    source: Any = type("_Source", (Settings,), {"__module__": __name__}, toml_file=file) if file else Settings
    try:
        if file is not None:
            read_regular(file)  # pydantic-settings passes over a path that is no file
        settings = source(**overrides)
        settings = _with_named_secrets(settings).read_from(file, source.file_content, overrides)
    except OSError as error:
        raise ConfigurationError(
            f"Cannot read the settings file {file}: {error.strerror}. Name another with --config, or remove it."
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"The settings file {file} is not UTF-8 text.") from error
    except ValidationError as error:
        from catalog.validation.settings_errors import one_line  # imported on an error only: start-up is faster

        raise ConfigurationError(one_line(error, Settings, file)) from error
    except (SettingsError, ValueError) as error:
        raise ConfigurationError(f"The settings cannot be read ({file or 'environment'}): {error}") from error
    return settings


def find_file(path: Path | None) -> Path | None:
    """The settings file: ``path``, else that of ``$ROUNDHOUSE_CONFIG``, else one in the working directory."""
    named = path or (Path(value) if (value := os.environ.get(FILE_VARIABLE)) else None)
    if named is not None:
        return named.expanduser()
    here = Path(FILE_NAME)
    return here if here.exists() else None


def _with_named_secrets(settings: Settings) -> Settings:
    """Add the secrets of the environment variables that ``*_env`` settings name."""
    update: dict[str, Any] = {}
    for field in KEY_SETTINGS:
        if (variable := getattr(settings, f"{field}_env")) is not None:
            update[field] = (*getattr(settings, field), *keys_of(variable, f"{field}_env"))
    if settings.state.url_env is not None:
        update["state"] = settings.state.with_url_of(settings.state.url_env)
    return settings.model_copy(update=update) if update else settings


def unset_secrets(settings: Settings) -> Iterator[tuple[str, str]]:
    """The ``*_env`` settings whose variable has no secret that can be used, and what is wrong."""
    named = {f"{field}_env": getattr(settings, f"{field}_env") for field in KEY_SETTINGS}
    for setting, variable in {**named, "state.url_env": settings.state.url_env}.items():
        try:
            if variable is not None and setting == "state.url_env":
                settings.state.with_url_of(variable)
            elif variable is not None:
                keys_of(variable, setting)
        except ConfigurationError as error:
            yield setting, error.message
