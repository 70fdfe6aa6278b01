"""Each provider whose key is in the environment, through a real server with the built-in catalogue.

``make test-live`` runs it and skips the providers without a key. A run costs a few cents for each provider. These
tests prove what no fake can: that the providers take our requests, and that our reading of their answers is right.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import socket
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from catalog.catalog import Catalog

pytestmark = pytest.mark.skipif(
    "ROUNDHOUSE_LIVE" not in os.environ, reason="asks real providers for money; run it by `make test-live`"
)

PNG = base64.b64encode(
    base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
    )
).decode()
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Live:
    """A provider, and the variable with its key.

    ``chat`` and the others name models to ask, each overridden by ``ROUNDHOUSE_LIVE_<PROVIDER>_<KIND>``.
    ``thinks`` reasons, ``searches`` searches the web. ``needs`` are further variables, and ``settings`` the part
    of ``roundhouse.toml`` that makes it known, for a provider that the built-in catalogue does not have.
    """

    name: str
    key: str
    chat: str | None = None
    thinks: str | None = None
    searches: str | None = None
    embed: str | None = None
    speak: str | None = None
    transcribe: str | None = None
    image: str | None = None
    responses: str | None = None
    needs: tuple[str, ...] = ()
    settings: str = ""

    @property
    def missing(self) -> list[str]:
        """The variables that are not set."""
        return [name for name in (self.key, *self.needs) if not os.environ.get(name)]

    def model(self, kind: str) -> str:
        chosen = os.environ.get(f"ROUNDHOUSE_LIVE_{self.name}_{kind}".upper()) or getattr(self, kind)
        if chosen is None:
            pytest.skip(f"{self.name} has no model for {kind}")
        return str(chosen)


def cloud(name: str, model: str, endpoint: str) -> str:
    """The settings of a cloud with one model, which is the row ``live-NAME``."""
    return f"""
[[endpoint]]
id = "{name}"
{endpoint}
[[model]]
id = "live-{name}"
capabilities = ["chat", "tools", "json_schema", "vision", "reasoning"]
source = {{ kind = "upstream", endpoint = "{name}", model = "{model}" }}
"""


def variable(name: str) -> str:
    return os.environ.get(name, "")


PROVIDERS = [
    Live(
        "openai", "OPENAI_API_KEY",
        chat="gpt-5.2", thinks="gpt-6-luna", searches="gpt-6-luna", responses="gpt-6-luna",
        embed="text-embedding-3-small", speak="gpt-4o-mini-tts", transcribe="gpt-transcribe",
        image="gpt-image-2.6-flare",
    ),
    Live(
        "anthropic", "ANTHROPIC_API_KEY",
        chat="claude-haiku-5-5", thinks="claude-haiku-5-5", searches="claude-haiku-5-5",
    ),
    Live(
        "google", "GEMINI_API_KEY",
        chat="gemini-3.5-flash-lite", thinks="gemini-3.5-flash-lite", searches="gemini-3.5-flash-lite",
        embed="gemini-embedding-2", image="gemini-3.1-flash-lite-image",
    ),
    Live("elevenlabs", "ELEVENLABS_API_KEY", speak="eleven_flash_v2_5", transcribe="scribe_v2"),
    Live(
        "azure", "AZURE_OPENAI_API_KEY", needs=("AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_DEPLOYMENT"),
        chat="live-azure",
        settings=cloud("azure", variable("AZURE_OPENAI_DEPLOYMENT"), 'protocol = "azure"\nkey_env = '
            f'["AZURE_OPENAI_API_KEY"]\nbase_url = "{variable("AZURE_OPENAI_ENDPOINT").rstrip("/")}/openai/v1"'),
    ),
    Live(
        "bedrock", "AWS_BEARER_TOKEN_BEDROCK", needs=("AWS_REGION",), chat="live-bedrock",
        settings=cloud("bedrock", os.environ.get("ROUNDHOUSE_LIVE_BEDROCK_ID", "us.amazon.nova-2-lite-v1:0"),
            f'protocol = "bedrock"\nkey_env = ["AWS_BEARER_TOKEN_BEDROCK"]\nregion = "{variable("AWS_REGION")}"'),
    ),
    Live(
        "vertex", "GOOGLE_APPLICATION_CREDENTIALS", needs=("GOOGLE_CLOUD_PROJECT",), chat="live-vertex",
        settings=cloud("vertex", os.environ.get("ROUNDHOUSE_LIVE_VERTEX_ID", "gemini-3.5-flash-lite"),
            f'protocol = "vertex"\nproject = "{variable("GOOGLE_CLOUD_PROJECT")}"'),
    ),
]  # fmt: skip


@pytest.fixture(params=PROVIDERS, ids=lambda provider: provider.name)
def provider(request: pytest.FixtureRequest) -> Live:
    live: Live = request.param
    if live.missing:
        pytest.skip(f"{live.name}: not set: {', '.join(live.missing)}")
    return live


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server's address; it reads the keys from the environment, as a user's does."""
    present = [provider for provider in PROVIDERS if not provider.missing]
    folder = tmp_path_factory.mktemp("live")
    (folder / "roundhouse.toml").write_text("".join(provider.settings for provider in present))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = str(Path(__file__).parents[2])
    environment = {**os.environ, "ROUNDHOUSE_DATA_DIR": str(folder / "data"), "PYTHONPATH": here}
    command = [sys.executable, "-m", "server.cli", "serve", "--port", str(port)]
    with subprocess.Popen(command, env=environment, cwd=folder) as process:
        try:
            _until_ready(f"http://127.0.0.1:{port}")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def _until_ready(origin: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{origin}/health", timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise TimeoutError("the server did not start within a minute")


@pytest.fixture
def client(server: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server}/v1", api_key="unused", max_retries=0, timeout=120) as asking:
        yield asking


def test_a_chat_is_answered_with_its_usage_and_cost(client: openai.OpenAI, provider: Live) -> None:
    answer = client.chat.completions.create(
        model=provider.model("chat"),
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say the word fox."}],
        max_completion_tokens=300,
    )
    assert "fox" in (answer.choices[0].message.content or "").lower()
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 5
    assert answer.usage.completion_tokens > 0


def test_a_stream_has_several_chunks_and_usage(client: openai.OpenAI, provider: Live) -> None:
    stream = client.chat.completions.create(
        model=provider.model("chat"),
        messages=[{"role": "user", "content": "Count from one to twenty in words."}],
        max_completion_tokens=600,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "twenty" in text.lower()
    assert chunks[-1].usage is not None


def test_tools_are_called_and_their_results_read(client: openai.OpenAI, provider: Live) -> None:
    tools: Any = [{"type": "function", "function": {"name": "weather", "parameters": WEATHER}}]
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Oslo? Use the tool."}]
    model = provider.model("chat")
    asked = client.chat.completions.create(
        model=model, messages=messages, tools=tools, tool_choice="required", max_completion_tokens=600
    )
    message = asked.choices[0].message
    assert message.tool_calls
    call = message.tool_calls[0]
    assert call.type == "function"
    assert "oslo" in json.loads(call.function.arguments)["city"].lower()
    messages += [message.model_dump(exclude_none=True)]
    messages += [{"role": "tool", "tool_call_id": call.id, "content": "17 degrees and hail"}]
    told = client.chat.completions.create(model=model, messages=messages, tools=tools, max_completion_tokens=600)
    assert "17" in (told.choices[0].message.content or "")


def test_a_strict_schema_holds(client: openai.OpenAI, provider: Live) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "place", "schema": WEATHER, "strict": True}}
    answer = client.chat.completions.create(
        model=provider.model("chat"),
        messages=[{"role": "user", "content": "The capital of Norway."}],
        response_format=form,
        max_completion_tokens=600,
    )
    assert json.loads(answer.choices[0].message.content or "").keys() == {"city"}


