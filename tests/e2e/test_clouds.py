"""Official SDKs get chats and embeddings from Bedrock and Vertex AI through a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from tests.e2e.providers import providers
from tests.e2e.serving import Served, served
from tests.fakes.bedrock import ACCESS_KEY, REGION, SECRET_KEY, FakeBedrock
from tests.fakes.server import Fault
from tests.fakes.vertex import PROJECT, FakeVertex

SENTENCE = "The quick brown fox jumps over the lazy dog."
SETTINGS = """
[breakers]
consecutive_failures = 1000
window_minimum = 1000

[[endpoint]]
id = "aws"
protocol = "bedrock"
region = "{region}"
base_url = "{bedrock}"
profile = "work"
credentials_file = "{folder}/credentials"

[[endpoint]]
id = "gcp"
protocol = "vertex"
project = "{project}"
base_url = "{vertex}"
credentials_file = "{folder}/key.json"
"""
MODEL = """
[[model]]
id = "{id}"
capabilities = ["{capability}", "tools"]
source = {{ kind = "upstream", endpoint = "{endpoint}", model = "{model}" }}
price = {{ input = 1, output = 2 }}
"""
MODELS = {
    "aws/claude": ("aws", "us.anthropic.claude-sonnet-5-v1:0"),
    "aws/nova": ("aws", "us.amazon.nova-pro-v1:0"),
    "gcp/claude": ("gcp", "claude-sonnet-5"),
    "gcp/gemini": ("gcp", "gemini-3-flash"),
    "gcp/llama": ("gcp", "meta/llama-4-maas"),
}
EMBEDDERS = {"aws/titan": ("aws", "amazon.titan-embed-text-v2:0"), "gcp/embed": ("gcp", "text-embedding-005")}


@dataclass
class Clouds:
    server: Served
    bedrock: FakeBedrock
    vertex: FakeVertex

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.server.v1, api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clouds]:
    folder: Path = tmp_path_factory.mktemp("clouds")
    bedrock, vertex = FakeBedrock(), FakeVertex()
    with providers(bedrock, vertex):
        (folder / "key.json").write_text(json.dumps(vertex.service_account()))
        (folder / "credentials").write_text(
            f"[work]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
        )
        endpoints = SETTINGS.format(
            region=REGION, project=PROJECT, folder=folder, bedrock=bedrock.origin, vertex=vertex.origin
        )
        rows = [
            MODEL.format(id=name, endpoint=endpoint, model=model, capability=capability)
            for capability, models in (("chat", MODELS), ("embed", EMBEDDERS))
            for name, (endpoint, model) in models.items()
        ]
        (folder / "roundhouse.toml").write_text(endpoints + "".join(rows))
        with served(folder, environment={"ROUNDHOUSE_DATA_DIR": str(folder / "data")}) as server:
            yield Clouds(server, bedrock, vertex)


@pytest.mark.parametrize("model", MODELS)
def test_a_chat_is_answered_plainly_and_as_a_stream(clouds: Clouds, model: str) -> None:
    said: Any = {"model": model, "messages": [{"role": "user", "content": "Say it."}]}
    with clouds.client as client:
        raw = client.chat.completions.with_raw_response.create(**said)
        assert raw.headers["x-roundhouse-model"] == model
        answer = raw.parse()
        assert answer.choices[0].message.content == SENTENCE
        assert answer.usage is not None
        assert answer.usage.completion_tokens > 0
        stream = client.chat.completions.create(**said, stream=True)
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(pieces) == SENTENCE
    assert len(pieces) > 2


@pytest.mark.parametrize("model", ["aws/claude", "gcp/claude"])
def test_a_messages_client_is_passed_through_to_claude(clouds: Clouds, model: str) -> None:
    with anthropic.Anthropic(base_url=clouds.server.url, api_key="none", max_retries=0) as client:
        with client.messages.stream(
            model=model,
            max_tokens=100,
            messages=[{"role": "user", "content": "Say it."}],
            metadata={"user_id": "u-1"},
            extra_headers={"anthropic-beta": "context-management-2025-06-27"},
            extra_body={"context_management": {"edits": []}},
        ) as stream:
            assert stream.get_final_text() == SENTENCE
        counted = client.messages.count_tokens(model=model, messages=[{"role": "user", "content": "Say it."}])
    assert counted.input_tokens in (777, 4321)
    fake = clouds.bedrock if model == "aws/claude" else clouds.vertex
    sent = next(call for call in reversed(fake.calls) if "context_management" in call.body)
    assert sent.body["metadata"] == {"user_id": "u-1"}


@pytest.mark.parametrize("model", EMBEDDERS)
def test_texts_are_embedded(clouds: Clouds, model: str) -> None:
    with clouds.client as client:
        answer = client.embeddings.create(model=model, input=["one", "two words"], dimensions=4)
    assert [len(row.embedding) for row in answer.data] == [4, 4]


def test_a_throttling_in_the_middle_of_a_stream_is_an_error_on_which_the_sdk_raises(clouds: Clouds) -> None:
    clouds.bedrock.damage = "throttling"
    clouds.bedrock.script(Fault(malformed_after=4))
    with clouds.client as client, pytest.raises(openai.APIError, match="too many requests"):
        list(
            client.chat.completions.create(
                model="aws/nova", messages=[{"role": "user", "content": "Say it."}], stream=True
            )
        )


def test_no_secret_is_in_the_log(clouds: Clouds) -> None:
    log = clouds.server.log.read_text(errors="replace")
    assert log
    for secret in (SECRET_KEY, "ya29.", "PRIVATE KEY"):
        assert secret not in log
