"""Names that a caller chose are safe in the headers of every answer, and never make an answer fail."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import pytest

from backends.headers import header_list, header_value
from backends.notices import DROPPED
from backends.workers.program.app import dropped
from tests.security.conftest import CHAT, OpenSite

NAMES = ("日", "é", "a\nb", "a\r\nx-evil: 1", "\x00", "💥", "a, b", "x" * 5000)
BODIES: dict[str, Any] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"model": "near", "prompt": "Hi"},
    "/v1/embeddings": {"model": "vector", "input": "Hi"},
    "/v1/rerank": {"model": "ranker", "query": "Hi", "documents": ["a"]},
    "/v1/classify": {"model": "judge", "input": "Hi", "labels": ["a", "b"]},
    "/v1/moderations": {"model": "warden", "input": "Hi"},
    "/v1/audio/speech": {"model": "mouth", "input": "Hi"},
    "/v1/images/generations": {"model": "brush", "prompt": "Hi"},
    "/v1/responses": {"model": "near", "input": "Hi"},
    "/v1/messages": {"model": "near", "max_tokens": 9, "messages": CHAT["messages"]},
    "/v1/messages/count_tokens": {"model": "near", "messages": CHAT["messages"]},
    "/tokenize": {"model": "near", "content": "Hi"},
    "/detokenize": {"model": "near", "tokens": [72]},
    "/v1/route": {"messages": CHAT["messages"]},
}


@pytest.mark.parametrize("path", BODIES)
async def test_a_field_of_any_name_is_dropped_by_name_and_never_a_failure(site: OpenSite, path: str) -> None:
    async with site() as running:
        for stream in (False, True):
            body = {**BODIES[path], **dict.fromkeys(NAMES, 1), **({"stream": True} if stream else {})}
            answer = await running.client.post(path, json=body)
            assert answer.status_code == 200, answer.text
            assert "x-evil" not in answer.headers
            listed = answer.headers.get("x-roundhouse-dropped", "")
            assert listed.isascii()
            if path in ("/v1/chat/completions", "/v1/responses", "/v1/messages"):
                assert {unquote(name) for name in listed.split(", ")} >= {"日", "é", "a\nb", "\x00", "💥", "a, b"}


async def test_a_form_field_of_any_name_is_never_a_failure(site: OpenSite) -> None:
    form, file = {"model": "ear", "日": "1", "é": "2"}, {"file": ("a.wav", b"RIFF")}
    async with site() as running:
        answer = await running.client.post("/v1/audio/transcriptions", data=form, files=file)
        assert answer.status_code == 200, answer.text
        assert unquote(answer.headers["x-roundhouse-dropped"]) == "日, é"


def test_a_header_value_is_printable_ascii_and_decodes_to_the_text() -> None:
    assert header_value("it is loaded, 100% sure") == "it is loaded, 100% sure"
    for text in ("日本", "a\nb", "\x7f", "50% é"):
        assert header_value(text).isprintable()
        assert unquote(header_value(text), errors="strict") == text


def test_a_long_list_of_names_is_bounded_and_says_what_it_leaves_out() -> None:
    listed = header_list(f"field{n}" for n in range(10_000))
    assert len(listed) < 2100
    assert listed.endswith("more")
    assert header_list(["a", "a", "b"]) == "a, b"


def test_a_workers_header_of_dropped_names_is_made_in_the_same_place() -> None:
    assert dropped(["日", "a\nb"]) == {DROPPED: "%E6%97%A5, a%0Ab"}
    assert dropped([]) == {}
