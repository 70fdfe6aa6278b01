"""A fake of Google's Gemini API: chats and embeddings, as strict about a request as the real one.

Source: Google's Gemini API reference and the types of its Python SDK.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from catalog.types import Json
from tests.fakes.openai_chat import example_of, words
from tests.fakes.server import Call, FakeServer, Route

SIGNATURE = "c2lnbmVkLWJ5LXRoZS1mYWtl"
THOUGHT = "The user wants an answer, so I answer."
QUERIES = ["speed of foxes", "fox"]
SOURCES: list[Json] = [
    {"web": {"uri": "https://foxes.example/speed", "title": "foxes.example"}},
    {"web": {"uri": "https://dogs.example", "title": "dogs.example"}},
]
BODY = frozenset(
    {
        *("contents", "systemInstruction", "tools", "toolConfig", "generationConfig", "safetySettings"),
        *("serviceTier", "continuationToken"),
    }
)
CONFIG = frozenset(
    {
        *("candidateCount", "temperature", "topP", "topK", "frequencyPenalty", "presencePenalty", "seed"),
        *("maxOutputTokens", "stopSequences", "responseLogprobs", "logprobs", "thinkingConfig"),
        *("responseMimeType", "responseJsonSchema", "responseModalities", "speechConfig", "imageConfig"),
    }
)
_DRAWS = re.compile("image|nano-banana")
STATUSES = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}
STATUSES |= {429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}


class Wrong(Exception):
    """A request that the real service refuses with a 400."""


class FakeGoogle(FakeServer):
    """``reply`` is what the model says, before ``pictures`` in base64, or aloud as the PCM of ``sounds``.

    Without ``draws_unasked`` the pictures come only where a request names the modality. With ``call_ids`` off,
    tool calls have no ids, as in older versions. ``limit`` is the most pieces that one request writes: a longer
    answer ends with a token, by which the next request goes on.
    """

    def __init__(self, *, uds: Path | None = None, key: str = "AIza-fake") -> None:
        super().__init__(uds=uds)
        self.key = key
        self.reply = "The quick brown fox jumps over the lazy dog."
        self.context = 4096
        self.call_ids = True
        self.pictures: tuple[str, ...] = ()
        self.draws_unasked = True
        self.sounds: tuple[bytes, ...] = (b"\x01\x00", b"\x02\x00\x03\x00")
        self.listed: list[Json] = []
        self.limit: int | None = None

    @property
    def base_url(self) -> str:
        return f"{self.origin}/v1beta"

    def routes(self) -> list[Route]:
        return [("POST", "/v1beta/models/{call:.+}", self.models), ("GET", "/v1beta/models", self.list_models)]

    async def list_models(self, request: web.Request, call: Call) -> web.StreamResponse:
        """A page of two models."""
        if call.headers.get("x-goog-api-key") != self.key:
            return self.refused(
                call, 400, "API key not valid. Please pass a valid API key.", code="API_KEY_INVALID"
            )
        at = int(call.query.get("pageToken", 0))
        page: Json = {"models": self.listed[at : at + 2]}
        if at + 2 < len(self.listed):
            page["nextPageToken"] = str(at + 2)
        return await self.document(request, call, page)

    def error(self, status: int, message: str, *, code: str | None = None, kind: str | None = None) -> Json:
        error: Json = {"code": status, "message": message, "status": kind or STATUSES.get(status, "UNKNOWN")}
        if status == 429:
            error["details"] = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.5s"}]
        if code:
            error["details"] = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": code}]
        return {"error": error}

    def malformed(self) -> bytes:
        return b'data: {"candidates": [{"content": {"parts": [{"functionCall": {}}]}}]}\r\n\r\n'

    async def models(self, request: web.Request, call: Call) -> web.StreamResponse:
        if call.headers.get("x-goog-api-key") != self.key:
            return self.refused(
                call, 400, "API key not valid. Please pass a valid API key.", code="API_KEY_INVALID"
            )
        model, _, method = request.match_info["call"].partition(":")
        try:
            if method == "streamGenerateContent" and call.query.get("alt") == "sse":
                check(call.body, signed=model.startswith("gemini-3"))
                check_modalities(call.body.get("generationConfig", {}), model)
                needed = len(json.dumps(call.body["contents"]).split())
                if needed > self.context:
                    raise Wrong(
                        f"The input token count ({needed}) exceeds the maximum number of tokens allowed "
                        f"({self.context})."
                    )
                events = self.answer(call.body, model, refuse=call.fault.refuse)
                return await self.stream(request, call, (encode(event) for event in events))
            if method == "countTokens":
                return await self.document(request, call, {"totalTokens": counted(call.body, model)})
            if method == "batchEmbedContents":
                return await self.document(request, call, embeddings(call.body, model))
        except Wrong as wrong:
            return self.refused(call, 400, str(wrong))
        return self.refused(call, 404, f"models/{model} is not found for API version v1beta")

    def answer(self, body: Json, model: str, *, refuse: bool) -> Iterator[Json]:
        """The events of an answer."""
        config = body.get("generationConfig", {})
        head = {"modelVersion": model, "responseId": "fake-response"}
        if refuse:
            feedback = {"blockReason": "SAFETY"}
            yield {**head, "promptFeedback": feedback, "usageMetadata": {"promptTokenCount": 4}}
            return
        parts, finish = self._parts(body, config)
        thoughts = sum(1 for part in parts if part.get("thought"))
        for index in range(config.get("candidateCount", 1)):
            for part in parts:
                candidate: Json = {"index": index, "content": {"role": "model", "parts": [part]}}
                if config.get("responseLogprobs") and part.get("text"):
                    candidate["logprobsResult"] = logprobs(part["text"])
                yield {**head, "candidates": [candidate], "usageMetadata": {"promptTokenCount": 10}}
            counts = {
                "promptTokenCount": 10,
                "cachedContentTokenCount": 3,
                "candidatesTokenCount": len(parts) - thoughts,
                "thoughtsTokenCount": thoughts,
                "totalTokenCount": 10 + len(parts),
                "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 10}],
            }
            end: Json = {"index": index, "finishReason": finish}
            if finish == "CONTINUATION":
                end["continuationToken"] = token_at(self._written(body) + len(parts))
            if any("googleSearch" in tool for tool in body.get("tools") or ()):
                end["groundingMetadata"] = grounding(self.reply)
            yield {**head, "candidates": [end], "usageMetadata": counts}

    @staticmethod
    def _written(body: Json) -> int:
        token = body.get("continuationToken")
        return int(base64.b64decode(token).split()[1]) if token else 0

    def _parts(self, body: Json, config: Json) -> tuple[list[Json], str]:
        thinks = config.get("thinkingConfig", {}).get("includeThoughts")
        parts: list[Json] = [{"text": piece, "thought": True} for piece in words(THOUGHT)] if thinks else []
        calling = body.get("toolConfig", {}).get("functionCallingConfig", {})
        mode = calling.get("mode", "AUTO")
        answered = any("functionResponse" in part for part in body["contents"][-1]["parts"])
        declared = [one for tool in body.get("tools") or () for one in tool.get("functionDeclarations", ())]
        if declared and mode != "NONE" and not (answered and mode != "ANY"):
            tools = [
                tool for tool in declared if tool["name"] in calling.get("allowedFunctionNames", [tool["name"]])
            ]
            for at, tool in enumerate(tools[:2]):
                made = {
                    "name": tool["name"],
                    "args": example_of(tool.get("parametersJsonSchema", {"type": "object"})),
                }
                part: Json = {"functionCall": {**made, "id": f"fc{at}"} if self.call_ids else made}
                parts.append({**part, "thoughtSignature": SIGNATURE} if at == 0 else part)
            return parts, "STOP"
        text = self.reply
        if config.get("responseMimeType") == "application/json":
            text = json.dumps(example_of(config.get("responseJsonSchema", {"type": "object"})))
        finish = "STOP"
        for stop in config.get("stopSequences") or ():
            text = text.partition(stop)[0]
        pieces = words(text)
        if len(pieces) > config.get("maxOutputTokens", 10_000):
            pieces, finish = pieces[: config["maxOutputTokens"]], "MAX_TOKENS"
        pieces = pieces[self._written(body) :]
        if self.limit is not None and len(pieces) > self.limit:
            pieces, finish = pieces[: self.limit], "CONTINUATION"
        if config.get("responseModalities") == ["AUDIO"]:
            kind = "audio/L16;codec=pcm;rate=24000"
            spoken = [base64.b64encode(sound).decode() for sound in self.sounds]
            return [{"inlineData": {"mimeType": kind, "data": one}} for one in spoken], finish
        if config.get("responseModalities") == ["IMAGE"]:
            pieces = []
        draws = self.draws_unasked or "IMAGE" in config.get("responseModalities", ())
        pictures = self.pictures if draws else ()
        drawn = [{"inlineData": {"mimeType": "image/png", "data": picture}} for picture in pictures]
        return [*parts, *({"text": piece} for piece in pieces), *drawn], finish


def token_at(written: int) -> str:
    """The token of an answer of which so many pieces are written."""
    return base64.b64encode(f"written {written}".encode()).decode()


def counted(body: Json, model: str) -> int:
    """The tokens of a prompt with its instructions and tools. Raises Wrong for another request than Google's."""
    inner = body.get("generateContentRequest")
    if set(body) != {"generateContentRequest"} or not isinstance(inner, dict):
        raise Wrong("contents is not specified")
    if inner.pop("model", None) != f"models/{model}":
        raise Wrong("model does not match the URL")
    check(inner, signed=model.startswith("gemini-3"))
    return len(json.dumps(inner).split())


