"""Calls to Google Vertex AI, by the maker of the model: Gemini, Claude, or OpenAI's wire for open models.

Calls carry an API key if the endpoint has one (without a project, that is Google's express mode), else a token.
Source: the code of google-genai and of Anthropic's SDK, Google's page on open models as a service.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping

from backends.anthropic.backend import COUNT
from backends.base import Upstream
from backends.clouds.claude import CloudClaude
from backends.clouds.vertex import discovery, embeddings
from backends.clouds.vertex.account import GoogleAccounts
from backends.clouds.vertex.addresses import (
    ANTHROPIC,
    GOOGLE,
    interactions_path,
    model_path,
    name_of,
    project_path,
    publisher_of,
)
from backends.google import embeddings as gemini_embeddings
from backends.google.backend import GoogleBackend
from backends.google.errors import read_google_error
from backends.google.videos import GoogleVideos
from backends.http import HttpClient
from backends.http.errors import ErrorReader
from backends.openai.backend import OpenAIBackend
from backends.openai.parameters import AI21, MISTRAL
from backends.parameters import ParameterTable
from backends.translation import reading
from backends.wire.chat import ChatRequest
from backends.wire.common import WireModel
from backends.wire.embeddings import EmbeddingRequest
from backends.wire.video.events import VideoItem
from backends.wire.video.request import DiscardRequest, VideoRequest
from catalog.errors import CapabilityMismatch, RoundhouseError
from catalog.model import Endpoint, Model
from catalog.types import Json

KEY_HEADER = "x-goog-api-key"

_BETAS = frozenset(
    {
        *("computer-use-2025-01-24", "computer-use-2025-11-24", "context-1m-2025-08-07", "web-search-2025-03-05"),
        *("interleaved-thinking-2025-05-14", "context-management-2025-06-27", "tool-search-tool-2025-10-19"),
    }
)
"""Source: Anthropic's pages on these features, which name the clouds that have them."""

_RAW = frozenset({"mistralai", "ai21"})
"""Publishers whose models have OpenAI's wire at methods of their own. Source: Google's pages on partner models."""


class VertexBackend:
    """Chat, embeddings, counts of tokens, and the list of Google's models."""

    def __init__(self, client: HttpClient) -> None:
        self._accounts = accounts = GoogleAccounts(client)
        signed = client.signed(accounts.sign)
        self._gemini = VertexGemini(signed, accounts)
        self._claude = VertexClaude(signed, accounts)
        self._open = VertexOpenModels(signed, accounts)
        self._raw = VertexRawModels(signed, accounts)

    async def fault(self, upstream: Upstream) -> str | None:
        """See :class:`backends.base.Checks`."""
        return await self._accounts.fault(upstream)

    def dropped(self, request: WireModel, upstream: Upstream) -> tuple[str, ...]:
        """See :class:`backends.base.Backend`."""
        return self._of(upstream).dropped(request, upstream)

    def speaks(self, wire: str, upstream: Upstream) -> bool:
        """See :class:`backends.native.Native`."""
        return publisher_of(upstream.model) == ANTHROPIC and self._claude.speaks(wire, upstream)

    def chat(self, upstream: Upstream, request: ChatRequest) -> AsyncIterator[Json]:
        """The chunks of the answer; see :class:`backends.base.Chat`."""
        return self._of(upstream).chat(upstream, request)

    async def embed(self, upstream: Upstream, request: EmbeddingRequest) -> Json:
        """The list object; see :class:`backends.base.Embed`."""
        if publisher_of(upstream.model) == ANTHROPIC:
            raise CapabilityMismatch(f"'{upstream.model}' does not embed.", param="model")
        return await self._gemini.embed(upstream, request)

    def film(self, upstream: Upstream, request: VideoRequest) -> AsyncIterator[VideoItem]:
        """A video in the making; see :class:`backends.base.Film`."""
        if publisher_of(upstream.model) != GOOGLE:
            raise CapabilityMismatch(f"'{upstream.model}' makes no videos.", param="model")
        return self._gemini.film(upstream, request)

    async def discard(self, upstream: Upstream, request: DiscardRequest) -> Json:
        """See :class:`backends.base.Discard`."""
        return await self._gemini.discard(upstream, request)

    async def count(self, upstream: Upstream, request: ChatRequest) -> Json:
        """The prompt tokens by the server's own count; see :class:`backends.base.Count`."""
        backend = self._of(upstream)
        if isinstance(backend, VertexOpenModels):
            raise CapabilityMismatch(f"Vertex AI does not count tokens for '{upstream.model}'.", param="model")
        return await backend.count(upstream, request)

    async def list_models(self, upstream: Upstream, server: Endpoint) -> list[Model]:
        """The rows of Google's own models; see :class:`backends.base.Discover`."""
        return await self._gemini.list_models(upstream, server)

    def _of(self, upstream: Upstream) -> VertexGemini | VertexClaude | VertexOpenModels:
        match publisher_of(upstream.model):
            case "google":
                return self._gemini
            case "anthropic":
                return self._claude
            case publisher if publisher in _RAW:
                return self._raw
            case _:
                return self._open


