"""Reasoning effort follows complexity where the router chooses and the caller says nothing."""

from __future__ import annotations

import pytest

from backends.adapting.efforts import is_silent_on_effort
from backends.wire.chat import ChatRequest
from backends.wire.completions import CompletionRequest
from catalog.model import Capability, Model, UpstreamSource
from routing.choosing.effort import ROOM, effort_of
from routing.facts import Complexity, Facts, Intent
from routing.settings import RoutingSettings

SETTINGS = RoutingSettings()


def model(*more: Capability, parameters: frozenset[str] | None = None) -> Model:
    return Model(
        id="m",
        provider="p",
        capabilities=frozenset({Capability.CHAT, *more}),
        source=UpstreamSource(endpoint="e", model="m"),
        parameters=parameters,
    )


THINKER = model(Capability.REASONING)
LEVELS = model(Capability.REASONING, parameters=frozenset({"reasoning_effort"}))


@pytest.mark.parametrize(
    ("complexity", "of", "effort"),
    [
        (Complexity.COMPLEX, THINKER, "high"),
        (Complexity.COMPLEX, LEVELS, "high"),
        (Complexity.COMPLEX, model(), None),
        (Complexity.MEDIUM, THINKER, None),
        (Complexity.MEDIUM, LEVELS, None),
        (Complexity.SIMPLE, THINKER, None),
        (Complexity.SIMPLE, LEVELS, "low"),
    ],
)
def test_effort_follows_complexity(complexity: Complexity, of: Model, effort: str | None) -> None:
    assert effort_of(Facts(Capability.CHAT, complexity=complexity), of, SETTINGS) == effort


def test_a_short_answer_has_no_room_to_reason() -> None:
    asked = Facts(Capability.CHAT, complexity=Complexity.COMPLEX, output_tokens=ROOM - 1)
    assert effort_of(asked, THINKER, SETTINGS) is None


def test_a_named_model_and_a_setting_decide_for_themselves() -> None:
    assert effort_of(Facts(Capability.CHAT, "m", complexity=Complexity.COMPLEX), THINKER, SETTINGS) is None
    off = RoutingSettings(effort=False)
    assert effort_of(Facts(Capability.CHAT, complexity=Complexity.COMPLEX), THINKER, off) is None


def test_high_stakes_are_never_answered_with_little_reasoning() -> None:
    asked = Facts(Capability.CHAT, complexity=Complexity.SIMPLE, intent=Intent(high_stakes=True))
    assert effort_of(asked, LEVELS, SETTINGS) is None


@pytest.mark.parametrize(
    "field",
    [
        {"reasoning_effort": "low"},
        {"thinking": {"type": "disabled"}},
        {"reasoning": {"effort": "low"}},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ],
)
def test_a_caller_who_names_an_effort_is_heard(field: dict[str, object]) -> None:
    plain = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}
    assert is_silent_on_effort(ChatRequest.model_validate(plain))
    assert not is_silent_on_effort(ChatRequest.model_validate(plain | field))
    assert not is_silent_on_effort(CompletionRequest.model_validate({"model": "auto", "prompt": "hi"}))
