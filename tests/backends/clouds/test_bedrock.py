"""Bedrock: signatures and credentials, Claude's own language and Converse, its errors."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.credentials import Credentials
from yarl import URL

from backends.base import Count, Discover, Embed, Upstream
from backends.clouds.bedrock import account
from backends.clouds.bedrock.backend import BedrockBackend
from backends.clouds.bedrock.discovery import control_plane
from backends.http import HttpClient
from backends.native import Native
from backends.streams.assemble import ChatAssembler
from backends.streams.native import NativeChunk
from backends.wire.chat import ChatRequest, Original, TranslatedChat
from backends.wire.embeddings import EmbeddingRequest
from backends.wire.messages import MessagesRequest
from catalog.clouds import CloudAccount
from catalog.errors import (
    AnswerInvalid,
    CapabilityMismatch,
    EngineMissing,
    InvalidRequest,
    ModelUnavailable,
    RoundhouseError,
    StreamBroken,
    UnsupportedParameter,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamRateLimited,
    UpstreamRejectedKey,
)
from catalog.model import Endpoint
from catalog.types import Json
from tests.fakes.bedrock import ACCESS_KEY, REGION, SECRET_KEY, SIGNATURE, Damage, FakeBedrock
from tests.fakes.server import Fault

CLAUDE, NOVA = "us.anthropic.claude-sonnet-5-v1:0", "us.amazon.nova-pro-v1:0"
PROFILE = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123"
BETA = "context-management-2025-06-27"
SENTENCE = "The quick brown fox jumps over the lazy dog."
SCHEMA: Json = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 1}},
    "required": ["a"],
    "additionalProperties": False,
}
TOOL: Json = {"type": "function", "function": {"name": "f", "parameters": SCHEMA, "strict": True}}


class Bedrock:
    """The fake, the backend, and an account whose credentials are in a file."""

    def __init__(self, fake: FakeBedrock, http: HttpClient, file: Path) -> None:
        self.fake = fake
        self.backend = BedrockBackend(http)
        self.file = file
        self.write(ACCESS_KEY, SECRET_KEY)

    def write(self, access_key: str, secret: str, profile: str = "default") -> None:
        self.file.write_text(f"[{profile}]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret}\n")

    def upstream(self, model: str = NOVA, **fields: Any) -> Upstream:
        cloud = CloudAccount(region=REGION, credentials_file=str(self.file))
        return replace(Upstream("b", "bedrock", self.fake.origin, model, cloud=cloud), **fields)

    async def message(self, model: str = NOVA, *, upstream: Upstream | None = None, **fields: Any) -> Json:
        assembler = ChatAssembler()
        async for chunk in self.backend.chat(upstream or self.upstream(model), asked(**fields)):
            assembler.add(chunk)
        answer: Json = assembler.result()
        return answer

    async def says(self, model: str = NOVA, *, upstream: Upstream | None = None, **fields: Any) -> str:
        answer = await self.message(model, upstream=upstream, **fields)
        return str(answer["choices"][0]["message"]["content"])


def asked(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields})


def embedding(**fields: Any) -> EmbeddingRequest:
    return EmbeddingRequest.model_validate({"model": "m", "input": ["one", "two words"], **fields})


@pytest.fixture
async def bedrock(tmp_path: Path) -> AsyncIterator[Bedrock]:
    async with FakeBedrock() as fake, HttpClient() as http:
        yield Bedrock(fake, http, tmp_path / "credentials")


# ---- signatures and credentials


@pytest.mark.parametrize("model", [CLAUDE, NOVA, PROFILE, "anthropic.claude-opus-4-6-v1:0"])
async def test_a_signed_chat_is_answered(bedrock: Bedrock, model: str) -> None:
    assert await bedrock.says(model) == SENTENCE
    assert bedrock.fake.calls[0].headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIA")


async def test_an_arn_is_one_part_of_the_path(bedrock: Bedrock) -> None:
    await bedrock.says(PROFILE)
    assert bedrock.fake.calls[0].path == f"/model/{PROFILE}/converse-stream"


async def test_a_query_and_headers_of_the_endpoint_are_part_of_the_signature(bedrock: Bedrock) -> None:
    headers = {"X-Amzn-Bedrock-Trace": "ENABLED", "x-other": "y"}
    assert (
        await bedrock.says(upstream=bedrock.upstream(query={"b": "2 3", "a": "~1"}, headers=headers)) == SENTENCE
    )
    assert "x-amzn-bedrock-trace" in bedrock.fake.calls[0].headers["authorization"]


async def test_a_key_is_a_bearer_token_and_needs_no_package(
    bedrock: Bedrock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "botocore.exceptions", None)
    with_key = bedrock.upstream(api_key="bedrock-api-key-fake")
    assert await bedrock.says(upstream=with_key) == SENTENCE
    with pytest.raises(EngineMissing, match=r"\[bedrock\]") as caught:
        await bedrock.says()
    assert caught.value.status == 404


async def test_a_large_body_is_signed_off_the_event_loop(
    bedrock: Bedrock, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    plain = account._signature

    def signature(*request: Any) -> dict[str, str]:
        threads.append(threading.get_ident())
        return plain(*request)

    monkeypatch.setattr(account, "_signature", signature)
    bedrock.fake.context = 1 << 30
    assert await bedrock.says(messages=[{"role": "user", "content": "x" * account.LARGE}]) == SENTENCE
    assert await bedrock.says() == SENTENCE
    assert threads[0] != threading.get_ident() == threads[1]


async def test_a_profile_of_the_credentials_file_is_used(bedrock: Bedrock) -> None:
    bedrock.write(ACCESS_KEY, SECRET_KEY, profile="work")
    cloud = CloudAccount(region=REGION, profile="work", credentials_file=str(bedrock.file))
    assert await bedrock.says(upstream=bedrock.upstream(cloud=cloud)) == SENTENCE
    with pytest.raises(ModelUnavailable, match="its credentials_file"):
        await bedrock.says(upstream=bedrock.upstream(cloud=cloud._replace(profile="other")))


async def test_credentials_are_found_in_the_environment_and_those_of_a_session_bring_their_token(
    bedrock: Bedrock, monkeypatch: pytest.MonkeyPatch
) -> None:
    bedrock.fake.credentials = {"AKIASESSION": Credentials("AKIASESSION", "secret", "session-token")}
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "AKIASESSION"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_SESSION_TOKEN", "session-token"),
    ):
        monkeypatch.setenv(name, value)
    assert await bedrock.says(upstream=bedrock.upstream(cloud=CloudAccount(region=REGION))) == SENTENCE
    assert bedrock.fake.calls[0].headers["x-amz-security-token"] == "session-token"


class Role:
    """A server of a container's role: each answer has other credentials, which end after ``seconds``."""

    def __init__(self, fake: FakeBedrock, folder: Path) -> None:
        self.fake = fake
        self.file = folder / "config"
        self.script = folder / "role.py"
        self.count = folder / "count"

    def give(self, seconds: int) -> None:
        end = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
        self.script.write_text(
            f"import json, pathlib; p = pathlib.Path({str(self.count)!r})\n"
            "n = int(p.read_text()) if p.exists() else 0; p.write_text(str(n + 1))\n"
            f"print(json.dumps({{'Version': 1, 'AccessKeyId': f'AKIAROLE{{n}}', 'SecretAccessKey': 's', "
            f"'SessionToken': 't', 'Expiration': {end!r}}}))\n"
        )
        self.file.write_text(f"[profile role]\ncredential_process = {sys.executable} {self.script}\n")
        self.fake.credentials = {f"AKIAROLE{n}": Credentials(f"AKIAROLE{n}", "s", "t") for n in range(9)}

    @property
    def runs(self) -> int:
        return int(self.count.read_text())


