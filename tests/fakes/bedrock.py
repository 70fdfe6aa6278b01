"""A fake of Amazon Bedrock: checks signatures and bodies, and answers in event streams with right checksums.

Signatures are computed again with botocore, bodies and events of Converse held to its model of the service.
"""

from __future__ import annotations

import base64
import hmac
import json
import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import orjson
from aiohttp import web
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.validate import ParamValidator

from catalog.types import Json
from tests.fakes import anthropic
from tests.fakes.openai_chat import example_of, words
from tests.fakes.server import Call, FakeServer, Fault, Route

REGION = "us-east-1"
ACCESS_KEY, SECRET_KEY = "AKIAFAKEFAKEFAKEFAKE", "planted-secret-of-the-aws-account"
SIGNATURE = "signed-by-the-fake"
THOUGHT = "The user wants an answer, so I answer."
STREAM = "application/vnd.amazon.eventstream"
EXCEPTIONS = {
    400: "ValidationException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    408: "ModelTimeoutException",
    424: "ModelErrorException",
    429: "ThrottlingException",
    500: "InternalServerException",
    503: "ServiceUnavailableException",
}
LISTED: list[Json] = [
    {
        "modelId": model,
        "inputModalities": inputs,
        "outputModalities": outputs,
        "responseStreamingSupported": streams,
        "inferenceTypesSupported": types,
        "modelLifecycle": {"status": "ACTIVE"},
    }
    for model, inputs, outputs, streams, types in (
        ("anthropic.claude-sonnet-5-v1:0", ["TEXT", "IMAGE"], ["TEXT"], True, ["INFERENCE_PROFILE"]),
        ("amazon.nova-pro-v1:0", ["TEXT", "IMAGE", "VIDEO"], ["TEXT"], True, ["ON_DEMAND"]),
        ("ai21.jamba-v1:0", ["TEXT"], ["TEXT"], True, ["ON_DEMAND"]),
        ("amazon.titan-embed-text-v2:0", ["TEXT"], ["EMBEDDING"], False, ["ON_DEMAND"]),
        ("twelvelabs.marengo-embed-v1:0", ["TEXT", "VIDEO"], ["EMBEDDING"], False, ["ON_DEMAND"]),
        ("cohere.rerank-v3-5:0", ["TEXT"], ["TEXT"], False, ["ON_DEMAND"]),
        ("amazon.nova-canvas-v1:0", ["TEXT"], ["IMAGE"], False, ["ON_DEMAND"]),
    )
]
PROFILES: list[Json] = [
    {
        "inferenceProfileId": f"{area}.anthropic.claude-sonnet-5-v1:0",
        "models": [{"modelArn": f"arn:aws:bedrock:{REGION}::foundation-model/anthropic.claude-sonnet-5-v1:0"}],
        "status": "ACTIVE",
        "type": "SYSTEM_DEFINED",
    }
    for area in ("us", "global")
]
Damage = Literal["checksum", "header checksum", "throttling", "model", "error", "cut"]


class Wrong(Exception):
    """A request that the real service refuses with a 400."""


