"""Chunks as the lines of Ollama's answers."""

from __future__ import annotations

from typing import Any

import pytest

from catalog.errors import AnswerInvalid, StreamBroken, WorkerFailed
from catalog.types import Json
from server.wires.ollama.context import decode_context
from server.wires.ollama.lines import AnswerLines, LineEncoder, Stopwatch
from tests.server.fakes import chunk, usage_chunk


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def lines(*, load: float = 0.0, **fields: Any) -> tuple[AnswerLines, Clock]:
    clock = Clock()
    return AnswerLines("m", Stopwatch(clock, lambda _model, _since: load), **fields), clock


def told(answer: AnswerLines, *chunks: Json) -> list[Json]:
    made = [line for each in chunks for line in answer.feed(each)]
    return [*made, *answer.finish()]


def delta(**fields: Any) -> Json:
    return {**chunk(), "choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


def call(index: int, arguments: str, **more: Any) -> Json:
    return delta(
        tool_calls=[{"index": index, "function": {"arguments": arguments, **more.pop("named", {})}, **more}]
    )


END = chunk(finish="stop")


def test_calls_whose_arguments_come_by_turns_are_told_whole_and_in_order() -> None:
    answer, _ = lines()
    made = told(
        answer,
        call(0, '{"x":', id="a", named={"name": "f"}),
        call(1, '{"y":', id="b", named={"name": "g"}),
        call(0, "1}"),
        call(1, "2}"),
        call(2, "{}", id="c", named={"name": "h"}),
        call(1, " "),
        chunk(finish="tool_calls"),
    )
    calls = [line["message"]["tool_calls"] for line in made if "tool_calls" in line["message"]]
    assert [one["function"] for (one,) in calls] == [
        {"index": 0, "name": "f", "arguments": {"x": 1}},
        {"index": 1, "name": "g", "arguments": {"y": 2}},
        {"index": 2, "name": "h", "arguments": {}},
    ]
    answer, _ = lines()
    with pytest.raises(AnswerInvalid):
        told(
            answer,
            call(0, "{}", id="a", named={"name": "f"}),
            call(1, "{}", id="b", named={"name": "g"}),
            call(0, "{}"),
            END,
        )


def test_durations_split_the_time_until_the_end() -> None:
    answer, clock = lines(load=2.0)
    clock.now += 3.0
    list(answer.feed(chunk("Hi")))
    clock.now += 4.0
    last = told(answer, END, usage_chunk(3, 2))[-1]
    assert {name: value for name, value in last.items() if name.endswith(("duration", "count"))} == {
        "total_duration": 7_000_000_000,
        "load_duration": 2_000_000_000,
        "prompt_eval_duration": 1_000_000_000,
        "eval_duration": 4_000_000_000,
        "prompt_eval_count": 3,
        "eval_count": 2,
    }


def test_the_durations_of_another_ollama_are_its_own() -> None:
    answer, clock = lines()
    clock.now += 9.0
    usage = {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "durations": {"total": 5, "load": 0.5, "prompt_eval": 1, "eval": 2},
    }
    last = told(answer, chunk("Hi"), END, {**usage_chunk(), "usage": usage})[-1]
    assert last["load_duration"] == 500_000_000
    assert (last["prompt_eval_duration"], last["eval_duration"]) == (1_000_000_000, 2_000_000_000)
    assert last["total_duration"] == 9_000_000_000, "the whole time is the client's"


def test_text_and_thoughts_are_told_apart_and_joined_in_a_whole_answer() -> None:
    answer, _ = lines()
    made = told(answer, delta(reasoning_content="Hm."), delta(content="Hel"), delta(content="lo"), END)
    assert [line.get("message") for line in made] == [
        {"role": "assistant", "content": "", "thinking": "Hm."},
        {"role": "assistant", "content": "Hel"},
        {"role": "assistant", "content": "lo"},
        {"role": "assistant", "content": ""},
    ]
    assert [line["done"] for line in made] == [False, False, False, True]
    whole = answer.whole()
    assert whole["message"] == {"role": "assistant", "content": "Hello", "thinking": "Hm."}
    assert (whole["done"], whole["done_reason"]) == (True, "stop")


def test_a_tool_call_is_told_once_it_is_whole() -> None:
    answer, _ = lines()
    chunks = (
        call(0, "", id="a", named={"name": "f"}),
        call(0, '{"x":'),
        call(0, "1}"),
        call(1, "{}", id="b", named={"name": "g"}),
        chunk(finish="tool_calls"),
    )
    made = told(answer, *chunks)
    calls = [line["message"]["tool_calls"] for line in made if "tool_calls" in line["message"]]
    first = {"id": "a", "function": {"index": 0, "name": "f", "arguments": {"x": 1}}}
    second = {"id": "b", "function": {"index": 1, "name": "g", "arguments": {}}}
    assert calls == [[first], [second]]
    assert made[-1]["done_reason"] == "stop"
    assert answer.whole()["message"]["tool_calls"] == [first, second]


@pytest.mark.parametrize("arguments", ["[1]", '{"x":'])
def test_arguments_that_are_no_object_reach_the_client_which_tells_the_model(arguments: str) -> None:
    answer, _ = lines()
    told(answer, call(0, arguments, id="a", named={"name": "f"}), END)
    (made,) = answer.whole()["message"]["tool_calls"]
    assert made["function"]["arguments"] == {"INVALID_JSON": arguments}


def test_logprobs_of_chats_and_completions_have_one_shape() -> None:
    token = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105]}
    of_chat = {"content": [{**token, "top_logprobs": [token]}]}
    answer, _ = lines()
    choice = {"index": 0, "delta": {"content": "Hi"}, "logprobs": of_chat, "finish_reason": None}
    (line,) = answer.feed({**chunk(), "choices": [choice]})
    assert line["logprobs"] == [{**token, "top_logprobs": [token]}]
    legacy = {"tokens": ["Hi"], "token_logprobs": [-0.5], "top_logprobs": [{"Hi": -0.5, "Yo": -1.0}]}
    answer, _ = lines(chats=False)
    (line,) = answer.feed({"choices": [{"index": 0, "text": "Hi", "logprobs": legacy}]})
    assert line["logprobs"] == [
        {
            "token": "Hi",
            "logprob": -0.5,
            "top_logprobs": [{"token": "Hi", "logprob": -0.5}, {"token": "Yo", "logprob": -1.0}],
        }
    ]
    assert line["response"] == "Hi"


def test_a_generated_answer_ends_with_the_context_of_the_conversation() -> None:
    answer, _ = lines(chats=False, turns=[("user", "Hi")])
    last = told(answer, chunk("Hel"), chunk("lo"), END)[-1]
    assert decode_context(last["context"]) == [("user", "Hi"), ("assistant", "Hello")]
    assert last["response"] == ""
    assert answer.whole()["response"] == "Hello"


def test_the_model_that_answers_is_kept_from_its_first_chunk_on() -> None:
    kept: list[str] = []
    answer, _ = lines(keep=kept.append)
    told(answer, chunk("Hi"), END)
    assert kept == ["parrot"]


def test_an_answer_that_broke_off_ends_with_an_error_and_is_not_done() -> None:
    answer, _ = lines()
    list(answer.feed(chunk("Hel")))
    with pytest.raises(StreamBroken):
        list(answer.finish())
    assert LineEncoder(answer).fail(WorkerFailed("It died.")) == b'{"error":"It died."}\n'
