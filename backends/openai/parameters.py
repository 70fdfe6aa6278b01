"""Parameters at OpenAI and at other servers of its wire."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from urllib.parse import urlsplit

from backends.adapting.names import OPENAI as OPENAI_NAMES
from backends.adapting.tools import ToolRules
from backends.openai import perplexity
from backends.openai.efforts import efforts_of
from backends.parameters import LLAMA_SAMPLERS, ParameterTable, PictureRules
from backends.translation import CONSTRAINTS
from backends.voices import OPENAI_VOICES

OPENAI = ParameterTable(
    drops=LLAMA_SAMPLERS
    | {
        "input_type",
        "instruction",
        "truncate",
        "language",
        "sample_rate",
        "bit_rate",
        "negative_prompt",
        "steps",
        "guidance_scale",
        "vad_filter",
        *("thinking", "context_management", "cache_control"),  # Anthropic's
    },
    renames={"max_tokens": "max_completion_tokens"},
    unmarked=False,
    linked_files=False,
    stops=4,
    refuses={name: CONSTRAINTS[name] for name in ("inference_geo", "safety_settings")},
    efforts=efforts_of,
    voices=frozenset(OPENAI_VOICES),
    pictures=PictureRules(drops=frozenset({"seed", "strength"}), format=False, variations=False),
    tools=ToolRules(
        names=OPENAI_NAMES,
        refused_roots=frozenset({"anyOf", "oneOf", "allOf", "enum", "not"}),
        allowed_tools=True,
        media_results=False,
        any_arguments=True,
    ),
)
"""api.openai.com and Azure. Their newer chat models refuse ``max_tokens``, and all take its new name.
Source: OpenAI's API reference."""

COMPATIBLE = ParameterTable(
    drops=frozenset({"vad_filter"}),
    marks=frozenset({"reasoning_content"}),
    linked_files=None,
    refuses=CONSTRAINTS,
    tools=ToolRules(names=OPENAI_NAMES, media_results=False, custom_tools=False),
)
"""Any other server of OpenAI's wire, of unknown make: it refuses what it does not take. Reasoning and signatures
are given back, because servers that send them (DeepSeek's, Google's) want them with the results of tools. Few have
custom tools: some refuse them, and llama.cpp's leaves them out without a word."""

OPENROUTER = replace(COMPATIBLE, marks=COMPATIBLE.marks | {"cache_control", "annotations"})
"""Source: OpenRouter's pages on prompt caching, and on PDFs, whose text comes back as annotations."""

PERPLEXITY = perplexity.table(COMPATIBLE)

MISTRAL = replace(
    COMPATIBLE,
    drops=COMPATIBLE.drops
    | LLAMA_SAMPLERS
    | {"logit_bias", "logprobs", "top_logprobs", "service_tier", "store", "user", "safety_identifier"},
    renames={"max_completion_tokens": "max_tokens", "seed": "random_seed"},
)
"""It refuses unknown fields with 422, also OpenAI's. Source: the types of Mistral's Python SDK."""

AI21 = replace(COMPATIBLE, renames={"max_completion_tokens": "max_tokens"})
"""Source: AI21's page on Jamba's chat completions."""

_BY_HOST = {"api.openai.com": OPENAI, "openrouter.ai": OPENROUTER, "api.perplexity.ai": PERPLEXITY}
_BY_HOST |= {"api.mistral.ai": MISTRAL, "codestral.mistral.ai": MISTRAL}


@lru_cache(maxsize=256)
def table_at(base_url: str) -> ParameterTable:
    """The table of the server at this address."""
    return _BY_HOST.get(urlsplit(base_url).hostname or "", COMPATIBLE)
