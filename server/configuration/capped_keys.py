"""Caps of keys (``spend.keys``) that bound nobody, because no key has such an id."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection
from pathlib import Path
from urllib.parse import quote

import structlog

from catalog.validation.wording import or_known
from routing.accounts.virtual_keys import VirtualKeys
from server.edge.auth import settings_ids
from server.settings import STATE_FILE, Settings

_OF_CREATED = re.compile(r"key-[0-9a-f]{16}")
_OTHERS = frozenset({"anonymous", ":judge"})


def unbound(settings: Settings, created: Collection[str] | None) -> dict[str, str]:
    """A sentence for each id in ``spend.keys`` that no key has.

    ``created`` are the ids of the keys that were created here. Where they are not known (None), an id that might
    be of one is not told.
    """
    known = {*settings_ids(settings), *_OTHERS, *(created or ())}
    return {
        name: f"spend.keys.{name}: no key has this id, so that the cap bounds nobody"
        f"{or_known(name, sorted(known - _OTHERS)) or '. The ids: roundhouse keys list'}"
        for name in settings.spend.keys
        if name not in known and not (created is None and _OF_CREATED.fullmatch(name))
    }


def tell_unbound_caps(settings: Settings, keys: VirtualKeys | None) -> None:
    """Log a warning for each cap of a key that is not there."""
    for name, said in unbound(settings, None if keys is None else {key.id for key in keys.list()}).items():
        structlog.get_logger("server.settings").warning("spend.key_unknown", key=name, reason=said)


def created_here(settings: Settings) -> Collection[str] | None:
    """The ids of the keys in the state file, read without a server; None for a state elsewhere."""
    path = settings.data_dir / STATE_FILE
    if settings.state.url is not None:
        return None
    return _stored(path) if path.exists() else frozenset()


def _stored(path: Path) -> Collection[str] | None:
    try:
        database = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=0.5)
    except sqlite3.Error:
        return None
    try:
        rows = database.execute("SELECT name FROM documents WHERE kind = ?", (VirtualKeys.kind,)).fetchall()
    except sqlite3.Error:
        return None
    finally:
        database.close()
    return frozenset(name for (name,) in rows)