def grounding(text: str) -> Json:
    """The metadata of an answer that was searched for: its last word is supported by both sources, in bytes."""
    start, end = len(text.rpartition(" ")[0].encode()) + 1, len(text.encode())
    segment = {"startIndex": start, "endIndex": end, "text": text.encode()[start:end].decode()}
    return {
        "webSearchQueries": QUERIES,
        "searchEntryPoint": {"renderedContent": "<div>Google</div>"},
        "groundingChunks": SOURCES,
        "groundingSupports": [{"segment": segment, "groundingChunkIndices": [0, 1]}],
    }


def check(body: Json, *, signed: bool) -> None:
    """Raise Wrong for a request that the real service refuses."""
    config = body.get("generationConfig", {})
    for name in (*sorted(set(body) - BODY), *sorted(set(config) - CONFIG)):
        raise Wrong(f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.')
    if "thinkingBudget" in config.get("thinkingConfig", {}) and signed:
        raise Wrong("thinking_budget and thinking_level cannot be mixed.")
    if not body.get("contents"):
        raise Wrong("contents is not specified")
    if body.get("tools") and config.get("responseMimeType") == "application/json" and not signed:
        raise Wrong("Function calling with a response mime type: 'application/json' is unsupported")
    kinds = {name for tool in body.get("tools") or () for name in tool}
    if kinds > {"googleSearch"}:
        if not signed:
            raise Wrong("Tool use with function calling is unsupported")
        if not body.get("toolConfig", {}).get("includeServerSideToolInvocations"):
            raise Wrong("Please enable tool_config.include_server_side_tool_invocations to use Built-in tools.")
    asked: list[str] = []
    role = None
    for content in body["contents"]:
        if content["role"] == role:
            raise Wrong("Please ensure that multiturn requests alternate between user and model.")
        role = content["role"]
        answers = [part["functionResponse"]["name"] for part in content["parts"] if "functionResponse" in part]
        if role == "user" and answers != asked:
            raise Wrong("The number of function response parts must equal the function call parts.")
        calls = [part for part in content["parts"] if "functionCall" in part]
        asked = [part["functionCall"]["name"] for part in calls]
        if signed and calls and not calls[0].get("thoughtSignature"):
            raise Wrong("Function call is missing a thought_signature in functionCall parts.")


def check_modalities(config: Json, model: str) -> None:
    """Raise Wrong for kinds of answers that the model does not give."""
    kinds = config.get("responseModalities")
    if kinds is None and "tts" not in model:
        return
    if ("tts" in model) != (kinds == ["AUDIO"]) or (kinds != ["AUDIO"] and not _DRAWS.search(model)):
        raise Wrong("The requested combination of response modalities is not supported by the model.")
    for one in (config.get("speechConfig") or {}).values():
        if set(one) != {"prebuiltVoiceConfig"} or set(one["prebuiltVoiceConfig"]) != {"voiceName"}:
            raise Wrong("Invalid speech config.")


def embeddings(body: Json, model: str) -> Json:
    """Vectors of another length than 1, like Gemini's shortened ones."""
    if len(body["requests"]) > 100:
        raise Wrong("at most 100 requests can be in one batch")
    rows = []
    for one in body["requests"]:
        if one["model"] != f"models/{model}":
            raise Wrong("model does not match the URL")
        text = "".join(part.get("text") or part["inlineData"]["data"] for part in one["content"]["parts"])
        rows.append({"values": [float(len(text)) + at for at in range(one.get("outputDimensionality", 8))]})
    return {"embeddings": rows}


def logprobs(token: str) -> Json:
    one = {"token": token, "logProbability": -0.1, "tokenId": 1}
    other = {"token": "?", "logProbability": -3.0, "tokenId": 2}
    return {"chosenCandidates": [one], "topCandidates": [{"candidates": [one, other]}]}


def encode(event: Any) -> bytes:
    """Server-sent events with CR LF line ends, as Google sends them."""
    return b"data: " + orjson.dumps(event) + b"\r\n\r\n"
