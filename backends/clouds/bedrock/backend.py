"""Calls to Amazon Bedrock: Claude in Anthropic's own language, other models by Converse.

With ``key_env``, calls carry a Bedrock API key as a bearer token; else they are signed. A model is a foundation
model's id, an inference profile (``us.anthropic.claude-...``) or an ARN. One without ``claude`` in its name is
called by Converse, which serves every model. Source: botocore's model of the service, Anthropic's SDK.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from secrets import token_hex
from urllib.parse import quote

import orjson

from backends.adapting.restoring import restorer_of
from backends.anthropic.backend import BETA, COUNT
from backends.base import Upstream
from backends.clouds.bedrock import discovery, embeddings
from backends.clouds.bedrock.account import AwsAccounts
from backends.clouds.bedrock.converse import TIERS, translate
from backends.clouds.bedrock.errors import REFUSED_CREDENTIALS, exception_of, read_bedrock_error, read_exception
from backends.clouds.bedrock.event_stream import MEDIA_TYPE, Frame, FrameReader
from backends.clouds.bedrock.stream import SERVED, ConverseStream
from backends.clouds.claude import CloudClaude
from backends.google import embeddings as gemini_embeddings
from backends.http import HttpClient, UpstreamResponse
from backends.streams.json_text import loads
from backends.streams.sse import ServerSentEvent
from backends.translation import TranslatedRequest, reading
from backends.wire.chat import ChatRequest
from backends.wire.common import WireModel
from backends.wire.embeddings import EmbeddingRequest
from catalog.errors import CapabilityMismatch, RoundhouseError, UpstreamError, UpstreamProtocolError
from catalog.model import Endpoint, Model
from catalog.types import Json

_PROFILE = re.compile(r"^(?:us-gov|us|eu|apac|au|ca|jp|global)\.")
"""The area of an inference profile. Tokens are counted for the foundation model."""
_SEARCH = ("web_search_", "web_fetch_")
_BETAS = frozenset(
    {
        *("computer-use-2024-10-22", "computer-use-2025-01-24", "computer-use-2025-11-24"),
        *("token-efficient-tools-2025-02-19", "output-128k-2025-02-19", "context-1m-2025-08-07"),
        *("interleaved-thinking-2025-05-14", "dev-full-thinking-2025-05-14", "effort-2025-11-24"),
        *("context-management-2025-06-27", "tool-search-tool-2025-10-19", "tool-examples-2025-10-29"),
        "structured-outputs-2025-12-15",
    }
)
"""Source: AWS's page on Claude's request fields; for the last one, reports of its users."""
_TIER = "x-amzn-bedrock-service-tier"


class BedrockBackend:
    """Chat, embeddings and counts of tokens. ``now`` returns Unix seconds."""

    def __init__(self, client: HttpClient, *, now: Callable[[], float] = time.time) -> None:
        self._accounts = AwsAccounts(client)
        self._client = client.signed(self._accounts.sign)
        self._claude = BedrockClaude(self._client, self.read_error)
        self._now = now

    async def fault(self, upstream: Upstream) -> str | None:
        """See :class:`backends.base.Checks`."""
        return await self._accounts.fault(upstream)

    def dropped(self, request: WireModel, upstream: Upstream) -> tuple[str, ...]:
        """See :class:`backends.base.Backend`."""
        if isinstance(request, EmbeddingRequest):
            return embeddings.translate(request, upstream)[1]
        if is_claude(upstream.model):
            return self._claude.dropped(request, upstream)
        return translate(request, upstream).dropped if isinstance(request, ChatRequest) else ()

    def speaks(self, wire: str, upstream: Upstream) -> bool:
        """See :class:`backends.native.Native`."""
        return is_claude(upstream.model) and self._claude.speaks(wire, upstream)

    def chat(self, upstream: Upstream, request: ChatRequest) -> AsyncIterator[Json]:
        """The chunks of the answer; see :class:`backends.base.Chat`."""
        if is_claude(upstream.model):
            return self._claude.chat(upstream, request)
        return self._converse(upstream, request)

    async def count(self, upstream: Upstream, request: ChatRequest) -> Json:
        """The prompt tokens by Bedrock's own count; see :class:`backends.base.Count`."""
        if is_claude(upstream.model):
            return await self._claude.count(upstream, request)
        body = translate(request, upstream).body
        names = ("messages", "system", "toolConfig", "additionalModelRequestFields")
        counted = {"input": {"converse": {name: body[name] for name in names if name in body}}}
        answer = await self._client.post_json(upstream, count_path(upstream), counted, errors=self.read_error)
        with reading("Bedrock"):
            return {"input_tokens": int(answer["inputTokens"])}

    async def list_models(self, upstream: Upstream, server: Endpoint) -> list[Model]:
        """The models and inference profiles of the region; see :class:`backends.base.Discover`."""
        lists = discovery.control_plane(upstream)
        models = await self._client.get_json(lists, discovery.FOUNDATION_MODELS, errors=self.read_error)
        profiles: list[Json] = []
        query = {"maxResults": discovery.PAGE}
        for _ in range(discovery.MAX_PAGES):
            page = await self._client.get_json(lists, discovery.PROFILES, query=query, errors=self.read_error)
            with reading("Bedrock"):
                profiles += page.get("inferenceProfileSummaries") or ()
                token = page.get("nextToken")
            if not token:
                break
            query = {"maxResults": discovery.PAGE, "nextToken": str(token)}
        with reading("Bedrock"):
            return discovery.rows_of(server, models.get("modelSummaries") or (), profiles)

    async def embed(self, upstream: Upstream, request: EmbeddingRequest) -> Json:
        """The list object; see :class:`backends.base.Embed`. Calls are made one after another."""
        bodies, _ = embeddings.translate(request, upstream)
        answers = []
        for body in bodies:
            async with self._client.open(
                upstream, "POST", model_path(upstream, "invoke"), json=body, errors=self.read_error
            ) as response:
                answer = await response.json()
                with reading("Bedrock"):
                    tokens = response.headers.get("x-amzn-bedrock-input-token-count")
                    answers.append(embeddings.regular(answer, tokens))
        with reading("Bedrock"):
            return gemini_embeddings.assemble(request, upstream, answers)

    def read_error(
        self, status: int, headers: Mapping[str, str], body: bytes, upstream: Upstream
    ) -> RoundhouseError:
        """The typed error of an answer that is not 2xx. Refused credentials are not used again."""
        if not upstream.api_key and exception_of(headers, body) in REFUSED_CREDENTIALS:
            self._accounts.forget(upstream)
        return read_bedrock_error(status, headers, body, upstream)

    async def _converse(self, upstream: Upstream, request: ChatRequest) -> AsyncIterator[Json]:
        made = translate(request, upstream)
        body, restorer = made.body, restorer_of(made.restoration)
        async with self._client.open(
            upstream, "POST", model_path(upstream, "converse-stream"), json=body, errors=self.read_error
        ) as response:
            identity = response.headers.get("x-amzn-requestid") or token_hex(12)
            answer = ConverseStream(upstream, identity, created=int(self._now()))
            try:
                async with aclosing(frames(response, upstream, self._client.settings.max_event_bytes)) as received:
                    async for frame in received:
                        kind = frame.headers.get(":event-type", "")
                        for chunk in answer.feed(kind, loads(frame.payload)):
                            yield chunk if restorer is None else restorer.restore(chunk)
            except UpstreamError:
                if not answer.finished:  # an error after its end does not change the answer
                    raise
        answer.close()


