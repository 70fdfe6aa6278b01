"""Rows of the models that an account may call in a region: foundation models on demand, and inference profiles.

Source: the service model of bedrock (its control plane) in botocore.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from backends.base import Upstream
from backends.clouds.bedrock.embeddings import embeds
from catalog.discovery import FoundRows, discovered_rows
from catalog.model import Capability, Endpoint
from catalog.types import Json

FOUNDATION_MODELS = "/foundation-models"
PROFILES = "/inference-profiles"
PAGE = "1000"
"""Profiles asked for at once, which is the most."""
MAX_PAGES = 10

_CALLS_TOOLS = (
    *("anthropic.", "amazon.nova", "mistral.", "cohere.command", "meta.llama", "openai.", "qwen.", "deepseek.v"),
)
"""Makers whose models take tools in Converse; the list does not tell."""
_CLAUDE = frozenset({Capability.PARALLEL_TOOLS, Capability.JSON_SCHEMA, Capability.DOCUMENTS})


def control_plane(upstream: Upstream) -> Upstream:
    """The upstream of the lists, which have a host of their own beside that of the calls."""
    return replace(upstream, base_url=upstream.base_url.replace("//bedrock-runtime.", "//bedrock.", 1))


def rows_of(server: Endpoint, models: Iterable[Json], profiles: Iterable[Json]) -> FoundRows:
    """Make rows of ``modelSummaries`` and ``inferenceProfileSummaries`` that chat or embed."""
    listed = list(models)
    by_id = {str(model.get("modelId")): model for model in listed}
    on_demand = [model for model in listed if "ON_DEMAND" in (model.get("inferenceTypesSupported") or ())]
    entries = [{**model, "name": model.get("modelId")} for model in on_demand]
    for profile in profiles:
        arns = [one.get("modelArn") for one in profile.get("models") or () if isinstance(one, dict)]
        known = (by_id.get(str(arn).rpartition("/")[2]) for arn in arns)
        model = next((one for one in known if one is not None), None)
        if model is not None and profile.get("status") == "ACTIVE":
            entries.append({**model, "name": profile.get("inferenceProfileId")})
    return discovered_rows(server, entries, _described)


def _described(entry: Json) -> Mapping[str, Any] | None:
    model, given, made = str(entry["modelId"]), entry.get("inputModalities"), entry.get("outputModalities")
    inputs, outputs = frozenset(given or ()), frozenset(made or ())
    if "EMBEDDING" in outputs:
        if not embeds(model):
            return None
        return {"name": entry["name"], "capabilities": frozenset({Capability.EMBED})}
    if "TEXT" not in outputs or entry.get("responseStreamingSupported") is not True:
        return None
    capabilities = {Capability.CHAT}
    if model.startswith(_CALLS_TOOLS):
        capabilities.add(Capability.TOOLS)
    if "IMAGE" in inputs:
        capabilities.add(Capability.VISION)
    if "claude" in model:
        capabilities |= _CLAUDE
    return {"name": entry["name"], "capabilities": frozenset(capabilities)}
