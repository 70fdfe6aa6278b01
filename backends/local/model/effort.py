"""Reasoning effort of local models: the arguments that their chat templates take for it.

A template thinks as much as its variables say: ``reasoning_effort`` (gpt-oss), ``enable_thinking`` (Qwen, GLM) or
``thinking`` (Granite, DeepSeek). Sources: the templates of these models, llama.cpp's page on its server.
"""

from __future__ import annotations

import re

from backends.adapting.efforts import nearest
from catalog.types import Json

_LEVELS = frozenset({"low", "medium", "high"})
_SWITCH = re.compile(
    r"\b(enable_thinking|thinking)\s+(?:is|==|!=|%\})|\b(?:not|if|and|or)\s+(enable_thinking|thinking)\b"
)
_LEVEL = re.compile(r"\breasoning_effort\b")
_THINKS = re.compile(r"<\W?(?:think|thought|reasoning)")


def effort_arguments(effort: str, template: str) -> tuple[Json, bool]:
    """``(arguments of the template, whether they are all that the effort asks for)``."""
    arguments: Json = {}
    switch = _SWITCH.search(template)
    if switch is not None:
        arguments[switch[1] or switch[2]] = effort != "none"
    if _LEVEL.search(template) is not None and not (effort == "none" and arguments):
        arguments["reasoning_effort"] = nearest(effort, _LEVELS)
    if effort == "none":
        return arguments, switch is not None or (not arguments and _THINKS.search(template) is None)
    return arguments, arguments.get("reasoning_effort") == effort