@pytest.fixture
def role(bedrock: Bedrock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Role:
    made = Role(bedrock.fake, tmp_path)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(made.file))
    return made


async def test_many_requests_share_one_renewal_of_a_role(bedrock: Bedrock, role: Role) -> None:
    role.give(3600)
    upstream = bedrock.upstream(cloud=CloudAccount(region=REGION, profile="role"))
    assert await asyncio.gather(*(bedrock.says(upstream=upstream) for _ in range(10))) == [SENTENCE] * 10
    assert role.runs == 1


async def test_credentials_near_their_end_are_renewed_beside_the_calls(bedrock: Bedrock, role: Role) -> None:
    role.give(3600)
    upstream = bedrock.upstream(cloud=CloudAccount(region=REGION, profile="role"))
    await bedrock.says(upstream=upstream)
    held_credentials = bedrock.backend._accounts.of(upstream)
    source = (await held_credentials.get()).source
    source._expiry_time = datetime.now(UTC) + timedelta(
        seconds=700
    )  # botocore renews within 15 minutes of the end
    await bedrock.says(upstream=upstream)
    renewal = held_credentials._renewal
    if renewal is not None:
        await asyncio.wait([renewal])
        await asyncio.sleep(0)
    await bedrock.says(upstream=upstream)
    used = [call.headers["authorization"].partition("/")[0].rpartition("=")[2] for call in bedrock.fake.calls]
    assert used == ["AKIAROLE0", "AKIAROLE0", "AKIAROLE1"]


