"""Operations that are several calls of a backend."""

from __future__ import annotations

import pytest

from backends.base import Upstream
from backends.wire.tokens import DetokenizeRequest, DetokenizeTexts, TokenizeRequest
from catalog.types import Json
from routing.calling.operations import DETOKENIZE_TEXTS

MARK = 7
"""The id of ``<m>``; every other token is a letter."""


class Letters:
    """A tokenizer of letters, with one special token."""

    async def tokenize(self, upstream: Upstream, request: TokenizeRequest) -> Json:
        text = request.content.replace("<m>", chr(MARK)) if request.parse_special else request.content
        return {"tokens": [*map(ord, text)]}

    async def detokenize(self, upstream: Upstream, request: DetokenizeRequest) -> Json:
        return {"content": "".join("<m>" if token == MARK else chr(token) for token in request.tokens)}


@pytest.mark.parametrize(("skip", "texts"), [(True, ["ab", "a"]), (False, ["a<m>b", "a"])])
async def test_special_tokens_in_the_midst_of_others_are_left_out_unless_they_are_wanted(
    skip: bool, texts: list[str]
) -> None:
    body = DetokenizeTexts(lists=[[97, MARK, 98], [97]], skip=skip)
    upstream = Upstream("w", "worker", "http://worker/v1", "m")
    assert await anext(DETOKENIZE_TEXTS.call(Letters(), upstream, body)) == {"texts": texts}
