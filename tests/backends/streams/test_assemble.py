"""A stream and the plain answer of the same request are the same message, wherever the stream is cut."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessage

from backends.streams.assemble import ChatAssembler, CompletionAssembler, chat_chunks, completion_chunks
from backends.streams.calls import CallOrder, CallPlaces
from backends.streams.shapes import WrongShape, regular_delta
from backends.streams.sse import SSEReader
from catalog.types import Json
from tests.fakes import openai_chat
from tests.fakes.openai import event as encode

texts = st.text(min_size=1, max_size=40)
tools = st.lists(
    st.sampled_from(["one", "two", "three"]).map(
        lambda name: {
            "type": "function",
            "function": {"name": name, "parameters": {"type": "object", "properties": {"é": {"type": "string"}}}},
        }
    ),
    max_size=3,
)
bodies = st.fixed_dictionaries(
    {
        "model": st.just("m"),
        "messages": st.just([{"role": "user", "content": "Hi"}]),
        "n": st.integers(1, 3),
        "logprobs": st.booleans(),
        "tools": tools,
        "stream_options": st.just({"include_usage": True}),
    }
)


def assembled(chunks: list[bytes]) -> Json:
    reader, assembler = SSEReader(), ChatAssembler()
    for chunk in chunks:
        for event in reader.feed(chunk):
            assembler.add(event.json())
    return assembler.result()


@given(bodies, texts, st.booleans(), st.data())
def test_a_chat_cut_at_any_byte_gives_the_same_message(
    body: Json, reply: str, refuse: bool, data: st.DataObject
) -> None:
    said = openai_chat.answer(body, reply, refuse=refuse)
    stream = b"".join(encode(chunk) for chunk in openai_chat.chat_chunks(body, said))
    cut = data.draw(st.integers(0, len(stream)))
    whole = assembled([stream])
    assert assembled([stream[:cut], stream[cut:]]) == whole
    plain = openai_chat.chat_document(body, said)
    assert len(whole["choices"]) == body["n"]
    for streamed, expected in zip(whole["choices"], plain["choices"], strict=True):
        assert streamed["finish_reason"] == expected["finish_reason"]
        assert streamed["message"]["content"] == expected["message"]["content"]
        assert streamed["message"]["refusal"] == expected["message"]["refusal"]
        assert [call["function"] for call in streamed["message"].get("tool_calls", ())] == [
            call["function"] for call in expected["message"].get("tool_calls", ())
        ]
    assert whole["usage"] == plain["usage"]


def test_every_single_cut_of_one_stream() -> None:
    body = {"model": "m", "messages": [], "n": 2, "logprobs": True, "stream_options": {"include_usage": True}}
    said = openai_chat.Answer(pieces=("Ça", " va", " 🙂"))
    stream = b"".join(encode(chunk) for chunk in openai_chat.chat_chunks(body, said))
    whole = assembled([stream])
    assert [choice["message"]["content"] for choice in whole["choices"]] == ["Ça va 🙂"] * 2
    for cut in range(len(stream)):
        assert assembled([stream[:cut], stream[cut:]]) == whole


@given(bodies, texts)
def test_a_plain_chat_taken_apart_and_put_together_is_itself(body: Json, reply: str) -> None:
    document = openai_chat.chat_document(body, openai_chat.answer(body, reply, refuse=False))
    assembler = ChatAssembler()
    for chunk in chat_chunks(document):
        assembler.add(chunk)
    again = assembler.result()
    for one, other in zip(again["choices"], document["choices"], strict=True):
        assert one["message"].get("tool_calls") == other["message"].get("tool_calls")
        assert one["message"]["content"] == other["message"]["content"]
        assert one["logprobs"] == other["logprobs"]
    assert again["usage"] == document["usage"]


def test_reasoning_is_kept_apart_from_the_content() -> None:
    assembler = ChatAssembler()
    for delta in (
        {"role": "assistant"},
        {"reasoning_content": "I thi"},
        {"reasoning_content": "nk"},
        {"content": "4"},
    ):
        assembler.add({"id": "x", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    message = assembler.result()["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("I think", "4")


def test_a_completion_taken_apart_and_put_together_is_itself() -> None:
    body = {"model": "m", "prompt": ["a", "b"], "logprobs": 1, "echo": True}
    document = openai_chat.completion_document(body, "one two")
    assembler = CompletionAssembler()
    for chunk in completion_chunks(document):
        assembler.add(chunk)
    assert assembler.result() == document


def whole_of(deltas: list[Json], finish: str = "stop") -> Json:
    assembler = ChatAssembler()
    for delta in deltas:
        assembler.add({"id": "x", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    assembler.add({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    message: Json = assembler.result()["choices"][0]["message"]
    return message


@given(st.lists(st.binary(max_size=7), min_size=1, max_size=6), st.lists(texts, max_size=4))
def test_spoken_answers_are_assembled_with_all_their_sound_and_text(sound: list[bytes], said: list[str]) -> None:
    pieces = [{"audio": {"data": base64.b64encode(piece).decode()}} for piece in sound]
    words = [{"audio": {"transcript": word}} for word in said]
    deltas: list[Json] = [{"role": "assistant", "audio": {"id": "audio_1"}}, *pieces, *words]
    message = whole_of([*deltas, {"audio": {"expires_at": 9}}])
    spoken = ChatCompletionMessage.model_validate(message).audio
    assert spoken is not None
    assert (spoken.id, spoken.expires_at, spoken.transcript) == ("audio_1", 9, "".join(said))
    assert base64.b64decode(spoken.data) == b"".join(sound)
    assert message["content"] is None


@given(st.lists(texts, min_size=1, max_size=5))
def test_calls_of_custom_tools_are_assembled_with_their_name_and_all_their_input(pieces: list[str]) -> None:
    start = {"index": 0, "id": "c", "type": "custom", "custom": {"name": "patch", "input": ""}}
    rest = [{"index": 0, "custom": {"input": piece}} for piece in pieces]
    function = {"index": 1, "id": "d", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = whole_of([{"tool_calls": [call]} for call in (start, *rest, function)], "tool_calls")
    calls = ChatCompletionMessage.model_validate(message).tool_calls
    assert calls is not None
    assert [call.model_dump(exclude_none=True) for call in calls] == [
        {"id": "c", "type": "custom", "custom": {"name": "patch", "input": "".join(pieces)}},
        {"id": "d", "type": "function", "function": {"name": "f", "arguments": "{}"}},
    ]


@pytest.mark.parametrize(
    "delta",
    [
        {"audio": "loud"},
        {"audio": {"data": 5}},
        {"tool_calls": [{"index": 0, "custom": []}]},
        {"tool_calls": [{"index": 0, "custom": {"input": {}}}]},
    ],
)
def test_sounds_and_custom_calls_of_another_shape_are_told_apart(delta: Json) -> None:
    with pytest.raises(WrongShape):
        regular_delta(delta)


def _placed(*calls: Json) -> list[Json]:
    places = CallPlaces()
    for call in calls:
        places.set(call)
    return list(calls)


def _part(arguments: str, name: str | None = None, **more: Any) -> Json:
    return {**more, "function": {"name": name, "arguments": arguments}}


def test_a_call_without_an_id_gets_one_that_its_other_parts_do_not_change() -> None:
    first, more, second = _placed(
        _part("{", "f", index=0, id=None), _part("}", index=0, id=""), _part("{}", "g", index=1)
    )
    assert first["id"].startswith("call_")
    assert second["id"].startswith("call_")
    assert first["id"] != second["id"]
    assert "id" not in more


def test_a_new_id_at_a_used_index_begins_a_new_call() -> None:
    calls = _placed(
        _part("", "f", index=0, id="a"),
        _part("{", index=0),
        _part("", "g", index=0, id="b"),
        _part("[", index=0),
        _part("}", index=0, id="a"),
        _part("{}", "h", index=1, id="c"),
    )
    assert [call["index"] for call in calls] == [0, 0, 1, 1, 0, 2]


def test_a_random_id_of_a_part_without_a_name_begins_no_call() -> None:
    calls = _placed(_part("", "f", index=0, id="a"), _part("{}", index=0, id="x"))
    assert calls[1] == {"index": 0, "function": {"name": None, "arguments": "{}"}}


@pytest.mark.parametrize("ended", [False, True])
def test_the_parts_of_a_later_call_wait_for_the_end_of_the_call_before(*, ended: bool) -> None:
    order = CallOrder()
    parts = [
        _part("", "f", index=0, id="a"),
        _part("", "g", index=1, id="b"),
        _part('{"x":', index=0),
        _part('{"y":', index=1),
        _part("1}", index=0) if not ended else _part("", index=0),
        _part("2}", index=1),
    ]
    passed = [[call["index"] for call in order.take([part], ended=False)] for part in parts]
    rest = [call["index"] for call in order.take([], ended=True)]
    if ended:
        assert (passed, rest) == ([[0], [], [0], [], [0], []], [1, 1, 1])
    else:
        assert (passed, rest) == ([[0], [], [0], [], [0, 1, 1], [1]], [])


def test_a_call_that_begins_has_a_type_and_no_other_waits_for_a_custom_one() -> None:
    order = CallOrder()
    custom = {"index": 0, "id": "a", "custom": {"name": "f", "input": "{"}}
    calls = [call for part in (custom, _part("{}", "g", index=1)) for call in order.take([part], ended=False)]
    assert [(call["index"], call["type"]) for call in calls] == [(0, "custom"), (1, "function")]
