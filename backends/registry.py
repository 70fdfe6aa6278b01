"""The providers: one row each, with the facts that other layers read before a backend is loaded.

A row is data, so a server imports only the backends that its requests need.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from catalog.errors import ConfigurationError
from catalog.model import Capability, Endpoint, Model
from catalog.store.credential_files import check_credentials_files

if TYPE_CHECKING:
    from backends.base import Backend
    from backends.deferred.api import Batches
    from backends.http import HttpClient
    from catalog.catalog import Catalog


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider's backend, and the facts about the provider that do not depend on a request.

    ``backend`` is the import path of a class that is called with the HTTP client. That class also decides which
    parameters are dropped, and lists the provider's models if it can.

    ``trusted``: a quality-first cold start prefers its models (rows with this name as ``provider``) to local ones
    that have not proved themselves; ``[routing.cold_start] trusted`` overrides it.
    ``genai_name``: ``gen_ai.provider.name`` of OpenTelemetry's conventions; ``None`` is the endpoint's id.
    ``answers_plainly``: its backend asks for short answers without a stream (:mod:`backends.plain`).
    ``counts``: its servers count the tokens of a prompt, free of charge.
    ``responses``: its backend speaks OpenAI's Responses API, for rows and endpoints of that ``wire``.
    ``batches`` is the import path of its batch API (:class:`backends.deferred.api.Batches`), if it has one.
    """

    backend: str
    trusted: bool = False
    genai_name: str | None = None
    answers_plainly: bool = False
    counts: bool = False
    responses: bool = False
    batches: str | None = None


PROVIDERS: Mapping[str, Provider] = MappingProxyType(
    {
        # Every server of OpenAI's wire has this protocol, so its endpoint's id names the provider in spans.
        "openai": Provider(
            "backends.openai.backend.OpenAIBackend",
            trusted=True,
            answers_plainly=True,
            responses=True,
            batches="backends.openai.batches.OpenAIBatches",
        ),
        "azure": Provider(
            "backends.azure.AzureBackend",
            trusted=True,
            genai_name="azure.ai.openai",
            answers_plainly=True,
            responses=True,
            batches="backends.azure_batches.AzureBatches",
        ),
        "ollama": Provider("backends.ollama.OllamaBackend"),
        "anthropic": Provider(
            "backends.anthropic.backend.AnthropicBackend",
            trusted=True,
            genai_name="anthropic",
            counts=True,
            batches="backends.anthropic.batches.AnthropicBatches",
        ),
        "google": Provider(
            "backends.google.backend.GoogleBackend",
            trusted=True,
            genai_name="gcp.gemini",
            counts=True,
            batches="backends.google.batches.GeminiBatches",
        ),
        "bedrock": Provider(
            "backends.clouds.bedrock.backend.BedrockBackend", trusted=True, genai_name="aws.bedrock", counts=True
        ),
        "vertex": Provider(
            "backends.clouds.vertex.backend.VertexBackend", trusted=True, genai_name="gcp.vertex_ai", counts=True
        ),
        "elevenlabs": Provider("backends.elevenlabs.backend.ElevenLabsBackend"),
    }
)
"""By the ``protocol`` of an endpoint. A new provider is one line here."""

WORKER = "worker"
"""The protocol of this machine's own workers, which no endpoint may have."""

_LOCAL = Provider("backends.local.backend.LocalWorkerBackend")


def answers_plainly(protocol: str) -> bool:
    """Whether short answers over this protocol are asked for without a stream."""
    row = PROVIDERS.get(protocol)
    return row is not None and row.answers_plainly


def counts_tokens(model: Model, catalog: Catalog) -> bool:
    """Whether the server of a remote chat model counts the tokens of a prompt."""
    row = PROVIDERS.get(catalog.endpoint(model.endpoint_name).protocol)
    return (row is not None and row.counts) or wire_of(model, catalog) == "responses"


