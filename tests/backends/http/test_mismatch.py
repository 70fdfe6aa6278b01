"""Refusals that mean "this model cannot do that", or "not with this key", are told from those of the request."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import orjson
import pytest

from backends.base import Upstream
from backends.http.errors import read_error, stream_error
from backends.http.mismatch import lacks
from catalog.errors import (
    CapabilityMismatch,
    ContextLengthExceeded,
    InvalidRequest,
    ModelUnavailable,
    PathMissing,
    UnsupportedParameter,
    UpstreamForbidden,
    UpstreamQuotaExceeded,
    UpstreamRateLimited,
    UpstreamRejectedKey,
)

UPSTREAM = Upstream("e", "openai", "http://x", "m")
CANNOT: list[tuple[str, AbstractSet[str]]] = [
    # OpenAI, Azure
    ("Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
     {"max_tokens"}),
    ("Invalid content type. image_url is only supported by certain models.", {"vision"}),
    ("Function tools with reasoning_effort are not supported for gpt-5.5 in /v1/chat/completions. Please use "
     "/v1/responses instead.", {"tools"}),
    ("Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model.",
     {"json_schema"}),
    ("'tools' is not supported with this model.", {"tools"}),
    ("The chatCompletion operation does not work with the specified model, dall-e-3.", set()),
    ("This is not a chat model and thus not supported in the v1/chat/completions endpoint.", set()),
    ("Unrecognized request argument supplied: tools", {"tools"}),
    ("Unrecognized request arguments supplied: logit_bias, tools", {"logit_bias", "tools"}),
    ("Unknown parameter: 'reasoning_effort'.", {"reasoning_effort"}),
    # FastAPI, Anthropic
    ("thinking: Extra inputs are not permitted", {"thinking"}),
    # Groq
    ("`tool calling` is not supported with this model", {"tools"}),
    ("This model does not support response format `json_schema`. See supported models at x", {"json_schema"}),
    # Ollama
    ("registry.ollama.ai/library/gemma3:270m does not support tools", {"tools"}),
    ("this model is missing data required for image input", {"vision"}),
    ("\"llama3\" does not support thinking", {"reasoning"}),
    ("\"llama3\" does not support chat", set()),
    # vLLM, llama.cpp
    ('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set', {"tools"}),
    ("TinyLlama/TinyLlama-1.1B is not a multimodal model", {"vision"}),
    ("At most 0 image(s) may be provided in one prompt.", {"vision"}),
    ("The model does not support Chat Completions API", set()),
    ("The model does not support Embeddings API", set()),
    ("image input is not supported - hint: if this is unexpected, you may need to provide the mmproj", {"vision"}),
    ("audio input is not supported - hint: you may need to provide the mmproj", {"audio_input"}),
    ("tools param requires --jinja flag", {"tools"}),
    ("This server does not support embeddings. Start it with `--embeddings`", set()),
    # Google
    ("Function calling is not enabled for models/gemma-3-27b-it", {"tools"}),
    ("JSON mode is not enabled for models/gemma-3-27b-it", {"json_schema"}),
    ("Image input modality is not enabled for models/gemma-3-1b-it", {"vision"}),
    ("Audio input modality is not enabled for models/gemma-3-1b-it", {"audio_input"}),
    # Anthropic
    ("`temperature` is deprecated for this model.", {"temperature"}),
    ("'claude-2.1' does not support tools.", {"tools"}),
    ("adaptive thinking is not supported on this model", {"reasoning"}),
    # OpenRouter, Mistral, xAI, DeepSeek, Perplexity, Cohere, Bedrock, Fireworks, Together, LM Studio
    ("No endpoints found that support tool use. To learn more, visit: https://x", {"tools"}),
    ("No endpoints found that support image input", {"vision"}),
    ("Function calling is not enabled for this model", {"tools"}),
    ("Image input is not enabled for this model", {"vision"}),
    ("Argument not supported on this model: presencePenalty", {"presence_penalty"}),
    ("Model grok-4 does not support parameter presencePenalty.", {"presence_penalty"}),
    ("Image inputs are not supported by this model.", {"vision"}),
    ("deepseek-reasoner does not support Function Calling", {"tools"}),
    ("Failed to deserialize the JSON body into the target type: messages[0]: unknown variant `image_url`, "
     "expected `text` at line 1 column 99", {"vision"}),
    ("Tool calling is not supported for this model.", {"tools"}),
    ("This model doesn't support tool use.", {"tools"}),
    ("This model doesn't support tool use in streaming mode.", {"tools"}),
    ("This model doesn't support the image field.", {"vision"}),
    ("Your requested model does not support images", {"vision"}),
    ("Structured output is not supported for this model", {"json_schema"}),
    ("Vision add-on is not loaded, but images were provided for processing", {"vision"}),
]  # fmt: skip


@pytest.mark.parametrize(("message", "missing"), CANNOT, ids=[message[:50] for message, _ in CANNOT])
def test_a_models_lack_is_recognised_by_the_messages_of_known_servers(
    message: str, missing: AbstractSet[str]
) -> None:
    for shape in ({"error": {"message": message}}, {"error": message}, {"message": message, "object": "error"}):
        error = read_error(400, {}, orjson.dumps(shape), UPSTREAM)
        assert isinstance(error, InvalidRequest)
        assert error.status == 400
        assert error.lacks == frozenset(missing)
    streamed = stream_error({"error": {"message": message, "code": 400}}, UPSTREAM)
    assert isinstance(streamed, InvalidRequest)
    assert streamed.lacks == frozenset(missing)


def test_a_lack_is_recognised_by_its_code_and_status() -> None:
    body = {"error": {"message": "No.", "code": "unsupported_parameter", "param": "tools[0].type"}}
    error = read_error(400, {}, orjson.dumps(body), UPSTREAM)
    assert isinstance(error, UnsupportedParameter)
    assert (error.lacks, error.param) == (frozenset({"tools"}), "tools[0].type")
    body = {"error": {"message": "It cannot.", "code": "model_capability_mismatch"}}
    error = read_error(400, {}, orjson.dumps(body), UPSTREAM)
    assert isinstance(error, CapabilityMismatch)
    assert error.lacks == frozenset()
    error = read_error(501, {}, b"", UPSTREAM)
    assert type(error) is CapabilityMismatch
    assert error.lacks == frozenset()
    hint = b'{"error": {"message": "image input is not supported - hint: mmproj", "code": 500}}'
    error = read_error(500, {}, hint, UPSTREAM)
    assert isinstance(error, CapabilityMismatch)
    assert error.lacks == frozenset({"vision"})
    router = b'{"error": {"message": "No endpoints found that support tool use.", "code": 404}}'
    error = read_error(404, {}, router, UPSTREAM)
    assert isinstance(error, CapabilityMismatch)
    assert error.lacks == frozenset({"tools"})


REFUSED_VALUES = [
    "Unsupported value: 'temperature' does not support 0.5 with this model. Only the default (1) value is "
    "supported.",
    "'temperature' does not support 0.5 with this model.",
    "Unsupported value: 'reasoning_effort' does not support 'minimal' with this model.",
    "This model does not support images of type image/bmp",
    "The model does not support image/bmp",
    "Images of type image/bmp are not supported by this model.",
    "This model does not support images larger than 4 MB.",
    "This model does not support tool_choice 'required'.",
    "This model does not support tool choice: required",
    "This model does not support tool choice 'required'",
    "tool_choice 'required' is not supported with this model",
    "m does not support reasoning effort high",
    "This model does not support the parameter temperature=0.5",
    "'m' does not support reasoning_effort 'xhigh'",
    "Unknown parameter: 'messages[0].foo'.",
    "tools.0.function.strict: Extra inputs are not permitted",
]


@pytest.mark.parametrize("message", REFUSED_VALUES)
def test_a_refused_value_lets_another_model_answer_and_shows_no_lack(message: str) -> None:
    for code in (None, "invalid_request_error", "unsupported_value"):
        body = {"error": {"message": message, "param": "temperature", "code": code}}
        error = read_error(400, {}, orjson.dumps(body), UPSTREAM)
        assert isinstance(error, UnsupportedParameter)
        assert error.lacks is None
        assert error.message == message


@pytest.mark.parametrize(
    ("param", "message"),
    [
        ("dimensions", "'m' gives 384 dimensions, which cannot be cut to 7."),
        ("language", "The voice 'alloy' does not speak 'xx'; here one can speak en."),
        ("voice", "The voices of this model cannot be blended."),
        ("output_format", "Models of this machine make no svg pictures: ask for png, jpeg or webp."),
        ("size", "'m' draws at 512x512 alone."),
    ],
)
@pytest.mark.parametrize("code", ["unsupported_parameter", "unsupported_value"])
def test_one_value_that_cannot_be_had_is_no_lack_of_the_parameter(param: str, message: str, code: str) -> None:
    body = {"error": {"message": message, "param": param, "code": code}}
    error = read_error(400, {}, orjson.dumps(body), UPSTREAM)
    assert isinstance(error, UnsupportedParameter), "so that another model is asked"
    assert (error.lacks, error.param, error.code) == (None, param, code)


def test_a_mistake_in_fastapis_form_names_the_field_and_the_text() -> None:
    extra = {"type": "extra_forbidden", "loc": ["body", "tools"], "msg": "Extra inputs are not permitted"}
    error = read_error(422, {}, orjson.dumps({"detail": [extra]}), UPSTREAM)
    assert isinstance(error, CapabilityMismatch)
    assert (error.lacks, error.param) == (frozenset({"tools"}), "tools")
    assert error.message == "tools: Extra inputs are not permitted"
    wrong = {"type": "missing", "loc": ["body", "messages", 0, "content"], "msg": "Field required"}
    error = read_error(422, {}, orjson.dumps({"detail": [wrong, extra]}), UPSTREAM)
    assert type(error) is InvalidRequest
    assert (error.lacks, error.param) == (None, "messages.0.content")
    assert error.message == "messages.0.content: Field required; tools: Extra inputs are not permitted"


def test_a_path_that_is_missing_is_a_lack_only_if_the_server_says_so() -> None:
    for status, body in (
        (404, b""), (405, b""), (404, b"404 page not found"), (404, b'{"detail": "Not Found"}'),
        (404, b'{"message": "no Route matched with those values"}'), (404, b'{"error": "Not found"}'),
    ):  # fmt: skip
        assert isinstance(read_error(status, {}, body, UPSTREAM), PathMissing)
    for message in ("Invalid URL (POST /v1/chat/completions)", "Unknown request URL: POST /v1/x.", "m can't chat"):
        body = orjson.dumps({"error": {"message": message}})
        error = read_error(404, {}, body, UPSTREAM)
        expected = PathMissing if message == "m can't chat" else CapabilityMismatch
        assert type(error) is expected
        assert isinstance(error, CapabilityMismatch)
        assert error.lacks == frozenset()
    gone = orjson.dumps({"error": 'model "mistral-7" not found, try pulling it first'})
    assert type(read_error(404, {}, gone, UPSTREAM)) is ModelUnavailable


@pytest.mark.parametrize(
    ("status", "message"),
    [(402, "Insufficient credits. Add more."), (402, "Pay."), (403, "Your quota is exhausted.")],
)
def test_a_refusal_for_lack_of_money_keeps_the_providers_text(status: int, message: str) -> None:
    error = read_error(status, {}, orjson.dumps({"error": {"message": message}}), UPSTREAM)
    assert isinstance(error, UpstreamQuotaExceeded)
    assert (error.status, error.code, error.scope) == (429, "insufficient_quota", "key")
    assert message in error.message


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (429, "insufficient_quota"),
        (400, "billing_hard_limit_reached"),
        (403, "quota_exceeded"),
        (429, "billing_error"),
    ],
)
def test_a_quota_that_is_used_up_is_told_by_its_code_whatever_the_status(status: int, code: str) -> None:
    body = orjson.dumps({"error": {"message": "Check your plan.", "code": code}})
    assert isinstance(read_error(status, {}, body, UPSTREAM), UpstreamQuotaExceeded)


@pytest.mark.parametrize(
    ("message", "code", "scope"),
    [
        ("Project `x` does not have access to model `gpt-4o`.", "model_not_found", "model"),
        ("You are not allowed to sample from this model.", None, "model"),
        ("You may not read the file 'the best model.pdf'.", None, None),
        ("You may not read files/quota-exceeded-report.", None, None),
        ("The file 'exceeded quota' belongs to another project.", None, None),
        ("Country, region, or territory not supported.", "unsupported_country_region_territory", None),
        ("", None, None),
    ],
)
def test_a_403_is_of_the_model_or_of_the_request_and_a_caller_cannot_choose(
    message: str, code: str | None, scope: str | None
) -> None:
    error = read_error(403, {}, orjson.dumps({"error": {"message": message, "code": code}}), UPSTREAM)
    assert isinstance(error, UpstreamForbidden)
    assert (error.status, error.scope) == (403, scope)
    assert message in error.message


def test_a_403_with_a_code_of_keys_is_of_the_key() -> None:
    body = orjson.dumps({"error": {"message": "No.", "code": "invalid_api_key"}})
    assert isinstance(read_error(403, {}, body, UPSTREAM), UpstreamRejectedKey)


def test_a_request_too_dear_for_the_rest_of_an_account_is_not_the_keys_fault() -> None:
    message = "This request requires more credits, or fewer max_tokens. You can only afford 100."
    error = read_error(402, {}, orjson.dumps({"error": {"message": message, "code": 402}}), UPSTREAM)
    assert isinstance(error, UnsupportedParameter)
    assert (error.lacks, error.param, error.message) == (None, "max_tokens", message)


REQUESTS_FAULT = [
    "'temperature' must be between 0 and 2.",
    "Invalid 'tools[0].function.name': string does not match pattern.",
    "Invalid schema for function 'f': in context=(), 'type' is not supported.",
    "Invalid value: 'image'. Supported values are: 'text', 'image_url' and 'input_audio'.",
    "You uploaded an unsupported image. Please make sure your image is valid.",
    "Unsupported image format: image/bmp is not supported.",
    "Invalid image data.",
    "messages: at least one message is required",
    "tools.0.custom.input_schema: JSON schema is invalid.",
    "Additional properties are not allowed ('x' was unexpected)",
    "An assistant message with 'tool_calls' must be followed by tool messages.",
    "The string 'this model does not support tools' is not a valid value of tool_choice.",
    "Invalid value: 'the model does not support images'. Use one of 'low', 'high'.",
    "Unknown tool 'model' does not support tools",
    "audio file is corrupted",
    "",
]


@pytest.mark.parametrize("message", REQUESTS_FAULT)
def test_any_other_refusal_stays_the_callers_own(message: str) -> None:
    assert lacks("", None, message) is None
    error = read_error(400, {}, orjson.dumps({"error": {"message": message, "param": "messages"}}), UPSTREAM)
    assert type(error) is InvalidRequest
    assert error.lacks is None


@pytest.mark.parametrize(
    ("message", "too_large"),
    [
        (
            "Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 30,000, Requested "
            "41250. The input or output tokens must be reduced in order to run successfully.",
            True,
        ),
        (
            "Rate limit reached for gpt-4o on tokens per min (TPM): Limit 30000, Used 29500, Requested 900. "
            "Please try again in 800ms.",
            False,
        ),
        ("Request too large for gpt-4o.", False),
    ],
)
def test_a_request_beyond_a_whole_limit_is_at_fault_by_itself(message: str, *, too_large: bool) -> None:
    body = orjson.dumps({"error": {"message": message, "code": "rate_limit_exceeded", "type": "tokens"}})
    error = read_error(429, {}, body, Upstream("e", "openai", "http://x", "gpt-4o"))
    assert isinstance(error, ContextLengthExceeded if too_large else UpstreamRateLimited)
    assert message in error.message
    if isinstance(error, ContextLengthExceeded):
        assert (error.limit, error.requested, error.status) == (30_000, 41_250, 400)


@pytest.mark.parametrize(
    ("status", "message", "code", "scope"),
    [
        (429, "Rate limit reached for gpt-4o in organization org-x on tokens per min (TPM).", None, "model"),
        (429, "Rate limit reached for model `llama-3.3-70b` in organization `org_x`.", None, "model"),
        (
            429,
            "This would exceed your organization's rate limit (org: x, model: claude-sonnet-4-5).",
            None,
            "model",
        ),
        (429, "You exceeded your current quota, please check your plan.", "insufficient_quota", "key"),
        (429, "Your credit balance is too low.", None, "key"),
        (429, "Too many requests.", None, None),
        (401, "Incorrect API key provided.", "invalid_api_key", None),
        (401, "This key has no access to model `gpt-4o`.", "invalid_api_key", "model"),
    ],
)
def test_a_limit_or_rejection_says_whether_it_is_of_the_model_or_of_the_key(
    status: int, message: str, code: str | None, scope: str | None
) -> None:
    body = orjson.dumps({"error": {"message": message, "code": code}})
    error = read_error(status, {}, body, Upstream("e", "openai", "http://x", "gpt-4o"))
    assert isinstance(error, UpstreamRateLimited | UpstreamRejectedKey)
    assert error.scope == scope


@pytest.mark.parametrize(
    ("message", "param", "code"),
    [
        ("Unknown parameter: 'foo'.", "foo", "unsupported_parameter"),
        ("Unrecognized request argument supplied: foo", "foo", "unsupported_parameter"),
        ("foo: Extra inputs are not permitted", "foo", "unsupported_parameter"),
        ("Invalid value: 'seconds' must be one of '4', '8', '12'.", "seconds", "invalid_request"),
        ("'seconds' must be one of '4', '8', '12'.", "seconds", "invalid_request"),
        ("The prompt says 'x' must be quoted.", None, "invalid_request"),
        ("tools param requires --jinja flag", "model", "model_capability_mismatch"),
    ],
)
def test_a_refusal_names_the_field_that_its_message_names(message: str, param: str | None, code: str) -> None:
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None}}
    error = read_error(400, {}, orjson.dumps(body), UPSTREAM)
    assert isinstance(error, InvalidRequest)
    assert (error.param, error.code) == (param, code)
