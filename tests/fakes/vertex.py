"""A fake of Google Vertex AI, with its token, metadata and workload identity servers.

Source: the code of google-genai, of Anthropic's SDK and of google-auth.
"""

from __future__ import annotations

import base64
import json
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiohttp import web
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from catalog.types import Json
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.google import FakeGoogle
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Call, FakeServer, Route

PROJECT, REGION = "fake-project", "global"
PLACE = f"projects/{PROJECT}/locations/{REGION}/"
ACCOUNT = "robot@fake-project.iam.gserviceaccount.com"
MISTRALS = frozenset(
    {
        *(
            "model",
            "messages",
            "temperature",
            "top_p",
            "max_tokens",
            "stream",
            "stop",
            "random_seed",
            "n",
            "tools",
        ),
        *("response_format", "tool_choice", "presence_penalty", "frequency_penalty", "prediction"),
        *("parallel_tool_calls", "stream_options", "safe_prompt"),
    }
)
"""Mistral's parameters. Source: the types of its Python SDK for Vertex AI."""
SUBJECT_TOKEN = "subject-token-of-the-workload"


class FakeVertex(FakeServer):
    """``key`` is an API key, ``lifetime`` the seconds of an access token, ``tokens`` are those it gave."""

    def __init__(self, *, uds: Path | None = None, key: str = "AIza-fake") -> None:
        super().__init__(uds=uds)
        self.key = key
        self.lifetime = 3600
        self.tokens: list[str] = []
        self.valid: set[str] = set()
        self.token_status = 200
        self.gemini = FakeGoogle()
        self.claude = FakeAnthropic()
        self.open = FakeOpenAI()
        self.reply = self.open.reply
        self.open.models = ["meta/llama-4-maas"]
        self.listed: list[str] = []
        self.private_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    @property
    def token_calls(self) -> list[Call]:
        return [call for call in self.calls if call.path in ("/token", "/sts") or call.path.endswith("/token")]

    @property
    def model_calls(self) -> list[Call]:
        return [call for call in self.calls if call.path.startswith("/v1")]

    def service_account(self) -> Json:
        """The content of a service account's key file."""
        pem = self.private_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": "k1",
            "private_key": pem.decode(),
            "client_email": ACCOUNT,
            "client_id": "1",
            "token_uri": f"{self.origin}/token",
        }

    def workload_identity(self, subject: Path) -> Json:
        """The configuration of a workload whose own token is in a file."""
        return {
            "type": "external_account",
            "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": f"{self.origin}/sts",
            "credential_source": {"file": str(subject)},
        }

    def routes(self) -> list[Route]:
        metadata = "/computeMetadata/v1/instance/service-accounts/default"
        return [
            ("POST", "/token", self.token),
            ("POST", "/sts", self.exchange),
            ("GET", "/", self.metadata),
            ("GET", metadata + "/{rest:.*}", self.metadata),
            ("GET", "/computeMetadata/v1/{rest:.*}", self.metadata),
            ("POST", "/{version:v1|v1beta1}/{call:.+}", self.call_model),
            ("GET", "/v1beta1/publishers/google/models", self.list_models),
        ]

    def error(self, status: int, message: str, *, code: str | None = None, kind: str | None = None) -> Json:
        return self.gemini.error(status, message, code=code, kind=kind)

    # ---- tokens

    async def token(self, request: web.Request, call: Call) -> web.StreamResponse:
        """The token for an assertion that the service account's key has signed."""
        form = await request.post()
        head, claims, signature = str(form["assertion"]).split(".")
        self.private_key.public_key().verify(
            _decoded(signature), f"{head}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256()
        )
        claimed = json.loads(_decoded(claims))
        assert claimed["iss"] == ACCOUNT
        assert claimed["aud"] == "https://oauth2.googleapis.com/token"
        assert claimed["iat"] <= time.time() + 60 < claimed["exp"]
        assert "cloud-platform" in claimed["scope"]
        return await self._give(request, call)

    async def exchange(self, request: web.Request, call: Call) -> web.StreamResponse:
        """The token for a workload's own."""
        form = await request.post()
        assert form["subject_token"] == SUBJECT_TOKEN
        return await self._give(request, call)

    async def metadata(self, request: web.Request, call: Call) -> web.StreamResponse:
        """Answers of the metadata server of Google's machines."""
        assert call.headers["metadata-flavor"] == "Google"
        headers = {"metadata-flavor": "Google"}
        if call.path.endswith("/token"):
            response = await self._give(request, call)
            response.headers.update(headers)
            return response
        if call.path.endswith("project-id"):
            return web.Response(text=PROJECT, headers=headers)
        return web.json_response({"email": ACCOUNT, "scopes": [], "aliases": ["default"]}, headers=headers)

    async def _give(self, request: web.Request, call: Call) -> web.Response:
        if self.token_status != 200:
            error = {"error": "invalid_grant", "error_description": "planted-secret-of-the-token-server"}
            return web.json_response(error, status=self.token_status)
        token = f"ya29.fake-{len(self.tokens)}"
        self.tokens.append(token)
        self.valid.add(token)
        given = {"access_token": token, "expires_in": self.lifetime, "token_type": "Bearer"}
        return await self.document(request, call, {**given, "issued_token_type": "urn:ietf:params:oauth:x"})

    # ---- models

    async def list_models(self, request: web.Request, call: Call) -> web.StreamResponse:
        """A page of two publisher models."""
        if refusal := self._unauthorised(call):
            return refusal
        assert set(call.query) <= {"pageSize", "pageToken"}
        at = int(call.query.get("pageToken", 0))
        names = [f"publishers/google/models/{name}" for name in self.listed]
        page: Json = {"publisherModels": [{"name": name, "versionId": "default"} for name in names[at : at + 2]]}
        if at + 2 < len(names):
            page["nextPageToken"] = str(at + 2)
        return await self.document(request, call, page)

    def _unauthorised(self, call: Call) -> web.Response | None:
        key, bearer = call.headers.get("x-goog-api-key"), call.headers.get("authorization")
        if key is not None and key != self.key:
            return self.refused(
                call, 400, "API key not valid. Please pass a valid API key.", code="API_KEY_INVALID"
            )
        if key is None and (bearer or "").removeprefix("Bearer ") not in self.valid:
            return self.refused(call, 401, "Request had invalid authentication credentials.")
        return None

    async def call_model(self, request: web.Request, call: Call) -> web.StreamResponse:
        self.gemini.reply = self.claude.reply = self.open.reply = self.reply
        if refusal := self._unauthorised(call):
            return refusal
        key = call.headers.get("x-goog-api-key")
        path = request.match_info["call"]
        place, _, rest = path.partition("publishers/") if "publishers/" in path else path.partition("endpoints/")
        if place not in (PLACE, "" if key is not None else PLACE):
            return self.refused(call, 403, f"Permission denied on resource {place}")
        if rest == "openapi/chat/completions":
            return await self.open.chat(request, call)
        found = re.fullmatch(r"(?P<publisher>\w+)/models/(?P<model>[^:/]+):(?P<method>\w+)", rest)
        if found is None:
            return self.refused(call, 404, f"not found: {rest}")
        if found["publisher"] == "anthropic":
            return await self._claude(request, call, found["model"], found["method"])
        if found["publisher"] in ("mistralai", "ai21"):
            return await self._raw(request, call, found["model"], found["method"])
        return await self._gemini(request, call, found["model"], found["method"])

    async def _claude(self, request: web.Request, call: Call, model: str, method: str) -> web.StreamResponse:
        body = dict(call.body)
        headers = {**call.headers, "x-api-key": self.claude.key}
        if "anthropic-version" in headers or body.pop("anthropic_version", None) != "vertex-2023-10-16":
            return self.refused(call, 400, "anthropic_version: Field required")
        headers["anthropic-version"] = "as in the body"
        betas = headers.get("anthropic-beta", "")
        if set(betas.split(",")) - {"", "context-management-2025-06-27", "operators-own-1"}:
            return self.refused(call, 400, f"Unexpected value(s) `{betas}` for the `anthropic-beta` header.")
        if (model, method) == ("count-tokens", "rawPredict"):
            return await self.claude.count(request, replace(call, body=body, headers=headers))
        if method != "streamRawPredict" or "model" in body or not body.get("stream"):
            return self.refused(call, 400, "model: Extra inputs are not permitted")
        return await self.claude.messages(request, replace(call, body={**body, "model": model}, headers=headers))

    async def _raw(self, request: web.Request, call: Call, model: str, method: str) -> web.StreamResponse:
        """A method that streams and one that does not, as strict about fields as Mistral."""
        body = dict(call.body)
        if method != ("streamRawPredict" if body.get("stream") else "rawPredict"):
            return self.refused(call, 400, f"{method} does not fit the request")
        extra = set(body) - MISTRALS
        if body["model"] != model.partition("@")[0] or extra:
            return self.refused(call, 422, f"Extra inputs are not permitted: {body['model']} {sorted(extra)}")
        self.open.models = [*self.open.models, body["model"]]
        return await self.open.chat(request, call)

    async def _gemini(self, request: web.Request, call: Call, model: str, method: str) -> web.StreamResponse:
        match method:
            case "streamGenerateContent":
                request.match_info["call"] = f"{model}:{method}"
                headers = {**call.headers, "x-goog-api-key": self.gemini.key}
                return await self.gemini.models(request, replace(call, headers=headers))
            case "countTokens":
                assert set(call.body) <= {"contents", "systemInstruction", "tools"}
                return await self.document(request, call, {"totalTokens": 1234})
            case "predict":
                return await self.document(request, call, _predictions(call.body))
            case "embedContent":
                return await self.document(request, call, _embedding(call.body))
            case "batchEmbedContents":
                found = [_embedding(one)["embedding"] for one in call.body["requests"]]
                return await self.document(request, call, {"embeddings": found})
        return self.refused(call, 404, f"no method {method}")


def _embedding(body: Json) -> Json:
    config = body["embedContentConfig"]
    assert config.pop("autoTruncate") is False
    assert set(config) <= {"taskType", "outputDimensionality"}
    assert set(body) == {"content", "embedContentConfig"}
    text = body["content"]["parts"][0]["text"]
    values = [float(len(text)) + at for at in range(config.get("outputDimensionality", 8))]
    return {"embedding": {"values": values}, "usageMetadata": {"promptTokenCount": len(text.split())}}


def _predictions(body: Json) -> Json:
    assert body["parameters"].pop("autoTruncate") is False
    size = body["parameters"].get("outputDimensionality", 8)
    rows: list[Any] = []
    for one in body["instances"]:
        assert set(one) <= {"content", "task_type"}
        values = [float(len(one["content"])) + at for at in range(size)]
        statistics = {"token_count": len(one["content"].split()), "truncated": False}
        rows.append({"embeddings": {"values": values, "statistics": statistics}})
    return {"predictions": rows}


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
