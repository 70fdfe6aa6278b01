"""Anthropic's Messages API as a cloud serves it: the model stands in the path, the version in the body."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from backends.anthropic.backend import COUNT, AnthropicBackend
from backends.base import Upstream
from backends.translation import TranslatedRequest
from backends.wire.chat import ChatRequest
from catalog.errors import UnsupportedParameter
from catalog.types import Json

_OWN = ("speed", "service_tier")
"""Fields that only Anthropic's own servers take."""


class CloudClaude(AnthropicBackend):
    """Claude at a cloud. A subclass has the version's name and the paths."""

    version: ClassVar[str]

    def translated(self, request: ChatRequest, upstream: Upstream) -> TranslatedRequest:
        """As for Anthropic, without the fields of its own servers.

        Raises UnsupportedParameter for ``inference_geo``: the endpoint's region decides where a cloud answers.
        """
        made = super().translated(request, upstream)
        body = made.body
        if body.get("inference_geo") is not None:
            raise UnsupportedParameter(
                f"The endpoint '{upstream.endpoint}' answers in its own region; name a model of an "
                "endpoint in the wanted one instead.",
                param="inference_geo",
            )
        dropped = [name for name in _OWN if body.pop(name, "auto") not in ("auto", None)]
        return replace(made, dropped=tuple(dict.fromkeys((*made.dropped, *dropped)))) if dropped else made

    def addressed(
        self, path: str, upstream: Upstream, body: Json, headers: dict[str, str]
    ) -> tuple[str, Json, dict[str, str]]:
        """See :class:`AnthropicBackend`. The version leaves the headers for the body, the model for the path."""
        del upstream
        body = {name: value for name, value in body.items() if name != "model" or path == COUNT}
        headers = {name: value for name, value in headers.items() if name != "anthropic-version"}
        return path, {"anthropic_version": self.version, **body}, headers
