"""Which home the state has: a file in the data folder, or a Redis server that several machines share."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from routing.state.protocol import State
from routing.state.sqlite import SqliteState


class StateSettings(BaseModel):
    """Where the router remembers. Without a ``url``, in a SQLite file that one machine's processes share."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    url: SecretStr | None = Field(default=None, description="redis://, rediss:// or unix://; None: a SQLite file")
    url_env: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_]\w*$",
        description="names the environment variable that holds the url, for one with a password",
    )
    prefix: str = Field(
        default="rh",
        max_length=64,
        pattern=r"^[\w.-]+$",  # {1,64} here would take 30 ms to compile: \w is all of Unicode
        description="begins every name in Redis: gateways with the same one are one",
    )

    @field_validator("url")
    @classmethod
    def _redis(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and urlsplit(url.get_secret_value()).scheme not in ("redis", "rediss", "unix"):
            raise ValueError("begins with redis://, rediss:// or unix://")
        return url


def open_state(settings: StateSettings, file: Path) -> State:
    """The state's home, not started yet; ``file`` is the SQLite one's."""
    if settings.url is not None:
        from routing.state.redis import RedisState

        return RedisState(settings.url.get_secret_value(), prefix=settings.prefix)
    return SqliteState(file)
