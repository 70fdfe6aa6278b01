"""An answer's text, its figures, and what ends it."""

from __future__ import annotations

import pytest

from catalog.errors import StreamBroken
from server.commands.chat.answers import ChatAnswer, ask
from tests.server.commands.chat.fakes import FakeServerClient

BODY = {"model": "auto", "messages": []}


def test_the_pieces_are_shown_as_they_come_and_the_figures_are_those_of_the_server() -> None:
    shown: list[tuple[str, bool]] = []
    thought = {"choices": [{"delta": {"reasoning_content": "hm"}}]}
    client = FakeServerClient([thought, "one\u2028", "two"])
    answer = ask(client, BODY, lambda piece, reasoning: shown.append((piece, reasoning)))
    assert shown == [("hm", True), ("one\u2028", False), ("two", False)]
    assert answer.figures() == {
        "text": "one\u2028two",
        "reasoning": "hm",
        "model": "tiny",
        "finish_reason": "stop",
        "prompt_tokens": 7,
        "tokens": 11,
        "tokens_per_second": pytest.approx(10.0),
        "time_to_first_token": 0.5,
        "seconds": 1.5,
        "cost_dollars": 0.00125,
        "reason": "expected quality 0.5",
        "trace": "tr_1",
    }
    assert answer.line() == "tiny, 10 tokens/s, first after 0.50 s, 11 tokens, $0.00125"
    assert client.asked[0]["stream"] is True


def test_an_interrupt_ends_the_answer_and_keeps_what_came() -> None:
    def interrupt() -> str:
        raise KeyboardInterrupt

    answer = ask(FakeServerClient(["as far ", interrupt, "never"]), BODY, lambda *_: None)
    assert (answer.text, answer.stopped) == ("as far ", True)
    assert "stopped" in answer.line()


@pytest.mark.parametrize("reply", [["begun", {"error": {"message": "The worker died."}}], ["begun"]])
def test_a_stream_without_its_end_is_an_error(reply: list[str]) -> None:
    with pytest.raises(StreamBroken, match=r"The worker died\.|broke off"):
        ask(FakeServerClient(list(reply), end=False), BODY, lambda *_: None)


def test_free_unknown_and_small_costs_are_told_apart() -> None:
    assert ChatAnswer(cost=0.0).line() == "free"
    assert ChatAnswer(cost=None).line() == "cost unknown"
    assert ChatAnswer(cost=0.5).line() == "$0.50"
    assert ChatAnswer(cost=2.0).line() == "$2.00"