class BedrockClaude(CloudClaude):
    """Anthropic's models in their own language. Betas stand in the body, too, the tier of service in a header."""

    version = "bedrock-2023-05-31"
    betas = _BETAS
    key_header = "authorization"

    def __init__(
        self,
        client: HttpClient,
        errors: Callable[[int, Mapping[str, str], bytes, Upstream], RoundhouseError],
    ) -> None:
        super().__init__(client)
        self._errors = errors

    def translated(self, request: ChatRequest, upstream: Upstream) -> TranslatedRequest:
        """See :class:`CloudClaude`. A service tier that Bedrock has is kept."""
        made = super().translated(request, upstream)
        if any(str(tool.get("type", "")).startswith(_SEARCH) for tool in made.body.get("tools") or ()):
            raise CapabilityMismatch("Bedrock's models do not search the web.", param="web_search_options")
        tier = (request.model_extra or {}).get("service_tier")
        if tier not in TIERS:
            return made
        left = tuple(name for name in made.dropped if name != "service_tier")
        return replace(made, body={**made.body, "service_tier": tier}, dropped=left)

    def addressed(
        self, path: str, upstream: Upstream, body: Json, headers: dict[str, str]
    ) -> tuple[str, Json, dict[str, str]]:
        """See :class:`AnthropicBackend`."""
        path, body, headers = super().addressed(path, upstream, body, headers)
        left_out = ("model", "stream", "service_tier")
        tier = body.get("service_tier")
        body = {name: value for name, value in body.items() if name not in left_out}
        if BETA in headers:
            body["anthropic_beta"] = headers[BETA].split(",")
        if path == COUNT:
            invoked = base64.b64encode(orjson.dumps({"max_tokens": 1, **body})).decode()
            return count_path(upstream), {"input": {"invokeModel": {"body": invoked}}}, headers
        if tier is not None:
            headers[_TIER] = tier
        return model_path(upstream, "invoke-with-response-stream"), body, headers

    async def events(self, response: UpstreamResponse, upstream: Upstream) -> AsyncIterator[ServerSentEvent]:
        """Anthropic's events, each in base64 within a frame."""
        async with aclosing(frames(response, upstream, self._client.settings.max_event_bytes)) as received:
            async for frame in received:
                with reading("Bedrock"):
                    data = base64.b64decode(loads(frame.payload)["bytes"], validate=True)
                yield ServerSentEvent(data)

    def served_tier(self, response: UpstreamResponse) -> str | None:
        """See :class:`AnthropicBackend`. The events tell Anthropic's own tiers, not Bedrock's."""
        return SERVED.get(response.headers.get(_TIER, ""))

    def counted(self, answer: Json) -> object:
        """See :class:`AnthropicBackend`."""
        return answer["inputTokens"]

    def read_error(
        self, status: int, headers: Mapping[str, str], body: bytes, upstream: Upstream
    ) -> RoundhouseError:
        """See :class:`AnthropicBackend`."""
        return self._errors(status, headers, body, upstream)


