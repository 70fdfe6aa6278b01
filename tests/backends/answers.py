"""Assembles a stream of chunks into the whole answer."""

from __future__ import annotations

from collections.abc import AsyncIterator

from backends.streams.assemble import ChatAssembler, CompletionAssembler
from catalog.types import Json


async def assemble_chat(chunks: AsyncIterator[Json]) -> Json:
    """The ``chat.completion`` of a stream of chunks."""
    assembler = ChatAssembler()
    async for chunk in chunks:
        assembler.add(chunk)
    return assembler.result()


async def assemble_completion(chunks: AsyncIterator[Json]) -> Json:
    """The ``text_completion`` of a stream of chunks."""
    assembler = CompletionAssembler()
    async for chunk in chunks:
        assembler.add(chunk)
    return assembler.result()