def test_a_picture_is_seen(client: openai.OpenAI, provider: Live) -> None:
    parts: Any = [
        {"type": "text", "text": "Is this picture larger than 100 pixels on a side? Answer yes or no."},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
    ]
    answer = client.chat.completions.create(
        model=provider.model("chat"), messages=[{"role": "user", "content": parts}], max_completion_tokens=600
    )
    assert answer.choices[0].message.content


def test_responses_are_streamed(client: openai.OpenAI, provider: Live) -> None:
    with client.responses.create(
        model=provider.model("chat"), input="Say the word fox.", max_output_tokens=600, stream=True
    ) as events:
        kinds = [event.type for event in events]
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"


def test_a_model_goes_on_after_a_tool_with_what_it_thought(client: openai.OpenAI, provider: Live) -> None:
    ask: Any = {
        "model": provider.model("thinks"),
        "tools": [{"type": "function", "function": {"name": "weather", "parameters": WEATHER}}],
        "reasoning_effort": "low",
        "max_completion_tokens": 2000,
    }
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Oslo? Use the tool."}]
    message = client.chat.completions.create(messages=messages, tool_choice="required", **ask).choices[0].message
    assert message.tool_calls
    given = message.model_dump(exclude_none=True)
    messages += [given, {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "17 degrees"}]
    assert "17" in (client.chat.completions.create(messages=messages, **ask).choices[0].message.content or "")


def test_a_stored_response_and_a_hosted_tool_pass_through(client: openai.OpenAI, provider: Live) -> None:
    model = provider.model("responses")
    first = client.responses.create(model=model, input="My word is fox.", store=True, max_output_tokens=600)
    again = client.responses.create(
        model=model, input="Which is my word?", previous_response_id=first.id, max_output_tokens=600
    )
    assert "fox" in again.output_text.lower()
    found = client.responses.create(
        model=model, input="Who wrote Peer Gynt? Search the web.", tools=[{"type": "web_search"}], max_tool_calls=1
    )
    assert any(item.type == "web_search_call" for item in found.output)


def test_messages_are_answered(server: str, provider: Live) -> None:
    with anthropic.Anthropic(base_url=server, api_key="unused", max_retries=0) as asking:
        answer = asking.messages.create(
            model=provider.model("chat"),
            max_tokens=600,
            messages=[{"role": "user", "content": "Say the word fox."}],
        )
    assert any("fox" in block.text.lower() for block in answer.content if block.type == "text")


