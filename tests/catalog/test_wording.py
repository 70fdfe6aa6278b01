"""A refusal is in the same plain English wherever pydantic finds the mistake."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError

from backends.workers.engines.common.options import EngineOptions, read_options
from backends.workers.program.app import parse as parse_in_worker
from catalog.errors import ConfigurationError, InvalidRequest
from catalog.toml_rows import user_models
from catalog.validation.wording import describe, shown
from routing.reading.intent import read_intent
from server.edge.json_body import parse


class Body(BaseModel):
    """One field of each kind."""

    share: Annotated[float, Field(ge=0, le=1)] = 0.5
    count: Annotated[int, Field(gt=0)] = 1
    mode: Literal["a", "b"] = "a"
    api_key: Literal["a", "b"] = "a"
    flag: bool = False
    name: Annotated[str, Field(min_length=1, max_length=3, pattern="^[a-z]*$")] = "a"
    items: Annotated[list[str], Field(max_length=1)] = []
    inner: dict[str, int] = {}


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("share", 2, "it must be at most 1 (it is 2)"),
        ("share", -1, "it must be at least 0 (it is -1)"),
        ("share", "x", "it must be a number (it is text)"),
        ("count", 0, "it must be more than 0 (it is 0)"),
        ("count", 1.5, "it must be a whole number (it is 1.5)"),
        ("mode", "c", "it must be 'a' or 'b' (it is text)"),
        ("api_key", "c", "it must be 'a' or 'b' (it is text)"),
        ("flag", 7, "it must be true or false (it is 7)"),
        ("name", "", "it must have at least 1 character (it is empty text)"),
        ("name", "long name", "it must have at most 3 characters (it is text)"),
        ("name", "A", "it must match the pattern ^[a-z]*$ (it is text)"),
        ("name", None, "it must be text (it is null)"),
        ("items", "x", "it must be a list (it is text)"),
        ("items", ["x", "y"], "it must have at most 1 item (it is a list)"),
        ("inner", [], "it must be an object (it is a list)"),
        ("inner", {"x": {}}, "it must be a whole number (it is an object)"),
    ],
)
def test_what_is_allowed_and_what_came(field: str, value: Any, said: str) -> None:
    with pytest.raises(ValidationError) as wrong:
        Body.model_validate({field: value})
    assert describe(wrong.value.errors()[0], value=False) == said


@pytest.mark.parametrize("value", ["x", "sk-planted"])
def test_a_text_of_the_settings_is_not_repeated_where_it_may_be_a_secret(value: str) -> None:
    with pytest.raises(ValidationError) as wrong:
        Body.model_validate({"mode": value})
    assert describe(wrong.value.errors()[0], value=False) == "it must be 'a' or 'b' (it is text)"


def test_a_value_is_repeated_only_where_it_may_be_and_is_cut_short() -> None:
    assert shown("planted", value=False) == "text"
    assert shown("planted", value=True) == "'planted'"
    assert len(shown("x" * 1000, value=True)) == 80
    assert len(shown(10**200, value=False)) == 80


def test_every_place_uses_the_same_words() -> None:
    with pytest.raises(InvalidRequest) as body:
        parse(Body, b'{"share": 2}')
    assert body.value.message == "'share': it must be at most 1 (it is 2)."
    with pytest.raises(InvalidRequest) as worker:
        parse_in_worker(Body, b'{"share": 2}')
    assert worker.value.message == "share: it must be at most 1"
    with pytest.raises(InvalidRequest) as intent:
        read_intent("auto", {"max_cost": -1}, {})
    assert intent.value.message == "'routing.max_cost': it must be at least 0 (it is -1)."
    with pytest.raises(ConfigurationError) as options:
        read_options(EngineOptions, "e", {"slots": 0})
    assert options.value.message == "Option 'slots' of engine e: it must be at least 1 (it is 0)."
    with pytest.raises(ConfigurationError) as row:
        user_models([{"id": "m", "capabilities": ["fly"]}], {})
    assert "[[model]] 'm': capabilities.0: it must be 'chat'," in row.value.message
    assert "(it is 'fly')" in row.value.message
