"""Engines with an environment of their own, tested through a complete gateway by ``make engines``."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path

import av
import httpx
import openai
import pytest

from catalog.model import Capability, Model, PathSource
from tests.conformance.optional import models, pythons
from tests.e2e.providers import toml_value
from tests.e2e.serving import Served, eventually, served

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(not models(), reason="ROUNDHOUSE_ENGINES names no environments; run make engines"),
]
TALKERS = [row for row in models().values() if Capability.CHAT in row.capabilities]
PAINTERS = [row for row in models().values() if Capability.IMAGE in row.capabilities]
QUESTION = "What is the capital of France? Answer in one sentence."


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("engines")
    lines = ["[workers]", "keep_alive = 600", "slots = 4", "context = 1024", "[workers.python]"]
    lines += [f"{engine} = {json.dumps(str(python))}" for engine, python in pythons().items()]
    lines += _rows()
    (folder / "roundhouse.toml").write_text("\n".join(lines))
    with served(folder) as running:
        yield running


def _rows() -> list[str]:
    lines: list[str] = []
    for row in models().values():
        assert isinstance(row.source, PathSource)
        lines += ["[[model]]", f"id = {json.dumps(row.id)}", f"engine = {json.dumps(row.engine)}"]
        lines.append(f"capabilities = {json.dumps(sorted(row.capabilities))}")
        lines.append(f'source = {{ kind = "path", path = {json.dumps(str(Path(row.source.path).absolute()))} }}')
        lines += [f"options.{name} = {toml_value(value)}" for name, value in row.options.items()]
    return lines


@pytest.fixture
def client(server: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.v1, api_key="none", timeout=300, max_retries=0) as made:
        yield made


@pytest.fixture(params=TALKERS, ids=lambda row: row.id)
def talker(request: pytest.FixtureRequest) -> Model:
    row: Model = request.param
    return row


@pytest.fixture(params=PAINTERS, ids=lambda row: row.id)
def painter(request: pytest.FixtureRequest) -> Model:
    row: Model = request.param
    return row


def test_a_chat_streams_with_its_usage_and_the_engine_is_told(
    client: openai.OpenAI, server: Served, talker: Model
) -> None:
    chunks = list(
        client.chat.completions.create(
            model=talker.id,
            messages=[{"role": "user", "content": QUESTION}],
            temperature=0,
            max_tokens=32,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert "Paris" in text
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 3
    told = httpx.get(f"{server.v1}/models/{talker.id}").json()
    assert (told["engine"], told["loaded"]) == (talker.engine, True)


def test_a_stop_text_is_never_shown(client: openai.OpenAI, talker: Model) -> None:
    answer = client.chat.completions.create(
        model=talker.id,
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_tokens=32,
        stop=["Paris", "aris"],
    )
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content is not None
    assert "Par" not in answer.choices[0].message.content
    assert "capital" in answer.choices[0].message.content


def test_logprobs_are_of_the_answers_tokens(client: openai.OpenAI, talker: Model) -> None:
    answer = client.chat.completions.create(
        model=talker.id,
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_tokens=8,
        logprobs=True,
        top_logprobs=3,
    )
    choice = answer.choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert "".join(entry.token for entry in choice.logprobs.content) == choice.message.content
    for entry in choice.logprobs.content:
        assert len(entry.top_logprobs) == 3
        assert entry.logprob == pytest.approx(max(top.logprob for top in entry.top_logprobs), abs=1e-3)


def test_an_answer_is_bound_to_its_schema(client: openai.OpenAI, talker: Model) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}, "sure": {"type": "boolean"}},
        "required": ["city", "sure"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=talker.id,
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_tokens=48,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": True},
        },
    )
    said = json.loads(answer.choices[0].message.content or "")
    assert said["city"] in {"Paris", "Rome"}
    assert isinstance(said["sure"], bool)


def test_choices_with_a_seed_are_repeatable_and_differ(client: openai.OpenAI, talker: Model) -> None:
    def ask() -> list[str]:
        answer = client.completions.create(
            model=talker.id, prompt="Once upon a time", max_tokens=8, n=2, seed=5, temperature=1.0
        )
        return [choice.text for choice in answer.choices]

    first = ask()
    assert len(set(first)) == 2
    assert ask() == first


def test_tokens_give_the_text_back(server: Served, talker: Model) -> None:
    text = "Zwei  Füchse 🦊\n"
    with httpx.Client(base_url=server.url, timeout=60) as plain:
        tokens = plain.post("/tokenize", json={"model": talker.id, "content": text}).json()["tokens"]
        assert plain.post("/detokenize", json={"model": talker.id, "tokens": tokens}).json()["content"] == text


def test_a_prompt_that_does_not_fit_is_refused_with_the_numbers(client: openai.OpenAI, talker: Model) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model=talker.id, messages=[{"role": "user", "content": "word " * 3000}])
    assert raised.value.code == "context_length_exceeded"
    assert "1024" in raised.value.message


def test_a_caller_who_leaves_ends_the_work(client: openai.OpenAI, server: Served, talker: Model) -> None:
    stream = client.chat.completions.create(
        model=talker.id,
        messages=[{"role": "user", "content": "Count to a thousand."}],
        max_tokens=900,
        stream=True,
    )
    next(iter(stream))
    stream.close()

    def idle() -> bool:
        workers = httpx.get(f"{server.v1}/admin/workers").json()["workers"]
        return all(worker["busy"] == 0 for worker in workers if worker["model"] == talker.id)

    assert eventually(idle, within=30)


@pytest.mark.parametrize(("kind", "decoder"), [("png", "png_pipe"), ("jpeg", "jpeg_pipe"), ("webp", "webp_pipe")])
def test_pictures_are_of_the_size_and_format_asked_for(
    client: openai.OpenAI, painter: Model, kind: str, decoder: str
) -> None:
    answer = client.images.generate(
        model=painter.id, prompt="a fox", n=2, size="64x48", output_format=kind, extra_body={"seed": 7}
    )  # type: ignore[call-overload]
    first, second = (base64.b64decode(picture.b64_json) for picture in answer.data)
    assert first != second
    with av.open(io.BytesIO(first)) as container:
        assert isinstance(container, av.container.InputContainer)
        assert container.format.name == decoder
        frame = next(container.decode(video=0))
    assert (frame.width, frame.height) == (64, 48)
    again = client.images.generate(
        model=painter.id, prompt="a fox", size="64x48", output_format=kind, extra_body={"seed": 8}
    )  # type: ignore[call-overload]
    assert base64.b64decode(again.data[0].b64_json) == second, "the second picture has the second seed"


def test_what_a_painter_ignores_is_said(server: Served, painter: Model) -> None:
    body = {"model": painter.id, "prompt": "a fox", "style": "vivid", "quality": "high", "steps": 1}
    answer = httpx.post(f"{server.v1}/images/generations", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    assert set(answer.headers["x-roundhouse-dropped"].split(", ")) == {"style", "quality"}


def test_a_picture_that_cannot_be_drawn_is_refused(client: openai.OpenAI, painter: Model) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.images.generate(model=painter.id, prompt="a fox", size="65x64")
    assert raised.value.param == "size"


def test_pictures_stream_as_they_are_done(client: openai.OpenAI, painter: Model) -> None:
    events = list(client.images.generate(model=painter.id, prompt="a fox", n=2, stream=True))
    assert [event.type for event in events] == ["image_generation.completed"] * 2
