"""The routes ``/tokenize`` and ``/detokenize``, in llama-server's shape, for Hugging Face's tokenizers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from backends.wire.tokens import DetokenizeRequest, TokenizeRequest
from backends.workers.engines.common.text_tokenizer import TextTokenizer
from backends.workers.program.app import json_response, parse


def token_routes(tokenizer: Callable[[], TextTokenizer]) -> list[Route]:
    """The routes; ``tokenizer`` is asked once the model is loaded."""

    async def tokenize(http: Request) -> Response:
        request = parse(TokenizeRequest, await http.body())
        tokens = await asyncio.to_thread(
            tokenizer().tokenize,
            request.content,
            add_special=request.add_special,
            parse_special=request.parse_special,
        )
        if request.with_pieces:
            return json_response({"tokens": [{"id": i, "piece": piece} for i, piece in tokens]})
        return json_response({"tokens": [i for i, _ in tokens]})

    async def detokenize(http: Request) -> Response:
        request = parse(DetokenizeRequest, await http.body())
        content = await asyncio.to_thread(tokenizer().detokenize, request.tokens)
        return json_response({"content": content, **({} if tokenizer().round_trips else {"exact": False})})

    return [
        Route("/tokenize", tokenize, methods=["POST"]),
        Route("/detokenize", detokenize, methods=["POST"]),
    ]
