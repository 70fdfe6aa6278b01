"""Errors of bounds say how much there was, and rules of form in words."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field, ValidationError

from backends.wire.images import ImageRequest
from backends.wire.video.request import VideoRequest
from catalog.errors import InvalidRequest
from server.api.stored.pages import ListQuery
from server.edge.json_body import as_model, from_validation


class _Many(BaseModel):
    files: Annotated[list[str], Field(max_length=2)]


def refusal(model: type[BaseModel], fields: dict[str, Any]) -> str:
    with pytest.raises(InvalidRequest) as refused:
        as_model(model, fields)
    return refused.value.message


@pytest.mark.parametrize("size", ["big", "10x10\n", "1x1", "99999x10", "\uff110x10", ""])
def test_a_size_is_told_in_words(size: str) -> None:
    drawn = refusal(ImageRequest, {"prompt": "a", "size": size})
    assert "WIDTHxHEIGHT, each from 10 to 9999 pixels" in drawn
    assert "'auto' or" in drawn
    filmed = refusal(VideoRequest, {"prompt": "a", "size": size})
    assert "WIDTHxHEIGHT" in filmed
    assert "pattern" not in drawn + filmed


def test_a_length_is_told_in_words_and_the_schemas_keep_their_patterns() -> None:
    assert "whole seconds from 1 to 120" in refusal(VideoRequest, {"prompt": "a", "seconds": "121"})
    for size in ("1024x1024", "auto"):
        assert as_model(ImageRequest, {"prompt": "a", "size": size}).size == size
    assert "[1-9]" in str(ImageRequest.model_json_schema()["properties"]["size"])
    assert "120" in str(VideoRequest.model_json_schema()["properties"]["seconds"])


def test_a_number_in_a_query_is_told_as_a_number() -> None:
    with pytest.raises(ValidationError) as refused:
        ListQuery.model_validate_strings({"limit": "0"})
    assert from_validation(refused.value, {"limit": "0"}).message == "'limit': it must be at least 1 (it is 0)."


def test_a_list_that_is_too_long_is_told_by_its_length() -> None:
    with pytest.raises(ValidationError) as refused:
        _Many.model_validate({"files": ["a"] * 3})
    assert from_validation(refused.value, {"files": ["a"] * 3}).message.endswith("at most 2 items (it has 3).")
