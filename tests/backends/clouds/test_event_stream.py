"""Frames of AWS's event streams: cut anywhere, each with right checksums, or refused."""

from __future__ import annotations

import struct
from zlib import crc32

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from backends.clouds.bedrock.event_stream import Frame, FrameReader
from catalog.errors import StreamBroken, UpstreamProtocolError
from tests.fakes.bedrock import encoded, frame

SOME = [frame("messageStart", {"role": "assistant"}), frame("x", {"text": "Grüße"}), encoded({}, b"")]


def reader(max_frame: int = 1 << 20) -> FrameReader:
    return FrameReader("b", max_frame=max_frame)


def whole(head: bytes, rest: bytes) -> bytes:
    """A frame with right checksums around wrong contents."""
    body = head + struct.pack(">I", crc32(head)) + rest
    return body + struct.pack(">I", crc32(body))


@given(st.lists(st.integers(1, 40), max_size=60))
def test_frames_do_not_depend_on_where_the_bytes_are_cut(sizes: list[int]) -> None:
    data, made, found = b"".join(SOME), reader(), list[Frame]()
    for size in [*sizes, len(data)]:
        found += made.feed(data[:size])
        data = data[size:]
    made.close()
    assert [one.headers.get(":event-type") for one in found] == ["messageStart", "x", None]
    assert "Grüße".encode() in found[1].payload


def test_frames_are_read_as_botocore_reads_them() -> None:
    theirs = EventStreamBuffer()
    theirs.add_data(b"".join(SOME))
    ours = list(reader().feed(b"".join(SOME)))
    assert [(one.headers, one.payload) for one in theirs] == [(one.headers, one.payload) for one in ours]


def test_headers_of_other_types_are_skipped() -> None:
    values = (
        b"\x01a\x00" + b"\x01b\x04\0\0\0\1" + b"\x01c\x06\0\2xy" + b"\x01d\x09" + bytes(16) + b"\x01e\x07\0\1z"
    )
    head = struct.pack(">II", len(values) + 16, len(values))
    assert list(reader().feed(whole(head, values))) == [Frame({"e": "z"}, b"")]


@pytest.mark.parametrize("at", [0, 4, 8, 13, -5, -1])
def test_a_flipped_bit_anywhere_is_found_and_what_came_before_is_kept(at: int) -> None:
    damaged = bytearray(SOME[1])
    damaged[at] ^= 1
    found: list[Frame] = []
    with pytest.raises(UpstreamProtocolError, match="'b' sent a frame with a wrong checksum"):
        for one in reader().feed(SOME[0] + bytes(damaged)):
            found.append(one)  # noqa: PERF402  what came before the error counts
    assert len(found) == 1


@pytest.mark.parametrize(
    ("head", "rest", "fault"),
    [
        (struct.pack(">II", 17, 9), b"\0", "wrong lengths"),
        (struct.pack(">II", 2000, 0), b"", "more than 1024 bytes"),
        (struct.pack(">II", 20, 4), b"\x09ab\x07", "headers that cannot be read"),
        (struct.pack(">II", 22, 6), b"\x01a\x07\0\xffz", "headers that cannot be read"),
        (struct.pack(">II", 21, 5), b"\x01a\x07\0\xff", "headers that cannot be read"),
    ],
)
def test_a_frame_that_makes_no_sense_is_refused(head: bytes, rest: bytes, fault: str) -> None:
    with pytest.raises(UpstreamProtocolError, match=fault):
        list(reader(1024).feed(whole(head, rest)))


def test_a_stream_that_ends_within_a_frame_is_broken() -> None:
    made = reader()
    assert list(made.feed(SOME[0][:-1])) == []
    with pytest.raises(StreamBroken):
        made.close()
