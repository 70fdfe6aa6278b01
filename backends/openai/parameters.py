"""Parameters at OpenAI and at other servers of its wire."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import urlsplit

from backends.parameters import LLAMA_SAMPLERS, ParameterTable

OPENAI = ParameterTable(
    drops=LLAMA_SAMPLERS
    | {"input_type", "language", "sample_rate", "negative_prompt", "steps", "guidance_scale", "vad_filter"},
    renames={"max_tokens": "max_completion_tokens"},
)
"""api.openai.com and Azure. Their newer chat models refuse ``max_tokens``, and all take its new name.
Source: OpenAI's API reference."""

COMPATIBLE = ParameterTable(drops=frozenset({"vad_filter"}))
"""Any other server of OpenAI's wire, of unknown make: it refuses what it does not take."""


@lru_cache(maxsize=256)
def table_at(base_url: str) -> ParameterTable:
    """The table of the server at this address."""
    return OPENAI if urlsplit(base_url).hostname == "api.openai.com" else COMPATIBLE
