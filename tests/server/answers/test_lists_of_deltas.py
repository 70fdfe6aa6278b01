"""Lists that come in several deltas leave a chat in one: SDKs that keep the last of them have all entries."""

from __future__ import annotations

import orjson
import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

from backends.streams.chunks import ChunkWriter
from catalog.types import Json
from server.answers.streams import ChunkEncoder

PICTURES: list[Json] = [{"type": "image_url", "image_url": {"url": f"data:{at}"}} for at in range(4)]
BLOCKS: list[Json] = [{"type": "thinking", "thinking": "x", "signature": f"{at}"} for at in range(2)]


def sent(chunks: list[Json], *, include_usage: bool = False) -> list[Json]:
    encoder = ChunkEncoder(include_usage=include_usage)
    data = b"".join([*map(encoder.encode, chunks), encoder.finish()])
    return [orjson.loads(line.removeprefix(b"data: ")) for line in data.split(b"\n\n") if line[6:7] == b"{"]


def kept_by_node(chunks: list[Json]) -> dict[int, Json]:
    """The fields of each choice's message beside its text, as OpenAI's SDK for Node assigns them."""
    held: dict[int, Json] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            rest = {name: value for name, value in choice["delta"].items() if name not in ("content", "role")}
            held.setdefault(choice["index"], {}).update(rest)
    return held


@pytest.mark.parametrize("include_usage", [True, False])
def test_every_entry_is_in_one_delta_of_its_choice(include_usage: bool) -> None:
    writer = ChunkWriter("chatcmpl-1", "m", 1)
    chunks = [
        writer.delta({"thinking_blocks": BLOCKS[:1]}),
        writer.delta({"content": "a", "images": PICTURES[:1]}),
        writer.delta({"images": PICTURES[1:2]}, index=1),
        writer.delta({"thinking_blocks": BLOCKS[1:]}),
        writer.delta({}, index=1, finish_reason="stop"),
        writer.delta({"images": PICTURES[2:]}, finish_reason="stop"),
    ]
    made = sent(chunks, include_usage=include_usage)
    assert kept_by_node(made) == {
        0: {"thinking_blocks": BLOCKS, "images": [PICTURES[0], *PICTURES[2:]]},
        1: {"images": [PICTURES[1]]},
    }
    state = ChatCompletionStreamState()
    for chunk in made:
        state.handle_chunk(ChatCompletionChunk.model_validate(chunk))
    first = state.get_final_completion().choices[0].message.model_dump(exclude_unset=True)
    assert (first["content"], first["images"], first["thinking_blocks"]) == (
        "a",
        [PICTURES[0], *PICTURES[2:]],
        BLOCKS,
    )


def test_entries_after_the_end_of_their_choice_are_not_lost() -> None:
    writer = ChunkWriter("chatcmpl-1", "m", 1)
    chunks = [writer.delta({"content": "a"}, finish_reason="stop"), writer.delta({"images": PICTURES})]
    assert kept_by_node(sent(chunks)) == {0: {"images": PICTURES}}
