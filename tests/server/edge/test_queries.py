"""Query parameters as OpenAI's SDKs write them."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from catalog.errors import InvalidRequest
from server.api.stored.completions import StoredChatsQuery
from server.api.stored.pages import ItemsQuery
from server.edge.bodies import read_query


def asked(query: str) -> Request:
    return Request({"type": "http", "method": "GET", "path": "/", "query_string": query.encode(), "headers": []})


def test_a_list_and_a_number_are_read_beside_each_other() -> None:
    query = read_query(asked("include%5B%5D=a&include[]=b&limit=5&order=asc"), ItemsQuery)
    assert (query.include, query.limit, query.order) == (["a", "b"], 5, "asc")


def test_an_object_is_read_by_its_keys() -> None:
    assert read_query(asked("metadata%5Bof%5D=me&limit=5"), StoredChatsQuery).metadata == {"of": "me"}


def test_a_number_beside_a_list_must_be_one() -> None:
    with pytest.raises(InvalidRequest, match="limit"):
        read_query(asked("include[]=a&limit=five"), ItemsQuery)
