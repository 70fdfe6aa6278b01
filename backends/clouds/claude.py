"""Anthropic's Messages API as a cloud serves it: the model stands in the path, the version in the body."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from backends.anthropic.backend import BETA, COUNT, AnthropicBackend
from backends.base import Upstream
from backends.native import original_for
from backends.translation import TranslatedRequest
from backends.wire.chat import ChatRequest
from catalog.errors import UnsupportedParameter
from catalog.types import Json

_OWN = ("speed", "service_tier")
"""Fields that only Anthropic's own servers take."""


class CloudClaude(AnthropicBackend):
    """Claude at a cloud. A subclass has the version's name and the paths."""

    version: ClassVar[str]
    betas: ClassVar[frozenset[str]]
    """The beta features that the cloud has.

    It refuses a request with any other, and clients such as Claude Code send those of Anthropic's own servers. An
    endpoint's headers may name more.
    """

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
        if (original := original_for(self, request, upstream)) is not None:
            dropped += [f"{BETA}.{beta}" for beta in _listed(original.headers) if not self._has(beta, upstream)]
        return replace(made, dropped=tuple(dict.fromkeys((*made.dropped, *dropped)))) if dropped else made

    def addressed(
        self, path: str, upstream: Upstream, body: Json, headers: dict[str, str]
    ) -> tuple[str, Json, dict[str, str]]:
        """See :class:`AnthropicBackend`. The version leaves the headers for the body, the model for the path."""
        body = {name: value for name, value in body.items() if name != "model" or path == COUNT}
        betas = [beta for beta in _listed(headers) if self._has(beta, upstream)]
        headers = {name: value for name, value in headers.items() if name not in ("anthropic-version", BETA)}
        if betas:
            headers[BETA] = ",".join(betas)
        return path, {"anthropic_version": self.version, **body}, headers

    def _has(self, beta: str, upstream: Upstream) -> bool:
        own = {name.lower(): value for name, value in upstream.headers.items()}
        return beta in self.betas or beta in _listed(own)


def _listed(headers: Mapping[str, str]) -> list[str]:
    """The beta features that headers name, each once."""
    return list(dict.fromkeys(beta.strip() for beta in headers.get(BETA, "").split(",") if beta.strip()))
