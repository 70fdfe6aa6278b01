"""Statuses and the error objects in their bodies become typed errors, with the provider's code and no secret."""

from __future__ import annotations

from collections.abc import AsyncIterator

import orjson
import pytest

from backends.anthropic.errors import read_anthropic_error
from backends.base import Upstream
from backends.elevenlabs.errors import read_elevenlabs_error
from backends.google.errors import read_google_error
from backends.http import HttpClient
from backends.http.errors import ErrorReader, read_error, retry_after, scrub
from catalog.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    ModelUnavailable,
    PathMissing,
    PayloadTooLarge,
    RoundhouseError,
    UpstreamError,
    UpstreamForbidden,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRejectedKey,
    UpstreamTimeout,
)
from tests.backends.http.test_client import KEY, upstream_of
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault


@pytest.fixture
async def fake() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as server:
        yield server


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    async with HttpClient() as client:
        yield client


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(status=400, message="bad temperature"), InvalidRequest),
        (Fault(status=422, message="bad temperature"), InvalidRequest),
        (Fault(status=400, code="context_length_exceeded"), ContextLengthExceeded),
        (Fault(status=401), UpstreamRejectedKey),
        (Fault(status=403), UpstreamForbidden),
        (Fault(status=404, code="model_not_found"), ModelUnavailable),
        (Fault(status=404), PathMissing),
        (Fault(status=405), PathMissing),
        (Fault(status=408), UpstreamTimeout),
        (Fault(status=413), PayloadTooLarge),
        (Fault(status=429), UpstreamRateLimited),
        (Fault(status=500), UpstreamError),
        (Fault(status=502, content_type="text/html", message="<html>"), UpstreamError),
        (Fault(status=503), UpstreamOverloaded),
        (Fault(status=529), UpstreamOverloaded),
        (Fault(status=504), UpstreamTimeout),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Fault) else value.__name__,
)
async def test_a_status_becomes_its_own_error(
    fake: FakeOpenAI, http: HttpClient, fault: Fault, error: type[RoundhouseError]
) -> None:
    fake.script(fault)
    with pytest.raises(RoundhouseError) as raised:
        await http.get_json(upstream_of(fake), "/models")
    assert type(raised.value) is error


@pytest.mark.parametrize(
    ("body", "limit", "requested"),
    [
        (
            b'{"error":{"code":400,"message":"request (5031 tokens) exceeds the available context size",'
            b'"type":"exceed_context_size_error","n_prompt_tokens":5031,"n_ctx":256}}',
            256,
            5031,
        ),
        (
            b'{"error":{"message":"This model\'s maximum context length is 8192 tokens. However, your messages '
            b'resulted in 9001 tokens.","type":"invalid_request_error","code":"context_length_exceeded"}}',
            8192,
            9001,
        ),
        (
            b'{"object":"error","message":"This model\'s maximum context length is 1024 tokens. However, you '
            b'requested 1300 tokens (1200 in the messages, 100 in the completion).","type":"BadRequestError",'
            b'"param":null,"code":400}',
            1024,
            1300,
        ),
    ],
    ids=["llama.cpp", "OpenAI", "vLLM"],
)
def test_a_prompt_that_does_not_fit_is_told_with_its_numbers(body: bytes, limit: int, requested: int) -> None:
    error = read_error(400, {}, body, Upstream("e", "openai", "http://x", "m"))
    assert isinstance(error, ContextLengthExceeded)
    assert (error.limit, error.requested) == (limit, requested)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:40 GMT"}, 40.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:10 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "1e999"}, None),
        ({"retry-after": "99999999"}, 300.0),
        ({}, None),
    ],
)
def test_retry_after_is_read_in_all_its_forms(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, now=60.0) == seconds


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Rate limit reached for gpt-5 on requests per min. Limit: 3, Used: 3. Please try again in 20s.", 20.0),
        ("Please try again in 1.5s.", 1.5),
        ("Please try again in 120ms.", 0.12),
        ("Please try again in 1m30s.", 90.0),
        ("Please try again in 6m0s. Visit the site.", 300.0),
        ("Please try again in 2h1m.", 300.0),
        ("Please retry in 34.074824224s.", 34.074824224),
        ("Please retry after 7 seconds.", 7.0),
        ("Please try again in a while.", None),
        ("Please try again later.", None),
        ("Please try again in " + "9" * 400 + "s", 300.0),
    ],
)
def test_the_delay_of_a_limit_is_read_from_its_message_too(message: str, seconds: float | None) -> None:
    body = orjson.dumps({"error": {"message": message}})
    error = read_error(429, {}, body, Upstream("e", "openai", "http://x", "m"))
    assert isinstance(error, UpstreamRateLimited)
    assert error.retry_after == seconds
    assert read_error(429, {"retry-after": "3"}, body, Upstream("e", "openai", "http://x", "m")).retry_after == 3.0


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "content_filter"),
        (400, "content_policy_violation"),
        (400, "moderation_blocked"),
        (400, "unsupported_value"),
        (400, "invalid_prompt"),
    ],
)
def test_the_code_and_message_of_a_refused_request_arrive_without_secrets(status: int, code: str) -> None:
    inner = {
        "code": "ResponsibleAIPolicyViolation",
        "content_filter_result": {"hate": {"filtered": True}},
        "k": KEY,
    }
    error = {"message": f"The prompt {KEY} was filtered.", "code": code, "param": "prompt", "innererror": inner}
    read = read_error(
        status, {}, orjson.dumps({"error": error}), Upstream("e", "azure", "http://x", "m", api_key=KEY)
    )
    assert isinstance(read, InvalidRequest)
    assert read.to_body() == {
        "error": {
            "message": "The prompt [secret] was filtered.",
            "type": "invalid_request_error",
            "param": "prompt",
            "code": code,
            "innererror": {**inner, "k": "[secret]"},
        }
    }


