"""Azure OpenAI: OpenAI's wire at Azure's addresses.

With ``api-version`` in the endpoint's query (the classic API) each deployment has a path of its own,
``/openai/deployments/{name}/...``. Without it, ``/openai/v1`` is used, where the deployment is the body's
``model``. The key goes into the header ``api-key`` in both; an Entra token may be given as a header of the
endpoint instead. Source: Microsoft's reference of Azure OpenAI in Foundry.
"""

from __future__ import annotations

from urllib.parse import quote

from backends.base import Upstream
from backends.openai.backend import OpenAIBackend
from backends.openai.parameters import OPENAI
from backends.parameters import ParameterTable


class AzureBackend(OpenAIBackend):
    """OpenAI's models deployed at Azure; ``upstream.model`` is the deployment's name."""

    key_header = "api-key"

    def parameters(self, upstream: Upstream) -> ParameterTable:
        """Those of OpenAI itself, at every address."""
        del upstream
        return OPENAI

    def path(self, upstream: Upstream, path: str) -> str:
        base = upstream.base_url.rstrip("/")
        if "api-version" in upstream.query:
            root = "" if base.endswith("/openai") else "/openai"
            if path == "/models" or path.startswith("/responses"):
                return root + path
            return f"{root}/deployments/{quote(upstream.model, safe='')}{path}"
        return path if base.endswith("/openai/v1") else f"/openai/v1{path}"
