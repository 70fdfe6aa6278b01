"""Estimated tokens are near what real tokenizers count, and every part of a request counts.

``token_counts.json`` has texts and their counts: o200k and cl100k by ``bpe-openai`` 0.1.4, Claude's two
generations by ``ctok`` 1.3.0 (a reconstruction), SmolLM2's by llama.cpp.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backends.wire.chat import ChatRequest
from backends.wire.embeddings import EmbeddingRequest
from routing.reading.requests import read_chat, read_embedding
from routing.reading.tokens import CL100K, CLAUDE, CLAUDE_3, DEFAULT, SMOLLM, Costs, costs_of, estimate_tokens

SAMPLES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "token_counts.json").read_text())
FAMILIES: dict[str, Costs] = {
    "o200k": DEFAULT, "cl100k": CL100K, "claude-3": CLAUDE_3, "claude-5": CLAUDE, "smollm2": SMOLLM,
}  # fmt: skip
WITHIN = 0.15
TEXT = {sample["kind"]: sample["text"] for sample in SAMPLES}


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample["kind"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_estimate_is_near_what_the_familys_tokenizer_counts(sample: dict[str, Any], family: str) -> None:
    estimated, counted = estimate_tokens(sample["text"], FAMILIES[family]), sample["counts"][family]
    assert estimated == pytest.approx(counted, rel=WITHIN)


def test_the_family_is_that_of_the_models_name() -> None:
    assert costs_of("claude-opus-5") is costs_of("anthropic/claude-opus-4-7") is CLAUDE
    for old in ("claude-3-7-sonnet-20250219", "claude-haiku-4-5", "claude-sonnet-4-20250514", "claude-opus-4.6"):
        assert costs_of(old) is CLAUDE_3
    for name in ("gpt-4", "openai/gpt-4-turbo", "gpt-4-32k-0613", "gpt-3.5-turbo", "gpt-35-turbo", "GPT-4"):
        assert costs_of(name) is CL100K
    assert costs_of("text-embedding-3-small") is costs_of("davinci-002") is CL100K
    for name in ("gpt-4o", "chatgpt-4o-latest", "gpt-4.1-mini", "gpt-4.5-preview", "gpt-41", "gpt-oss-20b"):
        assert costs_of(name) is DEFAULT
    assert costs_of("smollm2-135m-instruct") is SMOLLM
    assert costs_of("auto") is costs_of("gpt-5") is DEFAULT


@pytest.mark.parametrize("text", ["", " " * 5000, "\n" * 50, "0" * 3000, "-" * 3000, "\t \t" * 900, "\ud800"])
def test_no_text_counts_less_than_nothing(text: str) -> None:
    for costs in FAMILIES.values():
        assert estimate_tokens(text, costs) >= (1 if text else 0)


def tokens(**fields: Any) -> int:
    message = {"role": "user", "content": "Hi"}
    return read_chat(ChatRequest.model_validate({"model": "auto", "messages": [message], **fields})).prompt_tokens


WORDS = TEXT["english"]
FUNCTION: dict[str, Any] = {"name": "f"}
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string", "description": WORDS}}}
CALL: dict[str, Any] = {"id": "1", "type": "function", "function": {"name": "f", "arguments": WORDS}}


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "function": {**FUNCTION, "description": WORDS}}]},
        {"tools": [{"type": "function", "function": {**FUNCTION, "parameters": SCHEMA}}]},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
        {"messages": [{"role": "system", "content": WORDS}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": WORDS}]}]},
        {"messages": [{"role": "assistant", "content": [{"type": "refusal", "refusal": WORDS}]}]},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [CALL]}]},
        {"messages": [{"role": "assistant", "content": "", "reasoning_content": WORDS}]},
        {"messages": [{"role": "tool", "tool_call_id": "1", "content": WORDS}]},
    ],
    ids=["description", "parameters", "schema", "text", "part", "refusal", "arguments", "reasoning", "result"],
)
def test_every_part_of_a_request_counts(fields: dict[str, Any]) -> None:
    assert tokens(**fields) == pytest.approx(estimate_tokens(WORDS), abs=80)


def test_texts_to_embed_count_by_the_models_vocabulary() -> None:
    body = EmbeddingRequest(model="text-embedding-3-small", input=[TEXT["chinese"]])
    assert read_embedding(body).prompt_tokens == estimate_tokens(TEXT["chinese"], CL100K)


def test_a_list_of_tools_counts_as_its_text() -> None:
    tools = json.loads(TEXT["tools"][: TEXT["tools"].rindex(', {"type": "function"')] + "]")
    without = tokens()
    assert tokens(tools=tools) - without == pytest.approx(estimate_tokens(json.dumps(tools)), rel=0.15)


def test_media_count_by_their_size() -> None:
    small, large = (
        tokens(messages=[{"role": "user", "content": [{"type": "file", "file": {"file_data": "A" * size}}]}])
        for size in (100, 1_000_000)
    )
    assert large > 10 * small
