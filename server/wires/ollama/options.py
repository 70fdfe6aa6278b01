"""Translates Ollama's ``options``, ``format``, ``think`` and ``keep_alive``.

Sources: Ollama's Modelfile reference and ``api/types.go``; Go's ``time.ParseDuration``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from backends.adapting.schemas import is_closed
from backends.wire.sampling import OLLAMA_OPTIONS
from catalog.errors import InvalidRequest
from catalog.types import Json
from server.wires.ollama.requests import KeepAlive, OllamaAnswerRequest

_SAME = frozenset(
    {
        *("temperature", "top_k", "top_p", "min_p", "typical_p", "seed", "stop"),
        *("presence_penalty", "frequency_penalty", "repeat_penalty", "repeat_last_n"),
        *("mirostat", "mirostat_tau", "mirostat_eta"),
    }
)
"""Options that our requests have under the same names, if only for local models."""
RENAMED = {"num_predict": "max_tokens"}
OLLAMAS = OLLAMA_OPTIONS - _SAME - RENAMED.keys()
"""Options of how Ollama itself loads and runs a model."""
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_DURATION = re.compile(rf"([-+]?)((?:{_PART.pattern})+)")


def split_options(options: Mapping[str, Any]) -> tuple[Json, Json, tuple[str, ...]]:
    """``(fields of our request, options for Ollama alone, names that no server knows)``.

    Values that stand for no choice are left out: a bound or a seed below zero, an empty list of stop sequences.
    """
    ours: Json = {}
    theirs: Json = {}
    unknown = []
    for name, value in options.items():
        if value is None or _is_no_choice(name, value):
            continue
        if name in _SAME or name in RENAMED:
            ours[RENAMED.get(name, name)] = value
        elif name in OLLAMAS:
            theirs[name] = value
        else:
            unknown.append(f"options.{name}")
    return ours, theirs, tuple(unknown)


def option_place(name: str) -> str:
    """The caller's name of a field of our request that is refused."""
    first = name.partition(".")[0]
    own = next((option for option, ours in RENAMED.items() if ours == first), first)
    return f"options.{own}" if own in _SAME or own in RENAMED else name


def _is_no_choice(name: str, value: Any) -> bool:
    if name == "stop":
        return value in ("", [])
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and ((name == "num_predict" and value <= 0) or (name == "seed" and value < 0))


def response_format(request: OllamaAnswerRequest) -> Json | None:
    """The form of the answer: any JSON object, or a schema, or ``None``."""
    if not request.format:
        return None
    if request.format == "json":
        return {"type": "json_object"}
    schema: Any = request.format
    return {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema, "strict": is_closed(schema)},
    }


def effort_of(think: bool | str | None) -> str | None:
    """The reasoning effort of Ollama's ``think``."""
    if isinstance(think, str):
        return think
    return None if think is None else ("medium" if think else "none")


def seconds_of(keep_alive: KeepAlive) -> float:
    """The seconds of a ``keep_alive``; negative is for ever. Raises InvalidRequest."""
    if isinstance(keep_alive, int | float):
        return float(keep_alive)
    text = keep_alive.strip()
    match = _DURATION.fullmatch(text)
    if match is not None:
        seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(match[2]))
        return -seconds if match[1] == "-" else seconds
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise InvalidRequest(
            "'keep_alive' must be a number of seconds or a duration such as '5m' or '1h30m'.", param="keep_alive"
        )
    return seconds
