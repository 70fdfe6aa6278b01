"""The judge that the settings name."""

from __future__ import annotations

from catalog.errors import ModelNotFound
from catalog.model import Capability, Model
from routing.settings import JudgeSettings
from server.runtime import Runtime


def judge_of(runtime: Runtime, settings: JudgeSettings) -> str | None:
    """The id of the judge, if there is one that can be asked now."""
    found = _looked_up(runtime, settings)
    return found.id if isinstance(found, Model) else None


def why_no_judge(runtime: Runtime, settings: JudgeSettings) -> str | None:
    """The reason for which the judge of the settings cannot be asked now; ``None`` if it can, or there is none."""
    found = _looked_up(runtime, settings)
    return found if isinstance(found, str) else None


def _looked_up(runtime: Runtime, settings: JudgeSettings) -> Model | str | None:
    if settings.model is None:
        return None
    try:
        row = runtime.catalog.resolve(settings.model)
    except ModelNotFound as error:
        return error.message
    if Capability.CHAT not in row.capabilities:
        return f"'{row.id}' cannot chat."
    block = runtime.unavailable(row)
    return row if block is None else f"'{row.id}' cannot be asked: {block.reason}."
