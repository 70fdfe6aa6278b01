"""Ollama's requests as chats and completions."""

from __future__ import annotations

from typing import Any

import pytest

from catalog.catalog import Catalog
from catalog.errors import InvalidRequest, UndecodableMedia, UnsupportedParameter
from catalog.model import Capability, HubSource, LibrarySource, Model, Size
from catalog.names.ollama import tagged
from catalog.types import Json
from routing.facts import alias_of
from routing.reading.intent import read_intent
from server.wires.ollama.chat import to_chat
from server.wires.ollama.context import Turn, decode_context, encode_context
from server.wires.ollama.embed import to_embedding
from server.wires.ollama.generate import as_chat, is_completion, to_completion, to_turns
from server.wires.ollama.options import seconds_of
from server.wires.ollama.requests import OllamaChatRequest, OllamaEmbedRequest, OllamaGenerateRequest
from server.wires.translation import Losses

USER = {"role": "user", "content": "Hi"}
PNG = "iVBORw0KGgo="
CALL = {"function": {"name": "look_up", "arguments": {"word": "tree"}}}


def chat(**fields: Any) -> tuple[Json, tuple[str, ...]]:
    """The chat's body, and the names that its translation left out."""
    losses = Losses()
    made = to_chat(
        OllamaChatRequest.model_validate({"model": "m", "messages": [USER], **fields}), model="m", losses=losses
    )
    return made.to_wire(), made.left_out


def completion(**fields: Any) -> tuple[Json, tuple[str, ...]]:
    losses = Losses()
    request = OllamaGenerateRequest.model_validate({"model": "m", "prompt": "Once", "raw": True, **fields})
    assert is_completion(request)
    return to_completion(request, model="m", most=99, losses=losses).to_wire(), losses.names


def test_options_become_parameters_and_the_loaders_own_are_for_ollama_alone() -> None:
    options = {"temperature": 0.5, "num_predict": 7, "stop": ["x"], "repeat_last_n": 64, "num_ctx": 4096, "foo": 1}
    body, left_out = chat(options=options)
    assert (body["temperature"], body["max_tokens"], body["stop"], body["repeat_last_n"]) == (0.5, 7, ["x"], 64)
    assert left_out == ("options.foo",)
    losses = Losses()
    made = to_chat(
        OllamaChatRequest.model_validate({"model": "m", "messages": [USER], "options": options}),
        model="m",
        losses=losses,
    )
    assert "num_ctx" in made.foreign
    assert body["num_ctx"] == 4096


@pytest.mark.parametrize(
    "options",
    [
        {"num_predict": -1},
        {"num_predict": 0},
        {"num_predict": -2},
        {"seed": -1},
        {"stop": []},
        {"temperature": None},
        {"num_gpu": -1, "num_thread": 0, "tfs_z": 1.0},
    ],
)
def test_a_value_that_chooses_nothing_is_no_parameter(options: Json) -> None:
    body, left_out = chat(options=options)
    assert body.keys() <= {"model", "messages", "stream", "stream_options"}
    assert left_out == ()


def test_a_wrong_option_is_refused_by_its_own_name() -> None:
    with pytest.raises(InvalidRequest, match=r"^options\.num_predict: ") as refused:
        chat(options={"num_predict": "many"})
    assert refused.value.param == "options.num_predict"


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("repeat_last_n", "x", "an integer"),
        ("num_ctx", 1.5, "an integer"),
        ("mirostat", True, "an integer"),
        ("tfs_z", "x", "a number"),
        ("use_mmap", 1, "true or false"),
    ],
)
def test_an_option_of_another_type_is_refused_whether_or_not_it_is_used(name: str, value: Any, kind: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"^options\.{name}: it must be {kind}"):
        chat(options={name: value})


def test_an_integer_may_be_written_as_a_fraction() -> None:
    body = chat(options={"repeat_last_n": -1.0, "num_ctx": 2048.0})[0]
    assert (repr(body["repeat_last_n"]), repr(body["num_ctx"])) == ("-1", "2048")


@pytest.mark.parametrize(
    ("think", "effort"), [(True, "medium"), (False, "none"), ("high", "high"), ("low", "low"), (None, None)]
)
def test_thinking_is_a_reasoning_effort(think: Any, effort: str | None) -> None:
    assert chat(think=think)[0].get("reasoning_effort") == effort


def test_openais_form_of_the_answer_is_obeyed_where_ollamas_is_not_given() -> None:
    form = {"type": "json_object"}
    assert chat(response_format=form) == ({**chat()[0], "response_format": form}, ())
    assert chat(response_format=form, format={"type": "object"})[0]["response_format"]["type"] == "json_schema"
    with pytest.raises(InvalidRequest, match="response_format"):
        chat(response_format=5)


def test_a_format_is_any_json_or_a_schema() -> None:
    assert chat(format="json")[0]["response_format"] == {"type": "json_object"}
    assert "response_format" not in chat(format="")[0]
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    asked = chat(format=schema)[0]["response_format"]["json_schema"]
    assert asked["schema"] == {**schema, "additionalProperties": False}, "as Ollama's grammars have it"
    assert asked["strict"] is True
    asked = chat(format={**schema, "additionalProperties": True})[0]["response_format"]["json_schema"]
    assert asked["strict"] is False, "an open schema is no strict one at OpenAI"