class VertexGemini(GoogleBackend):
    """Google's models."""

    def __init__(self, client: HttpClient, accounts: GoogleAccounts) -> None:
        super().__init__(client)
        self._accounts = accounts

    def path(self, upstream: Upstream, method: str) -> str:
        """See :class:`GoogleBackend`. Embeddings of contents are in the beta version only."""
        return model_path(upstream, method, "v1beta1" if "mbedContent" in method else "v1")

    def dropped(self, request: WireModel, upstream: Upstream) -> tuple[str, ...]:
        """See :class:`backends.base.Backend`."""
        if isinstance(request, EmbeddingRequest):
            return embeddings.translate(request, upstream)[1]
        return super().dropped(request, upstream)

    async def embed(self, upstream: Upstream, request: EmbeddingRequest) -> Json:
        """The list object; see :class:`backends.base.Embed`. Calls are made one after another."""
        calls, _ = embeddings.translate(request, upstream)
        answers = [
            await self._client.post_json(
                upstream, self.path(upstream, method), body, key_header=KEY_HEADER, errors=self.read_error
            )
            for method, body in calls
        ]
        with reading("Vertex AI"):
            regular = [embeddings.regular(answer) for answer in answers]
            return gemini_embeddings.assemble(request, upstream, regular)

    async def list_models(self, upstream: Upstream, server: Endpoint) -> list[Model]:
        """The rows of all pages of the publisher's list; see :class:`backends.base.Discover`."""
        entries: list[Json] = []
        query = {"pageSize": discovery.PAGE}
        for _ in range(discovery.MAX_PAGES):
            page = await self._client.get_json(
                upstream, discovery.PATH, query=query, key_header=KEY_HEADER, errors=self.read_error
            )
            with reading("Vertex AI"):
                entries += page.get("publisherModels") or ()
                token = page.get("nextPageToken")
            if not token:
                break
            query = {"pageSize": discovery.PAGE, "pageToken": str(token)}
        return discovery.rows_of(server, entries)

    def counted(self, upstream: Upstream, prompt: Json) -> Json:
        """See :class:`GoogleBackend`. Vertex AI takes the parts of a prompt as they are."""
        del upstream
        return prompt

    def videos(self) -> GoogleVideos:
        """See :class:`GoogleBackend`. Interactions are in the beta version, in no region."""
        return GoogleVideos(
            self._client,
            key_header=KEY_HEADER,
            errors=self.read_error,
            path=self.path,
            interactions=interactions_path,
            vertex=True,
        )

    def read_error(
        self, status: int, headers: Mapping[str, str], body: bytes, upstream: Upstream
    ) -> RoundhouseError:
        """See :class:`GoogleBackend`."""
        return _read_error(self._accounts, status, headers, body, upstream, super().read_error)


