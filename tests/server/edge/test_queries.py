"""Query parameters as OpenAI's SDKs write them."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from catalog.errors import InvalidRequest
from server.api.stored.completions import StoredChatsQuery
from server.api.stored.conversations import IncludeQuery
from server.api.stored.pages import ItemsQuery
from server.api.stored.responses import ResponseQuery
from server.edge.bodies import read_query


def asked(query: str) -> Request:
    return Request({"type": "http", "method": "GET", "path": "/", "query_string": query.encode(), "headers": []})


def test_a_list_and_a_number_are_read_beside_each_other() -> None:
    query = read_query(asked("include%5B%5D=a&include[]=b&limit=5&order=asc"), ItemsQuery)
    assert (query.include, query.limit, query.order) == (["a", "b"], 5, "asc")


@pytest.mark.parametrize(
    "query",
    [
        "include[]=a&include[]=b",
        "include=a&include=b",
        "include[0]=a&include[1]=b",
        "include=a%2Cb",
        "include=a,b,",
    ],
)
@pytest.mark.parametrize("model", [ItemsQuery, IncludeQuery, ResponseQuery])
def test_a_list_is_read_however_a_client_writes_it(query: str, model: type[ItemsQuery]) -> None:
    assert read_query(asked(query), model).include == ["a", "b"]


def test_an_object_or_a_key_of_one_is_no_list() -> None:
    with pytest.raises(InvalidRequest, match="include"):
        read_query(asked("include[of]=a&include=b"), ItemsQuery)
    assert read_query(asked("include=a&limit=5&limit=6"), ItemsQuery).limit == 6


def test_an_object_is_read_by_its_keys() -> None:
    assert read_query(asked("metadata%5Bof%5D=me&limit=5"), StoredChatsQuery).metadata == {"of": "me"}


def test_a_number_beside_a_list_must_be_one() -> None:
    with pytest.raises(InvalidRequest, match="limit"):
        read_query(asked("include[]=a&limit=five"), ItemsQuery)