@pytest.mark.parametrize("model", [CLAUDE, NOVA])
async def test_refused_credentials_are_read_again_for_the_next_call(bedrock: Bedrock, model: str) -> None:
    bedrock.write("AKIAOLD", "old")
    with pytest.raises(UpstreamRejectedKey) as caught:
        await bedrock.says(model)
    assert "AKIAOLD" not in str(caught.value)
    bedrock.write(ACCESS_KEY, SECRET_KEY)
    assert await bedrock.says(model) == SENTENCE


async def test_a_wrong_secret_is_refused_and_told_nowhere(bedrock: Bedrock) -> None:
    bedrock.write(ACCESS_KEY, "another-secret-0123456789")
    with pytest.raises(UpstreamRejectedKey) as caught:
        await bedrock.says()
    assert "another-secret" not in repr(caught.value)


async def test_without_credentials_the_error_says_what_to_set(
    bedrock: Bedrock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(ModelUnavailable, match=r"'profile'.*'credentials_file'.*'key_env'"):
        await bedrock.says(upstream=bedrock.upstream(cloud=CloudAccount(region=REGION)))


@pytest.mark.parametrize(
    ("content", "profile", "says"),
    [
        ("[default]\n", None, "its credentials_file has none for this profile"),
        ("[default]\naws_access_key_id = AKIAHALF\n", None, "without its secret"),
        ("[other]\naws_access_key_id = AKIAX\naws_secret_access_key = y\n", "work", "its credentials_file lacks"),
        ("no file of AWS\n", None, "its credentials_file is not in AWS's format"),
    ],
)
async def test_what_a_file_of_credentials_lacks_is_said_without_its_name(
    bedrock: Bedrock, content: str, profile: str | None, says: str
) -> None:
    bedrock.file.write_text(content)
    cloud = CloudAccount(region=REGION, profile=profile, credentials_file=str(bedrock.file))
    with pytest.raises(ModelUnavailable, match=says) as caught:
        await bedrock.says(upstream=bedrock.upstream(cloud=cloud))
    assert str(bedrock.file) not in caught.value.message
    assert "AKIA" not in caught.value.message


# ---- Claude


async def test_claude_has_its_version_and_betas_in_the_body_and_its_tier_in_a_header(bedrock: Bedrock) -> None:
    upstream = bedrock.upstream(CLAUDE, headers={"anthropic-beta": f"operators-own-1, {BETA}"})
    assert await bedrock.says(upstream=upstream, service_tier="flex") == SENTENCE
    call = bedrock.fake.calls[0]
    assert call.path == f"/model/{CLAUDE}/invoke-with-response-stream"
    assert call.body["anthropic_version"] == "bedrock-2023-05-31"
    assert call.body["anthropic_beta"] == ["operators-own-1", BETA]
    assert call.headers["x-amzn-bedrock-service-tier"] == "flex"
    assert not {"model", "stream", "service_tier"} & set(call.body)


async def test_a_messages_request_to_claude_passes_as_it_is(bedrock: Bedrock) -> None:
    body = {
        "model": "m",
        "max_tokens": 50,
        "messages": [{"role": "user", "content": "Hi"}],
        "context_management": {"edits": []},
    }
    original = Original(
        "messages", MessagesRequest.model_validate(body), {"anthropic-beta": f"oauth-2025-04-20,{BETA}"}
    )
    chat = {"model": "m", "messages": body["messages"]}
    request = TranslatedChat.of(chat, (), frozenset(), original)
    assert isinstance(bedrock.backend, Native)
    assert bedrock.backend.speaks("messages", bedrock.upstream(CLAUDE))
    assert not bedrock.backend.speaks("messages", bedrock.upstream(NOVA))
    chunks = [chunk async for chunk in bedrock.backend.chat(bedrock.upstream(CLAUDE), request)]
    kinds = [chunk.event["type"] for chunk in chunks if isinstance(chunk, NativeChunk)]
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert bedrock.fake.calls[0].body["context_management"] == {"edits": []}
    assert bedrock.fake.calls[0].body["anthropic_beta"] == [BETA], "Bedrock refuses any that it does not have"
    assert bedrock.backend.dropped(request, bedrock.upstream(CLAUDE)) == ("anthropic-beta.oauth-2025-04-20",)


@pytest.mark.parametrize("model", [CLAUDE, NOVA])
async def test_tokens_are_counted_for_the_foundation_model(bedrock: Bedrock, model: str) -> None:
    assert isinstance(bedrock.backend, Count)
    counted = await bedrock.backend.count(bedrock.upstream(model), asked(max_tokens=5, tools=[TOOL]))
    assert counted == {"input_tokens": 777}
    assert bedrock.fake.calls[0].path == f"/model/{model.removeprefix('us.')}/count-tokens"


# ---- Converse: answers


async def test_reasoning_is_given_back_with_its_signature(bedrock: Bedrock) -> None:
    bedrock.fake.thinks = True
    answer = await bedrock.message()
    message = answer["choices"][0]["message"]
    assert message["content"] == SENTENCE
    assert message["reasoning_content"].startswith("The user wants")
    assert message["thinking_blocks"][0]["signature"] == SIGNATURE
    usage = answer["usage"]
    assert usage["prompt_tokens"] == 17
    assert usage["prompt_tokens_details"] == {"cached_tokens": 4, "cache_write_tokens": 3}
    assert usage["cache_creation"] == {"ephemeral_1h_input_tokens": 3}


@pytest.mark.parametrize("model", [CLAUDE, NOVA])
async def test_the_tier_that_served_an_answer_is_in_its_chunks(bedrock: Bedrock, model: str) -> None:
    chunks = [chunk async for chunk in bedrock.backend.chat(bedrock.upstream(model), asked(service_tier="flex"))]
    assert chunks[-1]["service_tier"] == "flex"


@pytest.mark.parametrize("model", [CLAUDE, NOVA])
@pytest.mark.parametrize(
    ("damage", "error"),
    [
        ("checksum", UpstreamProtocolError),
        ("header checksum", UpstreamProtocolError),
        ("throttling", UpstreamRateLimited),
        ("model", UpstreamError),
        ("error", UpstreamError),
    ],
)
async def test_a_fault_in_the_middle_is_its_own_error_after_what_came(
    bedrock: Bedrock, model: str, damage: Damage, error: type[RoundhouseError]
) -> None:
    bedrock.fake.damage = damage
    bedrock.fake.script(Fault(malformed_after=5))
    got: list[Json] = []
    with pytest.raises(error):
        async for chunk in bedrock.backend.chat(bedrock.upstream(model), asked()):
            got.append(chunk)  # noqa: PERF401  what came before the error counts
    assert got
    assert not any(choice["finish_reason"] for chunk in got for choice in chunk["choices"])


@pytest.mark.parametrize("model", [CLAUDE, NOVA])
async def test_a_frame_that_is_cut_short_breaks_the_stream(bedrock: Bedrock, model: str) -> None:
    bedrock.fake.damage = "cut"
    with pytest.raises(StreamBroken, match="within a frame"):
        await bedrock.says(model)


async def test_a_model_that_fails_to_call_a_tool_is_an_invalid_answer(bedrock: Bedrock) -> None:
    bedrock.fake._said = lambda body: (["x"], [], "malformed_tool_use")  # type: ignore[method-assign]
    with pytest.raises(AnswerInvalid, match="malformed_tool_use"):
        await bedrock.says()


async def test_a_json_object_is_asked_for_in_words_and_checked(bedrock: Bedrock) -> None:
    wanted = {"type": "json_object"}
    with pytest.raises(AnswerInvalid, match="JSON object"):
        await bedrock.says(response_format=wanted)
    bedrock.fake.reply = '{"a": 1}'
    assert await bedrock.says(response_format=wanted) == '{"a": 1}'
    assert "JSON object" in bedrock.fake.calls[-1].body["system"][0]["text"]


async def test_a_tool_of_a_foreign_name_is_called_by_it(bedrock: Bedrock) -> None:
    tool = {"type": "function", "function": {"name": "files.read/all", "parameters": SCHEMA}}
    message = (await bedrock.message(tools=[tool], tool_choice="required"))["choices"][0]["message"]
    assert message["tool_calls"][0]["function"]["name"] == "files.read/all"
    assert "files.read/all" not in json.dumps(bedrock.fake.calls[0].body)


async def test_a_search_of_the_web_is_refused(bedrock: Bedrock) -> None:
    for model in (CLAUDE, NOVA):
        with pytest.raises(InvalidRequest):
            await bedrock.says(model, web_search_options={})
    assert bedrock.fake.calls == []


# ---- lists


@pytest.mark.parametrize("key", [None, "bedrock-api-key-fake"])
async def test_models_on_demand_and_profiles_are_listed_with_what_they_can_do(
    bedrock: Bedrock, key: str | None
) -> None:
    assert isinstance(bedrock.backend, Discover)
    server = Endpoint(id="aws", protocol="bedrock", region=REGION)
    rows = await bedrock.backend.list_models(bedrock.upstream("", api_key=key), server)
    found = {row.id.removeprefix("aws/"): {str(one) for one in row.capabilities} for row in rows}
    claude = {"chat", "tools", "parallel_tools", "json_schema", "vision", "documents"}
    assert found == {
        "amazon.nova-pro-v1:0": {"chat", "tools", "vision"},
        "ai21.jamba-v1:0": {"chat"},
        "amazon.titan-embed-text-v2:0": {"embed"},
        "us.anthropic.claude-sonnet-5-v1:0": claude,
        "global.anthropic.claude-sonnet-5-v1:0": claude,
    }


def test_lists_have_a_host_of_their_own() -> None:
    for base, lists in (
        ("https://bedrock-runtime.us-east-1.amazonaws.com", "https://bedrock.us-east-1.amazonaws.com"),
        ("http://127.0.0.1:1", "http://127.0.0.1:1"),
    ):
        assert control_plane(Upstream("b", "bedrock", base, "")).base_url == lists


# ---- embeddings


@pytest.mark.parametrize(
    ("model", "calls"),
    [
        ("amazon.titan-embed-text-v2:0", 2),
        ("amazon.nova-2-multimodal-embeddings-v1:0", 2),
        ("us.cohere.embed-v4:0", 1),
    ],
)
async def test_embeddings_are_asked_for_in_the_models_own_way(bedrock: Bedrock, model: str, calls: int) -> None:
    assert isinstance(bedrock.backend, Embed)
    answer = await bedrock.backend.embed(bedrock.upstream(model), embedding(dimensions=4, input_type="query"))
    assert [len(row["embedding"]) for row in answer["data"]] == [4, 4]
    assert sum(value**2 for value in answer["data"][1]["embedding"]) == pytest.approx(1)
    assert answer["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert len(bedrock.fake.calls) == calls


async def test_many_texts_are_embedded_in_batches(bedrock: Bedrock) -> None:
    request = embedding(input=["t"] * 100)
    upstream = bedrock.upstream("cohere.embed-multilingual-v3")
    assert len((await bedrock.backend.embed(upstream, request))["data"]) == 100
    assert [len(call.body["texts"]) for call in bedrock.fake.calls] == [96, 4]


async def test_what_cannot_be_embedded_is_refused(bedrock: Bedrock) -> None:
    with pytest.raises(CapabilityMismatch):
        await bedrock.backend.embed(bedrock.upstream(NOVA), embedding())
    with pytest.raises(CapabilityMismatch):
        await bedrock.backend.embed(bedrock.upstream("cohere.embed-v4:0"), embedding(input=[[1, 2]]))
    for model in ("amazon.titan-embed-text-v1", "cohere.embed-english-v3"):
        with pytest.raises(UnsupportedParameter, match="dimensions"):
            await bedrock.backend.embed(bedrock.upstream(model), embedding(dimensions=4))


def test_a_signature_names_only_what_it_must() -> None:
    headers = {"content-type": "application/json", "user-agent": "roundhouse", "x-amzn-bedrock-trace": "ENABLED"}
    made = account._signature(
        Credentials("A", "s"), "eu-west-1", "POST", URL("https://h/model/a%3Ab%2Fc/invoke"), headers, b"{}"
    )
    assert "SignedHeaders=content-type;host;x-amz-date;x-amzn-bedrock-trace," in made["authorization"]
    assert set(made) == {"authorization", "x-amz-date"}