class FakeBedrock(FakeServer):
    """``key`` is an API key; ``credentials`` are those that a signature may be made with, by access key.

    ``damage`` is what :class:`Fault`'s ``malformed_after`` sends; "cut" ends every stream within its sixth frame.
    ``thinks`` makes Converse's models reason.
    """

    def __init__(self, *, uds: Path | None = None, key: str = "bedrock-api-key-fake") -> None:
        super().__init__(uds=uds)
        self.key = key
        self.credentials = {ACCESS_KEY: Credentials(ACCESS_KEY, SECRET_KEY)}
        self.reply = "The quick brown fox jumps over the lazy dog."
        self.context = 4096
        self.damage: Damage = "checksum"
        self.thinks = False
        self.claude = anthropic.FakeAnthropic()

    def routes(self) -> list[Route]:
        return [
            ("POST", "/model/{model}/{method}", self.model),
            ("GET", "/foundation-models", self.list_models),
            ("GET", "/inference-profiles", self.list_profiles),
        ]

    def error(self, status: int, message: str, *, code: str | None = None, kind: str | None = None) -> Json:
        return {"message": message}

    def refused(self, call: Call, status: int, message: str, **names: str | None) -> web.Response:
        response = super().refused(call, status, message)
        response.headers["x-amzn-errortype"] = names.get("kind") or EXCEPTIONS.get(status, "Exception")
        return response

    def _failure(self, fault: Fault) -> web.Response:
        response = super()._failure(fault)
        assert fault.status is not None
        response.headers["x-amzn-errortype"] = (
            f"{fault.type or EXCEPTIONS.get(fault.status, 'Exception')}:http://x/"
        )
        return response

    def malformed(self) -> bytes:
        match self.damage:
            case "checksum":
                return _damaged(frame("contentBlockDelta", {"contentBlockIndex": 0}), at=-1)
            case "header checksum":
                return _damaged(frame("contentBlockDelta", {"contentBlockIndex": 0}), at=8)
            case "throttling":
                return exception("throttlingException", {"message": "Too many tokens, please wait."})
            case "model":
                return exception("modelStreamErrorException", {"message": "It broke.", "originalStatusCode": 500})
            case "error":
                return encoded({":message-type": "error", ":error-code": "X", ":error-message": "It broke."}, b"")
            case "cut":
                return b""

    async def model(self, request: web.Request, call: Call) -> web.StreamResponse:
        if refusal := await self._unauthorised(request, call):
            return refusal
        model, method = request.match_info["model"], request.match_info["method"]
        try:
            match method:
                case "invoke-with-response-stream":
                    chunks = [chunk(event) for event in self._claude(call, model)]
                case "converse-stream":
                    chunks = [frame(kind, event) for kind, event in self._converse(call)]
                case "count-tokens":
                    return await self.document(request, call, {"inputTokens": count(call.body, model)})
                case "invoke":
                    answer, tokens = embedding(call.body, model)
                    response = await self.document(request, call, answer)
                    response.headers["x-amzn-bedrock-input-token-count"] = str(tokens)
                    return response
                case _:
                    return self.refused(call, 404, f"no operation {method}", kind="UnknownOperationException")
        except (Wrong, anthropic.Wrong) as wrong:
            return self.refused(call, 400, f"The model returned the following errors: {wrong}")
        if self.damage == "cut":
            chunks = [*chunks[:5], chunks[5][:-3]]
        tier = call.headers.get("x-amzn-bedrock-service-tier")
        headers = {} if tier is None else {"x-amzn-bedrock-service-tier": tier}
        return await self.stream(request, call, chunks, content_type=STREAM, headers=headers)

    async def list_models(self, request: web.Request, call: Call) -> web.StreamResponse:
        refusal = await self._unauthorised(request, call)
        return refusal or await self.document(request, call, {"modelSummaries": LISTED})

    async def list_profiles(self, request: web.Request, call: Call) -> web.StreamResponse:
        """Two pages of one profile each."""
        if refusal := await self._unauthorised(request, call):
            return refusal
        at = int(call.query.get("nextToken", 0))
        page: Json = {"inferenceProfileSummaries": [PROFILES[at]]}
        return await self.document(request, call, page if at else {**page, "nextToken": "1"})

    # ---- who asks

    async def _unauthorised(self, request: web.Request, call: Call) -> web.Response | None:
        given = call.headers.get("authorization", "")
        if given.startswith("Bearer "):
            if given == f"Bearer {self.key}":
                return None
            text = f"Authentication failed: please make sure your API Key is valid ({given})."
            return self.refused(call, 403, text, kind="AccessDeniedException")
        fields = dict(part.split("=", 1) for part in given.removeprefix("AWS4-HMAC-SHA256 ").split(", "))
        access_key, day, region, service, _ = fields["Credential"].split("/")
        credentials = self.credentials.get(access_key)
        if credentials is None or call.headers.get("x-amz-security-token") != credentials.token:
            text = "The security token included in the request is invalid."
            return self.refused(call, 403, text, kind="UnrecognizedClientException")
        signed = fields["SignedHeaders"].split(";")
        needed = {name for name in call.headers if name.startswith("x-amz") or name in ("host", "content-type")}
        stamp = call.headers["x-amz-date"]
        age = datetime.now(UTC) - datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        headers = {name: call.headers[name] for name in signed}
        url = f"{self.origin}{request.raw_path}"
        again = AWSRequest(method=call.method, url=url, data=await request.read(), headers=headers)
        again.context["timestamp"] = stamp
        signer = SigV4Auth(credentials, service, region)
        signature = signer.signature(signer.string_to_sign(again, signer.canonical_request(again)), again)
        if (
            not hmac.compare_digest(signature, fields["Signature"])
            or (region, service, day) != (REGION, "bedrock", stamp[:8])
            or abs(age.total_seconds()) > 300
            or not needed <= set(signed)
        ):
            text = "The request signature we calculated does not match the signature you provided."
            return self.refused(call, 403, text, kind="InvalidSignatureException")
        return None

    # ---- answers

    def _claude(self, call: Call, model: str) -> Iterator[Json]:
        body = {**call.body, "model": model}
        if "stream" in body or body.pop("anthropic_version", None) != "bedrock-2023-05-31":
            raise Wrong("anthropic_version: Field required")
        betas = {*body.pop("anthropic_beta", ()), *call.headers.get("anthropic-beta", "").split(",")} - {""}
        if betas - {"context-management-2025-06-27", "interleaved-thinking-2025-05-14", "operators-own-1"}:
            raise Wrong("invalid beta flag")
        if "service_tier" in body:
            raise Wrong("service_tier: Extra inputs are not permitted")
        anthropic.check(body)
        self._fits(body["messages"])
        self.claude.reply = self.reply
        blocks, stop = self.claude.answer(body, refuse=call.fault.refuse)
        return anthropic.stream_of(body, blocks, stop)

    def _converse(self, call: Call) -> Iterator[tuple[str, Json]]:
        body = call.body
        held("ConverseStreamRequest", {**body, "modelId": "m"})
        check(body)
        self._fits(body["messages"])
        return self._events(body, refuse=call.fault.refuse)

    def _events(self, body: Json, *, refuse: bool) -> Iterator[tuple[str, Json]]:
        yield "messageStart", {"role": "assistant"}
        at = 0
        if self.thinks:
            for piece in words(THOUGHT):
                yield "contentBlockDelta", _delta(at, {"reasoningContent": {"text": piece}})
            yield "contentBlockDelta", _delta(at, {"reasoningContent": {"signature": SIGNATURE}})
            yield "contentBlockStop", {"contentBlockIndex": at}
            at += 1
        pieces, tools, stop = self._said(body)
        if refuse:
            pieces, tools, stop = [], [], "guardrail_intervened"
        for piece in pieces:
            yield "contentBlockDelta", _delta(at, {"text": piece})
        if pieces:
            yield "contentBlockStop", {"contentBlockIndex": at}
            at += 1
        for number, tool in enumerate(tools):
            use = {"toolUseId": f"tooluse_{number}", "name": tool["name"]}
            yield "contentBlockStart", {"contentBlockIndex": at, "start": {"toolUse": use}}
            text = json.dumps(example_of(tool["inputSchema"]["json"]))
            for begin in range(0, len(text), 5):
                yield "contentBlockDelta", _delta(at, {"toolUse": {"input": text[begin : begin + 5]}})
            yield "contentBlockStop", {"contentBlockIndex": at}
            at += 1
        yield "messageStop", {"stopReason": stop}
        usage: Json = {"inputTokens": 10, "outputTokens": 5, "totalTokens": 22}
        details = [{"ttl": "1h", "inputTokens": 3}]
        usage |= {"cacheReadInputTokens": 4, "cacheWriteInputTokens": 3, "cacheDetails": details}
        tier = {"serviceTier": body["serviceTier"]} if "serviceTier" in body else {}
        yield "metadata", {"usage": usage, "metrics": {"latencyMs": 3}, **tier}

    def _said(self, body: Json) -> tuple[list[str], list[Json], str]:
        config = body.get("toolConfig", {})
        choice = config.get("toolChoice", {"auto": {}})
        answered = any("toolResult" in block for block in body["messages"][-1]["content"])
        if config and not (answered and "auto" in choice):
            tools = [tool["toolSpec"] for tool in config["tools"]]
            named = choice.get("tool", {}).get("name")
            return [], [tool for tool in tools if named in (None, tool["name"])][:2], "tool_use"
        text, stop = self.reply, "end_turn"
        wanted = body.get("outputConfig", {}).get("textFormat")
        if wanted:
            text = json.dumps(example_of(json.loads(wanted["structure"]["jsonSchema"]["schema"])))
        inference = body.get("inferenceConfig", {})
        for end in inference.get("stopSequences", ()):
            if end in text:
                text, stop = text[: text.index(end)], "stop_sequence"
        pieces = words(text)
        if len(pieces) > inference.get("maxTokens", 10_000):
            pieces, stop = pieces[: inference["maxTokens"]], "max_tokens"
        return pieces, [], stop

    def _fits(self, messages: list[Json]) -> None:
        needed = len(json.dumps(messages).split())
        if needed > self.context:
            raise Wrong(f"prompt is too long: {needed} tokens > {self.context} maximum")


