"""Secrets in the environment variables that settings name."""

from __future__ import annotations

import os

from pydantic import SecretStr

from catalog.errors import ConfigurationError


def keys_of(variable: str, setting: str) -> list[SecretStr]:
    """The keys in a variable, separated by commas. Raises ConfigurationError if there are none."""
    keys = [SecretStr(key.strip()) for key in os.environ.get(variable, "").split(",") if key.strip()]
    if not keys:
        raise ConfigurationError(f"{setting} names ${variable}, which is not set. Set it, or remove {setting}.")
    return keys
