"""Which backend speaks which protocol: the one list. A new backend is one line here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from backends.anthropic.backend import AnthropicBackend
from backends.azure import AzureBackend
from backends.base import Backend
from backends.elevenlabs.backend import ElevenLabsBackend
from backends.google.backend import GoogleBackend
from backends.http import HttpClient
from backends.local.backend import LocalWorkerBackend
from backends.ollama import OllamaBackend
from backends.openai import OpenAIBackend


def backends(http: HttpClient) -> Mapping[str, Backend]:
    """A backend by the protocol of :class:`catalog.model.Endpoint`, and ``worker`` for our own."""
    return MappingProxyType(
        {
            "worker": LocalWorkerBackend(http),
            "openai": OpenAIBackend(http),
            "azure": AzureBackend(http),
            "ollama": OllamaBackend(http),
            "anthropic": AnthropicBackend(http),
            "google": GoogleBackend(http),
            "elevenlabs": ElevenLabsBackend(http),
        }
    )