def check(body: Json) -> None:
    """Raise Wrong for a conversation that the real service refuses."""
    role = None
    asked: list[str] = []
    for message in body["messages"]:
        if message["role"] == role:
            raise Wrong("A conversation must alternate between user and assistant roles.")
        role = message["role"]
        blocks = message["content"]
        if any(not block.get("text", "x").strip() for block in blocks):
            raise Wrong("The text field in the ContentBlock object is blank.")
        results = [block["toolResult"]["toolUseId"] for block in blocks if "toolResult" in block]
        if role == "user" and sorted(results) != sorted(asked):
            raise Wrong("Expected toolResult blocks for the toolUse blocks of the previous turn.")
        asked = [block["toolUse"]["toolUseId"] for block in blocks if "toolUse" in block]
        if (asked or results) and "toolConfig" not in body:
            raise Wrong("The toolConfig field must be defined when using toolUse and toolResult content blocks.")
    if body["messages"][0]["role"] != "user":
        raise Wrong("A conversation must start with a user message.")


def count(body: Json, model: str) -> int:
    """The tokens of a prompt; raises Wrong for one that is not whole, or of an inference profile."""
    held("CountTokensRequest", {**body, "modelId": model})
    if model.startswith(("us.", "eu.", "global.")):
        raise Wrong("The provided model doesn't support counting tokens.")
    asked = body["input"]
    if "invokeModel" in asked:
        invoked = json.loads(base64.b64decode(asked["invokeModel"]["body"]))
        assert {"anthropic_version", "max_tokens", "messages"} <= set(invoked)
    return 777


