"""Azure OpenAI's batches: OpenAI's Batch API at Azure's addresses, for deployments of a batch type.

The lines name their deployment as the body's ``model``. A file can be used once Azure has looked through it.
Source: Microsoft's documentation, "Getting started with Azure OpenAI batch deployments".
"""

from __future__ import annotations

import asyncio
import re
from typing import Any
from urllib.parse import quote

from backends.azure import AzureBackend
from backends.base import Upstream
from backends.deferred.api import BatchCall
from backends.openai.batches import OpenAIBatches
from backends.translation import reading
from catalog.errors import UpstreamError
from catalog.types import Json

LOOKS = 60
WAIT = 2.0
"""Looks at a file that is not ready yet, and the seconds between them."""
_BEFORE = re.compile(r"^(/openai)?(/v1|/deployments/[^/]+)?(?=/)")
_WITH_VERSION = ("/responses",)


class AzureBatches(OpenAIBatches):
    """See :class:`backends.deferred.api.Batches`."""

    key_header = AzureBackend.key_header

    def path(self, upstream: Upstream, path: str) -> str:
        base = upstream.base_url.rstrip("/")
        if "api-version" in upstream.query:
            return path if base.endswith("/openai") else f"/openai{path}"
        return path if base.endswith("/openai/v1") else f"/openai/v1{path}"

    def asked(self, upstream: Upstream, call: BatchCall) -> tuple[str, Json]:
        """Chats are asked without a version, responses with one, as in Microsoft's examples."""
        path = _BEFORE.sub("", call.path)
        return (f"/v1{path}" if path in _WITH_VERSION else path), {"model": upstream.model}

    async def ready(self, upstream: Upstream, file: Any) -> None:
        """Wait until the file was processed. Raises UpstreamError for one that is refused, or takes too long."""
        for _ in range(LOOKS):
            with reading(f"The endpoint '{upstream.endpoint}'"):
                status, name = file.get("status") or "processed", str(file["id"])
            if status in ("processed", "uploaded"):
                return
            if status in ("error", "deleting", "deleted"):
                break
            await asyncio.sleep(WAIT)
            file = await self._json(upstream, "GET", f"/files/{quote(name, safe='')}")
        raise UpstreamError(f"The endpoint '{upstream.endpoint}' has not taken the file of a batch ({status}).")