def wire_of(model: Model, catalog: Catalog) -> str | None:
    """The language that a chat with this model goes out in: "chat", "responses", or the protocol's own.

    None for a model of this machine, and for one that does not chat.
    """
    if model.local or Capability.CHAT not in model.capabilities:
        return None
    endpoint = catalog.endpoint(model.endpoint_name)
    row = PROVIDERS.get(endpoint.protocol)
    return (model.wire or endpoint.wire) if row is not None and row.responses else endpoint.protocol


def genai_name(endpoint: Endpoint) -> str:
    """``gen_ai.provider.name`` of the calls to an endpoint."""
    row = PROVIDERS.get(endpoint.protocol)
    return endpoint.id if row is None or row.genai_name is None else row.genai_name


def trusted_providers() -> frozenset[str]:
    """The names of the providers whose models are trusted before anything is learned of them."""
    return frozenset(name for name, row in PROVIDERS.items() if row.trusted)


def check_protocols(endpoints: Iterable[Endpoint], models: Iterable[Model] = ()) -> None:
    """Raises ConfigurationError for an endpoint whose protocol no provider has, and for a wire that it lacks.

    So it does for a file of credentials that is not one.
    """
    lacking = set()
    files = {}
    for endpoint in endpoints:
        if endpoint.protocol not in PROVIDERS:
            raise ConfigurationError(
                f"[[endpoint]] '{endpoint.id}': protocol: there is no '{endpoint.protocol}'; "
                f"the known ones are {', '.join(sorted(PROVIDERS))}",
                param="endpoint.protocol",
            )
        if endpoint.credentials_file is not None:
            files[endpoint.id] = (endpoint.protocol, endpoint.credentials_file)
        if endpoint.batches and PROVIDERS[endpoint.protocol].batches is None:
            why = _BUCKETS if endpoint.protocol in ("bedrock", "vertex") else ""
            raise ConfigurationError(
                f"[[endpoint]] '{endpoint.id}': batches: '{endpoint.protocol}' has no batch API here{why}. "
                f"Leave it out. These have: {', '.join(name for name, row in PROVIDERS.items() if row.batches)}",
                param="endpoint.batches",
            )
        if not PROVIDERS[endpoint.protocol].responses:
            lacking.add(endpoint.id)
            if endpoint.wire == "responses":
                raise ConfigurationError(f"[[endpoint]] '{endpoint.id}': {_NO_RESPONSES}", param="endpoint.wire")
    check_credentials_files(files)
    for model in models:
        if model.wire == "responses" and (model.local or model.endpoint_name in lacking):
            raise ConfigurationError(f"[[model]] '{model.id}': {_NO_RESPONSES}", param="wire")


_BUCKETS = ", because its batches are read from and written to a bucket of your own"
_NO_RESPONSES = "wire: 'responses' needs an endpoint of protocol openai or azure"


def backends(http: HttpClient) -> Mapping[str, Backend]:
    """The backends by protocol, over one HTTP client; each is imported and made when it is first looked up.

    That of the workers is made at once, so that the first request does not wait for its import.
    """
    return _Backends(http)


class _Backends(Mapping[str, "Backend"]):
    def __init__(self, http: HttpClient) -> None:
        self._http = http
        self._made = {WORKER: _make(_LOCAL, http)}

    def __getitem__(self, protocol: str) -> Backend:
        found = self._made.get(protocol)
        if found is None:
            found = self._made[protocol] = _make(PROVIDERS[protocol], self._http)
        return found

    def __iter__(self) -> Iterator[str]:
        yield WORKER
        yield from PROVIDERS

    def __len__(self) -> int:
        return 1 + len(PROVIDERS)


def batch_api(protocol: str, http: HttpClient) -> Batches:
    """The batch API of a protocol that has one."""
    path = PROVIDERS[protocol].batches
    assert path is not None
    made: Batches = _found(path)(http)
    return made


def _make(provider: Provider, http: HttpClient) -> Backend:
    made: Backend = _found(provider.backend)(http)
    return made


def _found(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)