def embedding(body: Json, model: str) -> tuple[Json, int]:
    """The answer of a model that embeds, and the tokens of its texts."""
    if "titan" in model:
        if extra := set(body) - {"inputText", "dimensions", "normalize"}:
            raise Wrong(f"Malformed input request: #: extraneous key [{min(extra)}] is not permitted")
        tokens = len(body["inputText"].split())
        return {
            "embedding": _vector(body["inputText"], body.get("dimensions", 8)),
            "inputTextTokenCount": tokens,
        }, tokens
    if "nova" in model:
        asked = body["singleEmbeddingParams"]
        assert asked["text"]["truncationMode"] == "NONE"
        vector = _vector(asked["text"]["value"], asked.get("embeddingDimension", 8))
        return {"embeddings": [{"embeddingType": "TEXT", "embedding": vector}]}, len(
            asked["text"]["value"].split()
        )
    assert set(body) <= {"texts", "input_type", "truncate", "embedding_types", "output_dimension"}
    assert body["truncate"] == "NONE"
    if not 0 < len(body["texts"]) <= 96:
        raise Wrong("texts: too many")
    vectors = [_vector(text, body.get("output_dimension", 8)) for text in body["texts"]]
    tokens = sum(len(text.split()) for text in body["texts"])
    return {"id": "e", "response_type": "embeddings_by_type", "embeddings": {"float": vectors}}, tokens


def _vector(text: str, size: int) -> list[float]:
    return [float(len(text)) + at for at in range(size)]


def _delta(at: int, delta: Json) -> Json:
    return {"contentBlockIndex": at, "delta": delta}


# ---- the model of the service


@cache
def service() -> Any:
    """botocore's model of bedrock-runtime."""
    return ServiceModel(Loader().load_service_model("bedrock-runtime", "service-2"))


def held(shape: str, document: Json) -> None:
    """Raise Wrong for a document with other fields or types than a shape of the service."""
    report = ParamValidator().validate(document, service().shape_for(shape))
    if report.has_errors():
        raise Wrong(f"Malformed input request: {report.generate_report()}")


# ---- frames


def encoded(headers: dict[str, str], payload: bytes) -> bytes:
    """One frame of an event stream."""
    block = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value.encode())) + value.encode()
        for name, value in headers.items()
    )
    head = struct.pack(">II", len(block) + len(payload) + 16, len(block))
    body = head + struct.pack(">I", crc32(head)) + block + payload
    return body + struct.pack(">I", crc32(body))


def frame(kind: str, event: Json) -> bytes:
    """An event of Converse, padded as by the real service; held to the model of the service if it is whole."""
    shapes = service().shape_for("ConverseStreamOutput").members
    if kind in shapes and event.keys() - {"contentBlockIndex"}:
        held(shapes[kind].name, event)
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return encoded(headers, orjson.dumps({**event, "p": "abcdefgh"}))


def chunk(event: Json) -> bytes:
    """An event of Anthropic in a frame."""
    inner = base64.b64encode(orjson.dumps(event)).decode()
    headers = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}
    return encoded(headers, orjson.dumps({"bytes": inner, "p": "abc"}))


def exception(kind: str, payload: Json) -> bytes:
    headers = {":exception-type": kind, ":content-type": "application/json", ":message-type": "exception"}
    return encoded(headers, orjson.dumps(payload))


def _damaged(whole: bytes, *, at: int) -> bytes:
    made = bytearray(whole)
    made[at] ^= 0xFF
    return bytes(made)
