"""Whether the server may be reached without a key."""

from __future__ import annotations

from catalog.errors import ConfigurationError
from server.settings import STATE_FILE, ServerSettings, Settings, is_loopback

KEYS_MARK = "has-keys"
"""An empty file beside the state: its damage must not open a server that had keys."""


def may_allow_anonymous(server: ServerSettings) -> bool:
    """Whether requests without a key may be served while no key exists."""
    return server.loopback or server.insecure


def check_exposure(settings: Settings, *, virtual_keys: bool = False) -> None:
    """Raise ConfigurationError for an address that other machines can reach without any key.

    ``virtual_keys``: whether a virtual key for more than metrics exists, even a revoked one.
    """
    server = settings.server
    if may_allow_anonymous(server) or settings.api_keys or settings.admin_keys or virtual_keys:
        return
    host = server.host if not is_loopback(server.host) else server.admin_host
    raise ConfigurationError(
        f"Refusing to serve on {host} without API keys: anyone who reaches it could use the models. "
        "Set ROUNDHOUSE_API_KEYS, make a key with 'roundhouse keys create', or pass --insecure."
    )


def mark_keys(settings: Settings) -> None:
    """Note beside the state that it holds keys, for :func:`check_lost_keys`."""
    if settings.state.url is None:
        (settings.data_dir / KEYS_MARK).touch()


def check_lost_keys(settings: Settings) -> None:
    """Raise ConfigurationError where a damaged state was set aside that held the only API keys."""
    if settings.state.url is not None or settings.server.insecure or settings.api_keys or settings.admin_keys:
        return
    if not (settings.data_dir / KEYS_MARK).exists():
        return
    kept = sorted(settings.data_dir.glob(f"{STATE_FILE}.damaged-*"))
    if kept:
        raise ConfigurationError(
            f"The state file with the API keys was damaged and is kept as {kept[-1]}: without keys, the server "
            "would be open. Set ROUNDHOUSE_ADMIN_KEYS, or move that file away to go on without keys."
        )
