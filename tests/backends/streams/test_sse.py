"""The reader of event streams follows the WHATWG standard, however the bytes are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.streams.sse import ServerSentEvent, SSEReader
from catalog.errors import UpstreamProtocolError

LINE_ENDS = (b"\n", b"\r\n", b"\r")

line = st.sampled_from(
    [
        b"data: {}",
        b"data:  two spaces",
        b"data",
        b"data:\xc3\xa9",
        b"event: ping",
        b"event",
        b"id: 7",
        b"id: a\0b",
        b"retry: 300",
        b"retry: soon",
        b": a comment",
        b":",
        b"unknown: x",
        b"",
        b"",
    ]
)


def read_all(chunks: list[bytes]) -> list[ServerSentEvent]:
    reader = SSEReader()
    return [event for chunk in chunks for event in reader.feed(chunk)]


def reference(body: bytes) -> list[ServerSentEvent]:
    """The standard's algorithm over the whole text, without ``id`` and ``retry``."""
    text = body.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    *lines, _ = text.split(b"\n")
    events: list[ServerSentEvent] = []
    data, kind = b"", b""
    for text_line in lines:
        if not text_line:
            if data:
                events.append(ServerSentEvent(data[:-1], kind.decode()))
            data, kind = b"", b""
            continue
        if text_line.startswith(b":"):
            continue
        name, _, value = text_line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data += value + b"\n"
        elif name == b"event":
            kind = value
    return events


@given(
    st.lists(st.tuples(line, st.sampled_from(LINE_ENDS)), max_size=20),
    st.booleans(),
    st.lists(st.integers(0, 400), max_size=8),
)
def test_any_stream_cut_anywhere_reads_as_the_standard_says(
    lines: list[tuple[bytes, bytes]], bom: bool, cuts: list[int]
) -> None:
    body = (b"\xef\xbb\xbf" if bom else b"") + b"".join(text + end for text, end in lines)
    expected = reference(body)
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    assert read_all([body[a:b] for a, b in pairwise(edges)]) == expected
    assert read_all([bytes([byte]) for byte in body]) == expected


def test_every_single_cut_gives_the_same_events() -> None:
    body = (
        b"\xef\xbb\xbfevent: a\r\ndata: 1\r\ndata: \xe2\x82\xac\r\n\r\n: x\r\rid: 9\ndata: 2\n\ndata: [DONE]\n\n"
    )
    whole = read_all([body])
    assert [event.data for event in whole] == [b"1\n\xe2\x82\xac", b"2", b"[DONE]"]
    assert whole[2].done
    for cut in range(len(body) + 1):
        assert read_all([body[:cut], body[cut:]]) == whole


def test_an_event_that_the_end_cuts_short_is_discarded() -> None:
    assert read_all([b"data: whole\n\ndata: half\n"]) == [ServerSentEvent(b"whole")]


def test_an_event_is_given_out_as_soon_as_its_last_byte_is_there() -> None:
    reader = SSEReader()
    assert reader.feed(b"data: x\n") == []
    assert reader.feed(b"\n") == [ServerSentEvent(b"x")]
    assert reader.feed(b"data: y\r\n\r") == [ServerSentEvent(b"y")]


@pytest.mark.parametrize(
    "chunks", [[b"data: " + b"x" * 100], [b"data: x"] * 20, [b"data: " + b"x" * 100 + b"\n\n"]]
)
def test_an_event_over_the_bound_is_an_error_and_not_kept(chunks: list[bytes]) -> None:
    reader = SSEReader(max_event=64)
    with pytest.raises(UpstreamProtocolError, match="larger than 64 bytes"):
        feed_all(reader, chunks)


def feed_all(reader: SSEReader, chunks: list[bytes]) -> None:
    for chunk in chunks:
        reader.feed(chunk)


def test_data_that_is_no_json_is_an_error_of_the_upstream() -> None:
    with pytest.raises(UpstreamProtocolError):
        ServerSentEvent(b'{"cut').json()
