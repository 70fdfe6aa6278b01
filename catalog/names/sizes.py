"""The count of weights that a model's name tells: ``qwen3-8b``, ``llama3.1:70b``, ``qwen3-30b-a3b``."""

from __future__ import annotations

import math
import re

from catalog.model import Model, UpstreamSource

_TOTAL = re.compile(r"(?<![a-z0-9.])e?(?:(\d{1,3})x)?(\d{1,4}(?:\.\d{1,3})?)([bmt])(?![a-z0-9])")
_ACTIVE = re.compile(r"(?<![a-z0-9.])a(\d{1,4}(?:\.\d{1,3})?)b(?![a-z0-9])")
_UNITS = {"m": 1e6, "b": 1e9, "t": 1e12}
_ROUTED = 2
"""Experts that run per token where a name such as ``8x7b`` does not tell."""
_LEAST_MILLIONS = 10
"""A smaller figure in millions (``-1m``) is a context window."""


def weights_of(model: Model) -> float | None:
    """Weights of a dense model as good as this one: the row's figure, else the name's, else ``None``.

    A mixture of experts counts as the geometric mean of its total and its active weights, a usual rule of thumb.
    """
    names = (model.source.model if isinstance(model.source, UpstreamSource) else model.id, model.name or "")
    for name in names:
        told = weights_in(name)
        if told is not None and (model.size.parameters is None or _ACTIVE.search(name.lower())):
            return told
    return None if not model.size.parameters else float(model.size.parameters)


def weights_in(name: str) -> float | None:
    """The weights that a name tells, as :func:`weights_of` counts them; ``None`` without any."""
    lowered = name[:200].lower().replace("_", "-")
    for experts, figure, unit in _TOTAL.findall(lowered):
        count = float(figure)
        if not count or (unit == "m" and count < _LEAST_MILLIONS):
            continue
        total = count * _UNITS[unit]
        active = _ACTIVE.search(lowered)
        if active is not None and float(active[1]):
            return math.sqrt(total * float(active[1]) * 1e9)
        if experts:
            return total * math.sqrt(float(experts) * _ROUTED)
        return total
    return None
