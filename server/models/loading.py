"""Options of one load: what a request may choose beyond the row, in each engine's own names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from catalog.errors import InvalidRequest, ModelTooLarge, UnsupportedParameter
from catalog.model import Model

_KV_CACHE: Mapping[str, tuple[str, ...]] = {
    "llamacpp": ("cache_type_k", "cache_type_v"),
    "vllm": ("kv_cache_dtype",),
}
"""By engine, the options that hold the number format of the KV cache."""
_QUANTIZATION: Mapping[str, tuple[str, ...]] = {"vllm": ("quantization",), "whisper": ("compute_type",)}
"""By engine that quantises the weights as it loads them, the option that says how."""


def load_options(
    row: Model,
    *,
    context: int | None,
    slots: int | None,
    kv_cache: str | None,
    quantization: str | None,
    options: Mapping[str, Any] | None,
) -> dict[str, Any] | None:
    """The engine options of a load; ``None`` if the request has none, so that those in force stay.

    Raises UnsupportedParameter for what the engine cannot, and InvalidRequest for an option that is given twice.
    """
    chosen: dict[str, Any] = {}
    if context is not None:
        chosen["context"] = context
    if slots is not None:
        chosen["slots"] = slots
    for name, value, table, instead in (
        ("kv_cache", kv_cache, _KV_CACHE, ""),
        ("quantization", quantization, _QUANTIZATION, f" {_ANOTHER_FILE}"),
    ):
        if value is None:
            continue
        names = table.get(row.engine or "")
        if names is None:
            raise UnsupportedParameter(
                f"'{name}' is not for the engine '{row.engine}' of '{row.id}'; these have it: "
                f"{', '.join(sorted(table))}.{instead}",
                param=name,
            )
        chosen |= dict.fromkeys(names, value)
    twice = chosen.keys() & (options or {}).keys()
    if twice:
        raise InvalidRequest(
            f"'{min(twice)}' is given twice: as a field and in 'options'.", param=f"options.{min(twice)}"
        )
    chosen |= options or {}
    return None if not chosen and options is None else chosen


@contextmanager
def named_as_given(row: Model, *, kv_cache: str | None, quantization: str | None) -> Iterator[None]:
    """Name the field of the request in an error about the engine option that it became. Raises InvalidRequest."""
    try:
        yield
    except InvalidRequest as error:
        option = (error.param or "").removeprefix("options.")
        for field, value, table in (
            ("kv_cache", kv_cache, _KV_CACHE),
            ("quantization", quantization, _QUANTIZATION),
        ):
            if value is not None and option in table.get(row.engine or "", ()):
                _, _, rule = error.message.partition(": ")
                raise InvalidRequest(f"'{field}': {rule}", param=field) from None
        raise


def check_window(chosen: Model, row: Model, window: int | None) -> None:
    """Check the context of a load against the window that the model itself has. Raises InvalidRequest.

    An engine would cut it down to that without a word. ``chosen`` is the row with the options of the load, and
    ``window`` that of the row's own figures. A row that names its worker's context may be loaded with another.
    """
    context = chosen.options.get("context")
    if not isinstance(context, int) or window is None or context <= window:
        return
    if "context" in row.options or _STRETCHES & chosen.options.keys():
        return
    raise InvalidRequest(
        f"'context': '{row.id}' can use {window} tokens at most (it is {context}).", param="context"
    )


def refused(error: ModelTooLarge, given: Mapping[str, Any]) -> InvalidRequest:
    """The error of a model that is too large with the options that the request gave."""
    field = next((name for name in ("context", "slots") if name in given), "options")
    return InvalidRequest(
        f"'{field}': with these options, {error.message} Ask for a smaller context or for fewer slots.",
        param=field,
    )


_STRETCHES = frozenset({"rope_freq_base", "rope_freq_scale"})
"""Options that make a window longer than the model was trained for."""
_ANOTHER_FILE = (
    "A GGUF has the quantisation of its file: pull another with POST /v1/models/pulls, as hub:OWNER/REPO:Q4_K_M."
)
