"""Calls to Google Vertex AI, by the maker of the model: Gemini, Claude, or OpenAI's wire for open models.

Calls carry an API key if the endpoint has one (without a project, that is Google's express mode), else a token.
Source: the code of google-genai and of Anthropic's SDK, Google's page on open models as a service.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping

from backends.anthropic.backend import COUNT
from backends.base import Upstream
from backends.clouds.claude import CloudClaude
from backends.clouds.vertex import embeddings
from backends.clouds.vertex.account import GoogleAccounts
from backends.clouds.vertex.addresses import ANTHROPIC, model_path, project_path, publisher_of
from backends.google import embeddings as gemini_embeddings
from backends.google.backend import GoogleBackend
from backends.google.errors import read_google_error
from backends.google.request import translate
from backends.http import HttpClient
from backends.http.errors import ErrorReader
from backends.openai.backend import OpenAIBackend
from backends.translation import reading
from backends.wire.chat import ChatRequest
from backends.wire.common import WireModel
from backends.wire.embeddings import EmbeddingRequest
from catalog.errors import CapabilityMismatch, RoundhouseError
from catalog.types import Json

KEY_HEADER = "x-goog-api-key"

_BETAS = frozenset(
    {
        *("computer-use-2025-01-24", "computer-use-2025-11-24", "context-1m-2025-08-07", "web-search-2025-03-05"),
        *("interleaved-thinking-2025-05-14", "context-management-2025-06-27", "tool-search-tool-2025-10-19"),
    }
)
"""Source: Anthropic's pages on these features, which name the clouds that have them."""


class VertexBackend:
    """Chat, embeddings and counts of tokens."""

    def __init__(self, client: HttpClient) -> None:
        self._accounts = accounts = GoogleAccounts(client)
        signed = client.signed(accounts.sign)
        self._gemini = VertexGemini(signed, accounts)
        self._claude = VertexClaude(signed, accounts)
        self._open = VertexOpenModels(signed, accounts)

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

    async def count(self, upstream: Upstream, request: ChatRequest) -> Json:
        """The prompt tokens by the server's own count; see :class:`backends.base.Count`."""
        backend = self._of(upstream)
        if isinstance(backend, VertexOpenModels):
            raise CapabilityMismatch(f"Vertex AI does not count tokens for '{upstream.model}'.", param="model")
        return await backend.count(upstream, request)

    def _of(self, upstream: Upstream) -> VertexGemini | VertexClaude | VertexOpenModels:
        match publisher_of(upstream.model):
            case "google":
                return self._gemini
            case "anthropic":
                return self._claude
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

    async def count(self, upstream: Upstream, request: ChatRequest) -> Json:
        """The prompt tokens; see :class:`backends.base.Count`."""
        body = translate(request, upstream).body
        counted = {name: body[name] for name in ("contents", "systemInstruction", "tools") if name in body}
        answer = await self._client.post_json(
            upstream, self.path(upstream, "countTokens"), counted, key_header=KEY_HEADER, errors=self.read_error
        )
        with reading("Vertex AI"):
            return {"input_tokens": int(answer["totalTokens"])}

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
