"""Answers of the real starter model have the form that was asked for, or the request is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft7Validator, Draft202012Validator  # type: ignore[import-untyped]

from backends.base import Upstream
from backends.http import HttpClient
from backends.local.backend import LocalWorkerBackend
from backends.wire.chat import ChatRequest
from catalog.model import PathSource
from tests.backends.answers import assemble_chat
from tests.conformance.optional import models, pythons
from tests.conformance.worker import KEY, starter, worker_of
from tests.e2e.serving import Served, served

pytestmark = pytest.mark.engine

MODEL = "speaker"
STARTER = "smollm2-135m-instruct"
OURS = ("mlx", "llama-cpp-python")
ENGINES = ["llamacpp", *(str(row.engine) for row in models().values() if row.engine in OURS)]
"""Those that are given our grammar. ``make engines`` adds the ones in environments of their own."""
SEEDS = 10
"""Of each schema, streamed and plain alike."""

SHORT = {"type": "string", "maxLength": 8}


def thing(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


ENFORCED: dict[str, dict[str, Any]] = {
    "pattern": thing(id={"type": "string", "pattern": r"^\d{1,6}$"}),
    "pattern of words": thing(id={"type": "string", "pattern": r"^[\w-]{1,9}$"}),
    "pattern of a date": thing(day={"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"}),
    "pattern in items": {
        "type": "array", "items": {"type": "string", "pattern": "^[a-c]{2}$"}, "minItems": 1, "maxItems": 3,
    },
    "multipleOf": thing(n={"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 700}),
    "minimum": thing(n={"type": "integer", "minimum": 5, "maximum": 12}),
    "exclusive bounds": thing(n={"type": "integer", "exclusiveMinimum": 5, "exclusiveMaximum": 12}),
    "enum": thing(colour={"enum": ["red", "green", 3, None]}),
    "const": thing(kind={"const": "fixed"}, n={"type": "integer", "minimum": 0, "maximum": 9}),
    "anyOf": {"anyOf": [thing(a=SHORT), thing(b={"type": "integer", "minimum": 0, "maximum": 9})]},
    "oneOf that is disjoint": {
        "oneOf": [thing(kind={"const": "a"}, x=SHORT), thing(kind={"const": "b"}, y={"type": "boolean"})]
    },
    "allOf": {
        "allOf": [{"type": "object", "properties": {"a": SHORT}, "required": ["a"]}, thing(a=True, b=SHORT)]
    },
    "patternProperties": {
        "type": "object", "properties": {"a": {"const": 1}},
        "patternProperties": {"^x_[a-c]$": {"type": "boolean"}},
        "additionalProperties": False, "required": ["a"],
    },
    "additionalProperties": {
        "type": "object", "additionalProperties": {"type": "integer", "minimum": 0, "maximum": 9},
        "maxProperties": 2,
    },
    "recursion": {
        "type": "object",
        "properties": {"v": {"type": "integer", "minimum": 0, "maximum": 9}, "next": {"$ref": "#"}},
        "required": ["v"], "additionalProperties": False,
    },
    "recursion by definitions": {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object", "required": ["v"], "additionalProperties": False,
                "properties": {"v": {"enum": [1, 2]}, "next": {"$ref": "#/$defs/node"}},
            }
        },
    },
    "prefixItems": {
        "type": "array", "prefixItems": [{"type": "boolean"}, {"enum": ["x", "y"]}], "items": False, "minItems": 2,
    },
    "tuples of draft 7": {
        "type": "array", "items": [{"type": "boolean"}, {"enum": ["x", "y"]}], "additionalItems": False,
        "minItems": 2,
    },
    "minItems": {"type": "array", "items": {"type": "boolean"}, "minItems": 3, "maxItems": 4},
    "format date": thing(day={"type": "string", "format": "date"}),
    "format date-time": thing(at={"type": "string", "format": "date-time", "maxLength": 30}),
    "format uuid": thing(id={"type": "string", "format": "uuid"}),
    "format ipv4": thing(ip={"type": "string", "format": "ipv4"}),
    "format uri": thing(url={"type": "string", "format": "uri", "title": "Url"}),
    "lengths": thing(s={"type": "string", "minLength": 3, "maxLength": 5}),
    "several types": thing(v={"type": ["boolean", "null"]}),
    "a scalar": {"type": "boolean"},
}  # fmt: skip
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "not": (thing(s={"type": "string", "not": {"const": "a"}}), "'not' at $.properties.s"),
    "if": ({"type": "object", "if": {"required": ["a"]}, "then": {"required": ["b"]}}, "'if' at $"),
    "look-ahead": (thing(s={"type": "string", "pattern": "^(?=a)b$"}), "looks around"),
    "uniqueItems": ({"type": "array", "items": {"type": "integer"}, "uniqueItems": True}, "'uniqueItems' at $"),
    "contains": (thing(a={"type": "array", "contains": {"const": 1}}), "'contains' at $.properties.a"),
    "propertyNames": ({"type": "object", "propertyNames": {"pattern": "a"}}, "'propertyNames' at $"),
    "a misspelt keyword": (thing(s={"type": "string", "patern": "a"}), "'patern' at $.properties.s"),
    "lenient": ({"type": "string", "x-guidance": {"lenient": True}}, "'x-guidance' at $"),
}


@pytest.fixture(scope="module", params=ENGINES)
def server(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Served]:
    """One real server for each engine, with the starter model as ``speaker``."""
    engine: str = request.param
    folder = tmp_path_factory.mktemp("constraints")
    rows = {str(row.engine): row.source for row in models().values() if isinstance(row.source, PathSource)}
    path = rows[engine].path if engine in rows else starter(STARTER)[1]
    python = pythons().get(engine)
    settings = f"[workers.python]\n{engine} = '{python}'\n" if python else ""
    (folder / "roundhouse.toml").write_text(
        f"{settings}[[model]]\nid = '{MODEL}'\nengine = '{engine}'\n"
        "capabilities = ['chat', 'completion', 'json_schema', 'tools']\n"
        f"source = {{kind = 'path', path = '{path}'}}\n"
    )
    with served(folder) as running:
        yield running


@pytest.fixture
def client(server: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.v1, timeout=300, trust_env=False) as made:
        yield made


def body(schema: Any, **more: Any) -> dict[str, Any]:
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    said = [{"role": "user", "content": "Give an example as JSON."}]
    return {"model": MODEL, "messages": said, "response_format": form, "max_tokens": 200, "temperature": 1, **more}


def answers(client: httpx.Client, asked: dict[str, Any], path: str = "/chat/completions") -> list[tuple[Any, str]]:
    """Content and finish reason of every choice, plain or streamed."""
    if not asked.get("stream"):
        answer = client.post(path, json=asked)
        assert answer.status_code == 200, answer.text
        return [(each["message"]["content"], each["finish_reason"]) for each in answer.json()["choices"]]
    texts: dict[int, str] = {}
    ends: dict[int, str] = {}
    with client.stream("POST", path, json=asked) as stream:
        for line in stream.iter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            assert "error" not in event, event
            for choice in event["choices"]:
                texts[choice["index"]] = texts.get(choice["index"], "") + (choice["delta"].get("content") or "")
                if choice["finish_reason"]:
                    ends[choice["index"]] = choice["finish_reason"]
    return [(texts[index], ends[index]) for index in sorted(ends)]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("name", ENFORCED)
def test_an_answer_always_has_its_schema(client: httpx.Client, name: str, *, stream: bool) -> None:
    schema = ENFORCED[name]
    validator = (Draft7Validator if name == "tuples of draft 7" else Draft202012Validator)(schema)
    given = answers(client, body(schema, n=SEEDS, seed=100 * stream, stream=stream))
    assert len(given) == SEEDS
    whole = [text for text, finish in given if finish == "stop"]
    # A small model may recurse until its bound; any other schema has an end.
    assert len(whole) >= (1 if "recursion" in name else SEEDS // 2)
    assert [text for text in whole if not validator.is_valid(json.loads(text))] == []


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("name", REFUSED)
def test_a_schema_that_cannot_be_enforced_is_refused_with_its_keyword(
    client: httpx.Client, name: str, *, stream: bool
) -> None:
    schema, says = REFUSED[name]
    answer = client.post("/chat/completions", json=body(schema, stream=stream))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "response_format.json_schema.schema")
    assert says in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("form", "allowed"),
    [
        ({"structured_outputs": {"choice": ["yes", "no"]}}, ["yes", "no"]),
        ({"structured_outputs": {"regex": "(ab|cd){2}"}}, ["abab", "abcd", "cdab", "cdcd"]),
        ({"guided_choice": ["yes", "no"]}, ["yes", "no"]),
        ({"guided_regex": "^[ab]$"}, ["a", "b"]),
        ({"guided_json": {"enum": ["x", 3]}}, ['"x"', "3"]),
        ({"guided_grammar": 'root ::= "left" | "right"'}, ["left", "right"]),
        ({"grammar": 'root ::= "left" | "right"'}, ["left", "right"]),
        ({"grammar": '%llguidance {}\nstart: "left" | "right"'}, ["left", "right"]),
    ],
)
def test_every_way_to_ask_for_a_form_is_kept(
    client: httpx.Client, form: dict[str, Any], allowed: list[str]
) -> None:
    asked = {**body({}), "n": 4, "seed": 1, **form}
    del asked["response_format"]
    assert {text for text, _ in answers(client, asked)} <= set(allowed)
    completed = client.post("/completions", json={"model": MODEL, "prompt": "I say", "max_tokens": 20, **form})
    assert completed.json()["choices"][0]["text"] in allowed


CALL = {
    "name": "book",
    "parameters": thing(
        day={"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"},
        seats={"multipleOf": 7, "type": "integer", "minimum": 0, "maximum": 70},
    ),
}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "book"}}])
def test_the_arguments_of_a_call_have_their_schema(client: httpx.Client, choice: Any, *, stream: bool) -> None:
    asked = {
        "model": MODEL, "n": 4, "seed": 3, "max_tokens": 200, "stream": stream, "temperature": 1,
        "messages": [{"role": "user", "content": "Book a table."}],
        "tools": [{"type": "function", "function": CALL}], "tool_choice": choice,
    }  # fmt: skip
    if not stream:
        made = [
            each["message"]["tool_calls"]
            for each in client.post("/chat/completions", json=asked).json()["choices"]
        ]
        arguments = [call["function"]["arguments"] for calls in made for call in calls]
    else:
        pieces: dict[tuple[int, int], str] = {}
        with client.stream("POST", "/chat/completions", json=asked) as events:
            for line in events.iter_lines():
                for each in json.loads(line[6:])["choices"] if line.startswith("data: {") else ():
                    for call in each["delta"].get("tool_calls") or ():
                        key = (each["index"], call["index"])
                        pieces[key] = pieces.get(key, "") + call["function"]["arguments"]
        arguments = list(pieces.values())
    assert len(arguments) >= 4
    for given in arguments:
        Draft202012Validator(CALL["parameters"]).validate(json.loads(given))


def test_a_schema_bomb_is_refused_and_a_neighbour_is_answered(client: httpx.Client) -> None:
    levels: dict[str, Any] = {
        f"n{at}": {"anyOf": [{"$ref": f"#/$defs/n{at + 1}"}, {"$ref": f"#/$defs/n{at + 1}"}]} for at in range(40)
    }
    bomb = {"$ref": "#/$defs/n0", "$defs": {**levels, "n40": {"type": "string"}}}
    answer = client.post("/chat/completions", json=body(bomb))
    assert answer.status_code == 400
    assert "expand to more than" in answer.json()["error"]["message"]
    tool = {"type": "function", "function": {"name": "t", "parameters": bomb}}
    called = body({}, tools=[tool], response_format=None)
    assert client.post("/chat/completions", json=called).status_code == 400
    assert answers(client, body({"type": "boolean"}))[0][0] in ("true", "false")


THINKS = """
{%- for message in messages %}
{%- if message.role == 'assistant' %}{{- '<|im_start|>assistant\\n' }}
{%- if message.reasoning_content is string %}
{{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}{%- endif %}
{{- message.content + '<|im_end|>\\n' }}
{%- else %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}
"""
"""A template that opens a thought in the prompt, as those of Qwen's and DeepSeek's thinking models do."""


async def test_a_form_comes_after_a_thought(tmp_path: Path) -> None:
    template = tmp_path / "thinks.jinja"
    template.write_text(THINKS)
    asked = {**body({"enum": ["red", "blue"]}), "max_tokens": 300, "seed": 4, "temperature": 0.3}
    with worker_of(STARTER, chat_template_file=str(template)) as running:
        upstream = Upstream(
            "w", "worker", "http://worker/v1", "m", uds=running.spec.socket, api_key=KEY, engine="llamacpp"
        )
        async with HttpClient() as http:
            chunks = LocalWorkerBackend(http).chat(upstream, ChatRequest.model_validate(asked))
            choice = (await assemble_chat(chunks))["choices"][0]
    thought = choice["message"].get("reasoning_content") or ""
    assert "</think>" not in thought
    if choice["finish_reason"] == "stop":
        assert choice["message"]["content"] in ('"red"', '"blue"')
    else:  # it thought until it was cut
        assert thought
        assert not choice["message"]["content"]


def test_a_token_beyond_the_vocabulary_is_refused_and_closes_no_model(
    client: httpx.Client, server: Served
) -> None:
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    for _ in range(4):
        for more in ({"logit_bias": {"999999": 1}}, {"stop_token_ids": [999_999]}):
            refused = client.post("/chat/completions", json={**asked, **more})
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, next(iter(more)))
        wrong = httpx.post(f"{server.url}/detokenize", json={"model": MODEL, "tokens": [5, 999_999]}, timeout=60)
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "tokens")
    assert client.post("/chat/completions", json=asked).status_code == 200
