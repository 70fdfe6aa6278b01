"""Lists that come in several deltas are joined by OpenAI's own SDK, and nothing else sees their numbers."""

from __future__ import annotations

import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

from backends.anthropic.messages import translate_messages
from backends.streams.assemble import ChatAssembler
from backends.streams.chunks import ChunkWriter
from backends.wire.chat import Message
from catalog.types import Json

BLOCKS = [{"type": "thinking", "thinking": f"{at}", "signature": "s"} for at in range(3)]
CITED = [
    {"type": "url_citation", "url_citation": {"start_index": at, "end_index": at, "title": "t", "url": "u"}}
    for at in range(3)
]
CALLS = [{"id": f"ws_{at}", "type": "web_search_call", "status": "completed"} for at in range(3)]
PICTURES = [{"type": "image_url", "image_url": {"url": f"data:{at}"}} for at in range(3)]
LISTS = {"thinking_blocks": BLOCKS, "annotations": CITED, "server_tool_calls": CALLS, "images": PICTURES}


def chunks_of(name: str, entries: list[Json]) -> list[Json]:
    writer = ChunkWriter("chatcmpl-1", "m", 1)
    pieces = [
        writer.delta({name: entries[:1]}),
        writer.delta({name: entries[1:2]}),
        writer.delta({name: entries[2:]}),
    ]
    return [writer.delta({"role": "assistant", "content": "x"}), *pieces, writer.delta({}, finish_reason="stop")]


@pytest.mark.parametrize("name", LISTS)
def test_the_sdk_joins_a_list_of_several_deltas_in_order(name: str) -> None:
    state = ChatCompletionStreamState()
    for chunk in chunks_of(name, LISTS[name]):
        state.handle_chunk(ChatCompletionChunk.model_validate(chunk))
    joined = state.get_final_completion().choices[0].message.model_dump(exclude_unset=True)[name]
    assert [{**entry, "index": 0} for entry in joined] == [{**entry, "index": 0} for entry in LISTS[name]]


@pytest.mark.parametrize("name", LISTS)
def test_a_plain_answer_has_the_entries_without_numbers(name: str) -> None:
    assembler = ChatAssembler()
    for chunk in chunks_of(name, LISTS[name]):
        assembler.add(chunk)
    assert assembler.result()["choices"][0]["message"][name] == LISTS[name]


def test_the_entries_of_each_choice_are_numbered_apart() -> None:
    writer = ChunkWriter("chatcmpl-1", "m", 1)
    chunks = [writer.delta({"annotations": [CITED[0]]}, index=index) for index in (0, 1, 1, 0)]
    numbers = [chunk["choices"][0]["delta"]["annotations"][0].get("index") for chunk in chunks]
    assert numbers == [None, None, 1, 1]


def test_blocks_that_come_back_with_their_numbers_go_to_anthropic_without() -> None:
    back = [{**block, "index": at} for at, block in enumerate(BLOCKS)]
    message = Message.model_validate({"role": "assistant", "content": "x", "thinking_blocks": back})
    _, turns = translate_messages([Message(role="user", content="?"), message], set())[:2]
    assert turns[-1]["content"][:3] == BLOCKS
