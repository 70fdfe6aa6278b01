"""Translates Ollama's ``options``, ``format``, ``think`` and ``keep_alive``.

Sources: Ollama's Modelfile reference and ``api/types.go``; Go's ``time.ParseDuration``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from backends.adapting.schemas import closed, is_closed
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
_INTEGERS = frozenset(
    {
        *("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_keep", "num_predict", "seed"),
        *("top_k", "repeat_last_n", "mirostat"),
    }
)
_FLAGS = frozenset({"use_mmap", "penalize_newline", "numa", "low_vram", "use_mlock"})
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_DURATION = re.compile(rf"([-+]?)((?:{_PART.pattern})+)")


def split_options(options: Mapping[str, Any]) -> tuple[Json, Json, tuple[str, ...]]:
    """``(fields of our request, options for Ollama alone, names that no server knows)``.

    Values that stand for no choice are left out (:func:`_is_no_choice`). Raises InvalidRequest for one of another
    type than Ollama's.
    """
    ours: Json = {}
    theirs: Json = {}
    unknown = []
    for name, value in options.items():
        if value is None or _is_no_choice(name, value):
            continue
        value = _typed(name, value)
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
    """Whether an option says what is the case without it, by Ollama's own defaults and special values.

    That is a bound or a seed below zero, no stop sequence, a number of threads or GPU layers that Ollama chooses,
    and samplers that are off and that are off here too.
    """
    if name == "stop":
        return value in ("", [])
    if name in ("num_predict", "num_thread"):
        return _below(value, 1)
    if name in ("seed", "num_gpu"):
        return _below(value, 0)
    return name == "tfs_z" and value == 1


def _typed(name: str, value: Any) -> Any:
    """The option's value; an integer that was written as a fraction is one. Raises InvalidRequest."""
    if name not in OLLAMA_OPTIONS or name == "stop":
        return value
    if name in _FLAGS:
        kind, fits = "true or false", isinstance(value, bool)
    elif name in _INTEGERS:
        kind, fits = "an integer", _is_number(value) and float(value).is_integer()
    else:
        kind, fits = "a number", _is_number(value)
    if not fits:
        raise InvalidRequest(f"options.{name}: it must be {kind}.", param=f"options.{name}")
    return int(value) if name in _INTEGERS else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _below(value: Any, bound: float) -> bool:
    return _is_number(value) and bool(value < bound)


def response_format(request: OllamaAnswerRequest) -> Json | None:
    """The form of the answer: any JSON object, or a schema, or OpenAI's ``response_format``."""
    if not request.format:
        return (request.model_extra or {}).get("response_format")
    if request.format == "json":
        return {"type": "json_object"}
    schema = closed(request.format)
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
