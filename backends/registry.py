"""Which backend speaks which protocol: the one list. A new backend is one line here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from types import MappingProxyType

from backends.base import Backend
from backends.http import HttpClient
from backends.local.backend import LocalWorkerBackend

BACKENDS: Mapping[str, str | Callable[[HttpClient], Backend]] = MappingProxyType(
    {
        "worker": LocalWorkerBackend,
        "openai": "backends.openai.backend.OpenAIBackend",
        "azure": "backends.azure.AzureBackend",
        "ollama": "backends.ollama.OllamaBackend",
        "anthropic": "backends.anthropic.backend.AnthropicBackend",
        "google": "backends.google.backend.GoogleBackend",
        "elevenlabs": "backends.elevenlabs.backend.ElevenLabsBackend",
    }
)
"""By the protocol of :class:`catalog.model.Endpoint`, and ``worker`` for our own. One that is only named is
imported when a request first needs it: a server without that provider starts without its translation."""


def backends(http: HttpClient) -> Mapping[str, Backend]:
    """The backends over one HTTP client, each made once."""
    return _Backends(http)


class _Backends(Mapping[str, Backend]):
    def __init__(self, http: HttpClient) -> None:
        self._http = http
        self._made: dict[str, Backend] = {}

    def __getitem__(self, protocol: str) -> Backend:
        found = self._made.get(protocol)
        if found is None:
            found = self._made[protocol] = _class_of(protocol)(self._http)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(BACKENDS)

    def __len__(self) -> int:
        return len(BACKENDS)


def _class_of(protocol: str) -> Callable[[HttpClient], Backend]:
    found = BACKENDS[protocol]
    if not isinstance(found, str):
        return found
    module, _, name = found.rpartition(".")
    made: Callable[[HttpClient], Backend] = getattr(import_module(module), name)
    return made