def test_a_result_belongs_to_its_call_by_id_or_by_the_tools_name_or_by_order() -> None:
    calls = [
        {"id": "one", "function": {"name": "a", "arguments": {}}},
        {"id": "two", "function": {"name": "b", "arguments": {}}},
        {"id": "three", "function": {"name": "b", "arguments": {}}},
    ]
    said = {"role": "assistant", "content": "", "tool_calls": calls}

    def ids(*results: Json) -> list[str]:
        messages = chat(
            messages=[USER, said, *({"role": "tool", "content": "x", **result} for result in results)]
        )[0]
        return [message["tool_call_id"] for message in messages["messages"][2:]]

    assert ids({"tool_call_id": "two"}, {"tool_name": "b"}, {}) == ["two", "three", "one"]
    assert ids({"name": "b"}, {"tool_name": "unheard of"}) == ["two", "one"]


def test_calls_without_ids_get_their_own_and_arguments_are_text() -> None:
    messages = [USER, {"role": "assistant", "tool_calls": [CALL, CALL]}, {"role": "tool", "content": "x"}]
    said, result = chat(messages=messages)[0]["messages"][1:]
    assert said["tool_calls"][0]["function"] == {"name": "look_up", "arguments": '{"word":"tree"}'}
    assert result["tool_call_id"] == said["tool_calls"][0]["id"] != said["tool_calls"][1]["id"]


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "tool", "content": "x"}],
        [
            USER,
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "other", "content": "x"},
        ],
    ],
    ids=["no call", "another call"],
)
def test_a_result_without_its_call_is_refused(messages: list[Json]) -> None:
    with pytest.raises(InvalidRequest, match="must follow the assistant's message"):
        chat(messages=messages)


def test_pictures_are_data_urls_of_their_own_type() -> None:
    content = chat(messages=[{**USER, "images": [PNG, "data:image/gif;base64,R0lGOD=="]}])[0]["messages"][0][
        "content"
    ]
    assert [part.get("image_url", {}).get("url") for part in content] == [
        None,
        f"data:image/png;base64,{PNG}",
        "data:image/gif;base64,R0lGOD==",
    ]
    with pytest.raises(UndecodableMedia, match=r"messages\[0\]\.images\[0\]"):
        chat(messages=[{**USER, "images": ["/etc/passwd"]}])


def test_a_tool_is_a_function() -> None:
    function = {"name": "look_up", "description": "d", "parameters": {"type": "object"}, "odd": 1}
    body, left_out = chat(tools=[{"type": "function", "function": function}])
    assert body["tools"] == [
        {"type": "function", "function": {name: function[name] for name in ("name", "description", "parameters")}}
    ]
    assert left_out == ("tools.function.odd",)
    with pytest.raises(InvalidRequest, match=r"tools\[0\]"):
        chat(tools=[{"type": "web_search"}])


def test_fields_that_no_chat_has_are_named() -> None:
    body, left_out = chat(truncate=True, shift=False, unheard=1)
    assert set(left_out) == {"truncate", "unheard"}
    assert "truncate" not in body, "a prompt that is too long is refused here, not cut"


def test_a_model_may_be_named_as_older_clients_do() -> None:
    assert OllamaChatRequest.model_validate({"name": "m"}).model == "m"
    assert OllamaChatRequest.model_validate({"name": "n", "model": "m"}).model == "m"


# ---- /api/generate


def test_a_prompt_is_a_chat_with_the_system_message_before_the_context() -> None:
    context = encode_context([("system", "old"), ("user", "a"), ("assistant", "b")])
    request = OllamaGenerateRequest.model_validate(
        {"model": "m", "prompt": "c", "system": "new", "context": context, "images": [PNG], "options": {"seed": 1}}
    )
    assert not is_completion(request)
    turns = to_turns(request)
    assert turns == [("system", "new"), ("user", "a"), ("assistant", "b"), ("user", "c")]
    made = to_chat(as_chat(request, turns, Losses()), model="m", losses=Losses()).to_wire()
    assert [message["role"] for message in made["messages"]] == ["system", "user", "assistant", "user"]
    assert made["messages"][-1]["content"][1]["type"] == "image_url"
    assert made["seed"] == 1


def test_a_raw_prompt_is_a_completion_with_a_bound() -> None:
    body, left_out = completion(options={"num_predict": 5, "num_ctx": 1}, think=True, logprobs=True)
    assert (body["prompt"], body["max_tokens"], body["logprobs"]) == ("Once", 5, 0)
    assert set(left_out) == {"num_ctx", "think"}
    assert completion()[0]["max_tokens"] == 99
    assert completion(raw=None, suffix="end")[0]["suffix"] == "end"