def test_an_upstream_cannot_give_its_refusal_the_code_of_a_fault_of_keys() -> None:
    body = orjson.dumps({"error": {"message": "no", "code": "upstream_rejected_key"}})
    assert read_error(400, {}, body, Upstream("e", "openai", "http://x", "m")).code == "invalid_request"


def test_an_overload_keeps_its_status_and_message() -> None:
    body = orjson.dumps({"error": {"type": "overloaded_error", "message": "Overloaded"}})
    error = read_error(529, {}, body, Upstream("e", "anthropic", "http://x", "m"))
    assert (error.status, error.code, "Overloaded" in error.message) == (529, "upstream_overloaded", True)


async def test_the_key_is_in_no_error_even_when_the_upstream_echoes_it(fake: FakeOpenAI, http: HttpClient) -> None:
    for status in (400, 401, 403, 404, 429, 500, 503):
        fake.script(Fault(status=status, message=f"Incorrect API key provided: {KEY}. sk-pla****6789 is wrong"))
        with pytest.raises(RoundhouseError) as raised:
            await http.get_json(upstream_of(fake), "/models")
        told = f"{raised.value!r} {raised.value.message} {raised.value.__cause__!r}"
        assert KEY not in told
        assert "sk-pla" not in told


@pytest.mark.parametrize("status", [400, 402, 403, 404, 405, 408, 413, 429, 500, 501, 502, 503, 504, 529])
@pytest.mark.parametrize("body", [b'{"error": {"message": "The tenant is asleep."}}', b"The tenant is asleep."])
def test_the_text_of_an_upstreams_error_reaches_the_caller(status: int, body: bytes) -> None:
    error = read_error(status, {}, body, Upstream("e", "openai", "http://x", "m"))
    assert "The tenant is asleep." in error.message


SECRET_UPSTREAM = Upstream(
    "e", "openai", "http://x", "m", api_key="0123456789abcdef", headers={"x-extra": "Token hush-hush-9"},
    query={"api-version": "2026-01-01", "subscription-key": "q-secret-1"},
)  # fmt: skip


@pytest.mark.parametrize(
    "secret",
    [
        "0123456789abcdef", "hush-hush-9", "Token hush-hush-9", "q-secret-1", "sk-proj-Ab12Cd34",
        "AKIAIOSFODNN7EXAMPLE", "pplx-abcdef123456", "r8_abcdefgh123", "nvapi-abcdefgh", "ya29.a0AfH6SMB",
        "eyJhbGciOiJI.eyJzdWIi.c2ln", "Bearer abc.def.ghi", "Basic dXNlcjpwYXNz", "9f8e****************3c2d",
        "xai-abcdefgh",
    ],
)  # fmt: skip
@pytest.mark.parametrize("status", [400, 402, 403, 404, 408, 413, 429, 500, 501, 503, 504])
@pytest.mark.parametrize("reader", [read_error, read_anthropic_error, read_google_error, read_elevenlabs_error])
def test_no_error_of_a_provider_tells_a_key(reader: ErrorReader, status: int, secret: str) -> None:
    fields = {
        "message": f"Wrong key: {secret} given.",
        "param": secret,
        "code": "x",
        "type": secret,
        "status": secret,
    }
    for body in (
        {"error": {**fields, "innererror": {"a": secret}}},
        {"detail": fields},
        {"error": secret},
        fields,
    ):
        error = reader(status, {}, orjson.dumps(body), SECRET_UPSTREAM)
        assert secret not in orjson.dumps(error.to_body()).decode()
    told = reader(status, {}, b'{"error": {"message": "version 2026-01-01"}}', SECRET_UPSTREAM).message
    assert "[secret]" not in told


@pytest.mark.parametrize(
    "text", ["Basic functionality is missing", "eyJ is no token", "the basics of a risk-free"]
)
def test_words_are_no_keys(text: str) -> None:
    assert scrub(text, SECRET_UPSTREAM) == text


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Limit reached in organization org-Ab3dEfGh1jKl on tokens", "in organization [account] on"),
        ("Project `proj_5Xy7AbCd9` has no access to model `m`", "Project `[account]` has no access"),
        ("arn:aws:bedrock:us-east-1:123456789012:inference-profile/x", "us-east-1:[account]:inference-profile"),
        ("Publisher model projects/acme-prod-77/locations/us not found", "projects/[account]/locations"),
        ("a user-friendly team-building account_settings page of 2026", "a user-friendly team-building"),
    ],
)
def test_the_account_of_a_key_is_told_to_nobody(said: str, told: str) -> None:
    assert told in scrub(said, SECRET_UPSTREAM)


def test_a_key_at_the_end_of_a_message_that_was_cut_is_masked_too() -> None:
    for start in range(1980, 2000):
        message = "x" * start + "0123456789abcdef"
        error = read_error(400, {}, orjson.dumps({"error": {"message": message}}), SECRET_UPSTREAM)
        assert "01234567" not in error.message