def test_a_budget_of_thinking_and_a_tool_pass_through_messages(server: str, provider: Live) -> None:
    with anthropic.Anthropic(base_url=server, api_key="unused", max_retries=0) as asking:
        ask: Any = {
            "model": provider.model("thinks"),
            "max_tokens": 3000,
            "thinking": {"type": "adaptive"},
            "tools": [{"name": "weather", "input_schema": WEATHER}],
        }
        said: list[Any] = [{"role": "user", "content": "What is the weather in Oslo? Use the tool."}]
        called = asking.messages.create(messages=said, **ask)
        call = next(block for block in called.content if block.type == "tool_use")
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "17 degrees"}
        said += [{"role": "assistant", "content": called.content}, {"role": "user", "content": [result]}]
        told = asking.messages.create(messages=said, **ask)
    assert any("17" in block.text for block in told.content if block.type == "text")


def test_a_providers_count_is_that_of_its_answer(server: str, provider: Live) -> None:
    ask: Any = {
        "model": provider.model("thinks"),
        "system": "Be brief.",
        "messages": [{"role": "user", "content": "Say the word fox."}],
        "tools": [{"name": "weather", "input_schema": WEATHER}],
    }
    counted = httpx.post(f"{server}/v1/messages/count_tokens", json=ask, timeout=60)
    assert counted.status_code == 200, counted.text
    assert "x-roundhouse-estimate" not in counted.headers
    with anthropic.Anthropic(base_url=server, api_key="unused", max_retries=0) as asking:
        used = asking.messages.create(max_tokens=600, **ask).usage
    read = used.input_tokens + (used.cache_read_input_tokens or 0) + (used.cache_creation_input_tokens or 0)
    assert counted.json()["input_tokens"] == pytest.approx(read, rel=0.1, abs=20)


def test_a_search_has_sources(client: openai.OpenAI, provider: Live) -> None:
    answer = client.chat.completions.create(
        model=provider.model("searches"),
        messages=[{"role": "user", "content": "Search the web: who wrote Peer Gynt?"}],
        web_search_options={},
        max_completion_tokens=2000,
    )
    message = answer.choices[0].message
    assert "Ibsen" in (message.content or "")
    assert message.annotations or (message.model_extra or {}).get("server_tool_calls")


def test_a_name_that_a_provider_refuses_comes_back(client: openai.OpenAI, provider: Live) -> None:
    tools: Any = [{"type": "function", "function": {"name": "1.weather in/city", "parameters": WEATHER}}]
    answer = client.chat.completions.create(
        model=provider.model("chat"),
        messages=[{"role": "user", "content": "What is the weather in Oslo? Use the tool."}],
        tools=tools,
        max_completion_tokens=600,
    )
    calls = answer.choices[0].message.tool_calls
    assert calls
    call = calls[0]
    assert call.type == "function"
    assert call.function.name == "1.weather in/city"


def listed(provider: Live) -> set[str]:
    """The models that a provider lists for this key, by its own SDK. Skips one without rows in it."""
    key = os.environ[provider.key].partition(",")[0]
    match provider.name:
        case "openai":
            return {model.id for model in openai.OpenAI(api_key=key).models.list()}
        case "anthropic":
            return {model.id for model in anthropic.Anthropic(api_key=key).models.list(limit=1000)}
        case "google":
            from google.genai import Client

            return {str(model.name).removeprefix("models/") for model in Client(api_key=key).models.list()}
    pytest.skip(f"{provider.name} lists no models of built-in rows")


def test_every_built_in_row_is_a_model_that_its_provider_lists(provider: Live) -> None:
    rows = [row.source for row in Catalog.builtin().models() if row.source.kind == "upstream"]
    ours = {source.model for source in rows if source.endpoint == provider.name}
    names = listed(provider)
    dated = {re.sub(r"-\d{8}$|-\d{4}-\d{2}-\d{2}$", "", name) for name in names}
    assert ours - names - dated == set()


def test_a_vector_is_given(client: openai.OpenAI, provider: Live) -> None:
    answer = client.embeddings.create(model=provider.model("embed"), input=["a fox", "a bond"])
    assert len(answer.data) == 2
    assert len(answer.data[0].embedding) > 100


def test_speech_is_spoken_and_heard(client: openai.OpenAI, provider: Live) -> None:
    speech = client.audio.speech.create(
        model=provider.model("speak"), voice="alloy", input="The quick brown fox.", response_format="wav"
    ).read()
    with wave.open(io.BytesIO(speech)) as sound:
        assert sound.getframerate() >= 8000
    heard = client.audio.transcriptions.create(model=provider.model("transcribe"), file=("a.wav", speech))
    assert "fox" in heard.text.lower()


def test_a_picture_is_drawn(client: openai.OpenAI, provider: Live) -> None:
    answer = client.images.generate(
        model=provider.model("image"), prompt="A red dot.", size="1024x1024", quality="low"
    )
    assert answer.data
    assert answer.data[0].b64_json