@pytest.mark.parametrize("field", [{"system": "s"}, {"images": [PNG]}, {"context": [1]}])
def test_what_excludes_a_raw_prompt_is_refused(field: Json) -> None:
    with pytest.raises(InvalidRequest, match="is taken as it is, without"):
        completion(**field)


def test_a_template_of_the_callers_own_is_refused() -> None:
    with pytest.raises(UnsupportedParameter, match="cannot bring a template"):
        is_completion(OllamaGenerateRequest(model="m", prompt="x", template="{{ .Prompt }}"))


def test_a_context_holds_the_conversation() -> None:
    turns: list[Turn] = [("user", "Grüße 😀" * 100), ("assistant", "b")]
    context = encode_context(turns)
    assert context is not None
    assert max(context) < 2**53, "every number is exact in JavaScript"
    assert len(context) < 30, "a context is compressed"
    assert decode_context(context) == turns
    assert decode_context([]) == []
    assert encode_context([("user", "x" * 1_000_001)]) is None


@pytest.mark.parametrize("context", [[1], [1, 2, 3], [90500687086593, 5, 1], [90500687086593, 2**52, 2**52]])
def test_a_context_of_another_server_is_refused(context: list[int]) -> None:
    with pytest.raises(InvalidRequest, match="earlier answer of this server"):
        decode_context(context)


def test_a_context_cannot_unpack_to_more_than_the_most() -> None:
    import zlib

    packed = zlib.compress(b'[["user","' + b"x" * 50_000_000 + b'"]]')
    padded = packed + bytes(-len(packed) % 6)
    numbers = [int.from_bytes(padded[at : at + 6], "big") for at in range(0, len(padded), 6)]
    mark = (encode_context([]) or [0])[0]
    with pytest.raises(InvalidRequest, match="earlier answer"):
        decode_context([mark, len(packed), *numbers])


# ---- embeddings, durations, names


def test_texts_are_cut_where_the_server_can_and_options_go_to_ollama_alone() -> None:
    def made(home: str, **fields: Any) -> tuple[Json, tuple[str, ...]]:
        losses = Losses()
        request = OllamaEmbedRequest.model_validate({"model": "m", "options": {"num_ctx": 1, "odd": 2}, **fields})
        return to_embedding(["a"], request, model="m", home=home, losses=losses).to_wire(), losses.names

    assert made("local") == (
        {"model": "m", "input": ["a"], "truncate": True},
        ("options.num_ctx", "options.odd"),
    )
    assert made("ollama")[0]["options"] == {"num_ctx": 1}
    assert made("ollama", truncate=False)[0]["truncate"] is False
    body, left_out = made("openai", truncate=True, dimensions=8)
    assert (body.get("truncate"), body["dimensions"]) == (None, 8)
    assert "truncate" in left_out


@pytest.mark.parametrize(
    ("given", "seconds"),
    [(60, 60), (0, 0), (-1, -1), (1.5, 1.5), ("5m", 300), ("1h30m", 5400), ("-1m", -60), ("300ms", 0.3),
     ("24", 24), ("-1", -1), ("0", 0), ("1.5h", 5400)],
)  # fmt: skip
def test_a_duration_is_seconds_or_as_go_writes_it(given: Any, seconds: float) -> None:
    assert seconds_of(given) == pytest.approx(seconds)


@pytest.mark.parametrize("given", ["soon", "", "5 m", "5d", "nan", "inf", "m5", "-"])
def test_what_is_no_duration_is_refused(given: str) -> None:
    with pytest.raises(InvalidRequest, match="'5m'"):
        seconds_of(given)


def test_names_are_found_with_and_without_their_tag() -> None:
    def row(name: str, **more: Any) -> Model:
        source = {"source": LibrarySource(module="x"), **more}
        return Model(id=name, engine="x", capabilities=frozenset({Capability.CHAT}), **source)

    catalog = Catalog.load(
        builtin=False,
        user_models=(
            row("parrot", aliases=("polly",)),
            row("far/llama:latest"),
            row("owl", source=HubSource(repository="Owner/Owl-GGUF"), size=Size(quantization="Q4_K_M")),
        ),
    )
    assert tagged("parrot") == "parrot:latest"
    assert tagged("qwen3:8b") == "qwen3:8b"
    for name, own in {
        "parrot:latest": "parrot",
        "Polly:LATEST": "parrot",
        "parrot": "parrot",
        "far/llama:latest": "far/llama:latest",
        "hf.co/owner/owl-gguf": "owl",
        "hf.co/Owner/Owl-GGUF:latest": "owl",
        "huggingface.co/Owner/Owl-GGUF:q4_k_m": "owl",
    }.items():
        assert catalog.resolve(name).id == own, name
    for name in ("nobody:latest", ":latest", "hf.co/Owner/Owl-GGUF:Q8_0", "auto:latest"):
        assert not catalog.knows(name), name
    assert read_intent("auto:latest", None, {}) == read_intent("auto", None, {})
    assert (alias_of("AUTO:latest"), alias_of("auto:Fast"), alias_of("m:latest")) == (
        "auto",
        "auto:fast",
        "m:latest",
    )