class VertexClaude(CloudClaude):
    """Anthropic's models."""

    version = "vertex-2023-10-16"
    betas = _BETAS
    key_header = KEY_HEADER

    def __init__(self, client: HttpClient, accounts: GoogleAccounts) -> None:
        super().__init__(client)
        self._accounts = accounts

    def addressed(
        self, path: str, upstream: Upstream, body: Json, headers: dict[str, str]
    ) -> tuple[str, Json, dict[str, str]]:
        """See :class:`AnthropicBackend`."""
        path, body, headers = super().addressed(path, upstream, body, headers)
        if path == COUNT:
            return (
                f"{project_path(upstream)}/publishers/{ANTHROPIC}/models/count-tokens:rawPredict",
                {**body, "model": upstream.model.rpartition("/")[2]},
                headers,
            )
        return model_path(upstream, "streamRawPredict"), body, headers

    def read_error(
        self, status: int, headers: Mapping[str, str], body: bytes, upstream: Upstream
    ) -> RoundhouseError:
        """Anthropic's error objects are its models', any other is Google's."""
        reader = super().read_error if b'"type":"error"' in body.replace(b" ", b"") else read_google_error
        return _read_error(self._accounts, status, headers, body, upstream, reader)


class VertexOpenModels(OpenAIBackend):
    """Open models as a service, and partners', over OpenAI's wire. They are named ``publisher/model``."""

    key_header = KEY_HEADER

    def __init__(self, client: HttpClient, accounts: GoogleAccounts) -> None:
        super().__init__(client)
        self._accounts = accounts

    def path(self, upstream: Upstream, path: str) -> str:
        """See :class:`OpenAIBackend`."""
        return f"{project_path(upstream)}/endpoints/openapi{path}"

    def stream(
        self,
        upstream: Upstream,
        path: str,
        body: Json,
        take_apart: Callable[[Json], Iterator[Json]],
        prompt: str,
        *,
        errors: ErrorReader = read_google_error,
        plain: bool = False,
    ) -> AsyncGenerator[Json]:
        """See :class:`OpenAIBackend`; errors are Google's."""

        def read(status: int, headers: Mapping[str, str], content: bytes, upstream: Upstream) -> RoundhouseError:
            return _read_error(self._accounts, status, headers, content, upstream, errors)

        return super().stream(upstream, path, body, take_apart, prompt, errors=read, plain=plain)


class VertexRawModels(VertexOpenModels):
    """Mistral's and AI21's models: a method streams and another does not, and the body names the model alone."""

    def parameters(self, upstream: Upstream) -> ParameterTable:
        """See :class:`OpenAIBackend`."""
        return MISTRAL if publisher_of(upstream.model) == "mistralai" else AI21

    def path(self, upstream: Upstream, path: str) -> str:
        """See :class:`OpenAIBackend`; ``path`` is the method."""
        return model_path(upstream, path)

    def body(self, request: WireModel, upstream: Upstream) -> Json:
        """See :class:`OpenAIBackend`. A version, after an ``@``, stands in the path only."""
        return {**super().body(request, upstream), "model": name_of(upstream.model).partition("@")[0]}

    def stream(
        self,
        upstream: Upstream,
        path: str,
        body: Json,
        take_apart: Callable[[Json], Iterator[Json]],
        prompt: str,
        *,
        errors: ErrorReader = read_google_error,
        plain: bool = False,
    ) -> AsyncGenerator[Json]:
        """See :class:`OpenAIBackend`; the method takes the place of the path."""
        del path
        method = "rawPredict" if plain else "streamRawPredict"
        return super().stream(upstream, method, body, take_apart, prompt, errors=errors, plain=plain)


def _read_error(
    accounts: GoogleAccounts,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    upstream: Upstream,
    reader: ErrorReader,
) -> RoundhouseError:
    """The error by ``reader``. A refused token is not used again."""
    if status == 401 and not upstream.api_key:
        accounts.forget(upstream)
    return reader(status, headers, body, upstream)
