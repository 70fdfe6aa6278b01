"""Secrets in the environment variables that settings name."""

from __future__ import annotations

import os

from pydantic import SecretStr, ValidationError

from catalog.errors import ConfigurationError
from routing.state.factory import StateSettings


def keys_of(variable: str, setting: str) -> list[SecretStr]:
    """The keys in a variable, separated by commas. Raises ConfigurationError if there are none."""
    keys = [SecretStr(key.strip()) for key in os.environ.get(variable, "").split(",") if key.strip()]
    if not keys:
        raise ConfigurationError(f"{setting} names ${variable}, which is not set. Set it, or remove {setting}.")
    return keys


def state_with_url(state: StateSettings, variable: str) -> StateSettings:
    """The settings with the URL in a variable. Raises ConfigurationError if it is missing or of no known kind."""
    url = os.environ.get(variable)
    if not url:
        raise ConfigurationError(f"state.url_env names ${variable}, which is not set. Set it, or remove url_env.")
    try:
        return StateSettings.model_validate({**state.model_dump(), "url": url})
    except ValidationError:
        raise ConfigurationError(
            f"${variable}, which state.url_env names, must begin with redis://, rediss:// or unix://."
        ) from None