async def frames(response: UpstreamResponse, upstream: Upstream, max_frame: int) -> AsyncGenerator[Frame]:
    """The frames of an event stream. Raises the typed error of an exception in it, and StreamBroken at a cut."""
    if response.media_type != MEDIA_TYPE:
        raise UpstreamProtocolError(
            f"The endpoint '{upstream.endpoint}' answered with '{response.media_type[:80]}' "
            "where an event stream was asked for."
        )
    reader = FrameReader(upstream.endpoint, max_frame=max_frame)
    async for chunk in response.iter_bytes():
        for frame in reader.feed(chunk):
            if frame.headers.get(":message-type", "event") != "event":
                raise read_exception(frame, upstream)
            yield frame
    reader.close()


def is_claude(model: str) -> bool:
    """Whether a model is Anthropic's, as far as its name tells."""
    return "claude" in model.lower()


def model_path(upstream: Upstream, method: str) -> str:
    """The path of a method of the upstream's model. An ARN's slashes and colons are encoded."""
    return f"/model/{quote(upstream.model, safe='')}/{method}"


def count_path(upstream: Upstream) -> str:
    """The path that counts tokens, for the foundation model behind an inference profile."""
    return f"/model/{quote(_PROFILE.sub('', upstream.model), safe='')}/count-tokens"
