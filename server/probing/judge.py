"""The judge that the settings name."""

from __future__ import annotations

from catalog.errors import ModelNotFound
from catalog.model import Capability
from routing.settings import JudgeSettings
from server.runtime import Runtime


def judge_of(runtime: Runtime, settings: JudgeSettings) -> str | None:
    """The id of the judge, if there is one that can be asked now."""
    if settings.model is None:
        return None
    try:
        row = runtime.catalog.resolve(settings.model)
    except ModelNotFound:
        return None
    return row.id if Capability.CHAT in row.capabilities and runtime.unavailable(row) is None else None
