"""Creates the state that the settings ask for: a SQLite file, or a Redis server."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field, SecretStr, ValidationError, field_validator

from catalog.errors import ConfigurationError
from catalog.validation.section import Section
from routing.state.protocol import State
from routing.state.redis_clients import parse_address
from routing.state.sqlite import SqliteState


class StateSettings(Section):
    """Location of the state. Without a ``url``, a SQLite file that the processes of one machine share."""

    url: SecretStr | None = Field(
        default=None,
        description="address of Redis or Valkey (redis://, rediss://, unix://), of its Sentinels "
        "(redis+sentinel://HOST:PORT,HOST:PORT/SERVICE) or of a cluster (redis+cluster://HOST:PORT,HOST:PORT); "
        "rediss for redis: TLS; by default a SQLite file",
        examples=["redis://10.0.0.5:6379/0", "rediss+sentinel://s1:26379,s2:26379/main?ssl_ca_certs=/etc/ca.pem"],
    )
    url_env: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_]\w*$",
        description="environment variable that holds the url, for one with a password",
        examples=["REDIS_URL"],
    )
    password_file: Path | None = Field(
        default=None,
        description="file that holds the password, read at each new connection; the user's name stands in the url",
        examples=["/run/secrets/redis"],
    )
    prefix: str = Field(
        default="rh",
        max_length=64,
        pattern=r"^[\w.-]+$",  # {1,64} here would take 30 ms to compile: \w is all of Unicode
        description="prefix of every key in Redis; gateways with the same prefix share their state",
    )

    def with_url_of(self, variable: str) -> StateSettings:
        """These settings with the URL in an environment variable. Raises ConfigurationError without one."""
        url = os.environ.get(variable)
        if not url:
            raise ConfigurationError(
                f"state.url_env names ${variable}, which is not set. Set it, or remove url_env."
            )
        try:
            return StateSettings.model_validate({**self.model_dump(), "url": url})
        except ValidationError:
            raise ConfigurationError(
                f"${variable}, which state.url_env names, is no address of Redis: {_fault(url)}."
            ) from None

    @field_validator("url")
    @classmethod
    def _redis(cls, url: SecretStr | None) -> SecretStr | None:
        if url is None:
            return None
        parse_address(url.get_secret_value())
        return url


def _fault(url: str) -> str:
    try:
        parse_address(url)
    except ValueError as error:
        return str(error)
    return "it is none"


def create_state(settings: StateSettings, file: Path) -> State:
    """The state, not started yet; ``file`` is the path of the SQLite file."""
    if settings.url is not None:
        from routing.state.redis import RedisState

        return RedisState(
            settings.url.get_secret_value(), prefix=settings.prefix, password_file=settings.password_file
        )
    return SqliteState(file)
