"""The models that ``make setup`` has pulled, in the folder where ``roundhouse pull`` puts them by default."""

from __future__ import annotations

from platformdirs import user_data_path

from catalog.store.store import Store


def starter_store() -> Store:
    """The store of the default data folder (``data_dir`` of :class:`server.settings.Settings`)."""
    return Store(user_data_path("roundhouse", appauthor=False) / "models")
