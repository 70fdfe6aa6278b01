"""Files that are no audio, or damaged audio, are refused in words."""

from __future__ import annotations

import pytest

from backends.workers.engines.common.audio import decode
from catalog.errors import UndecodableMedia


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"words", id="text"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + b"x" * 100, id="picture"),
        pytest.param(b"OggS" + b"\0" * 90, id="broken off"),
        pytest.param(b"fLaC" + b"\0" * 80, id="damaged"),
    ],
)
def test_a_file_that_is_no_audio_is_refused_with_formats_that_are_and_no_error_number(content: bytes) -> None:
    with pytest.raises(UndecodableMedia) as refused:
        decode(content, rate=16_000, max_seconds=60, check=lambda: None)
    assert refused.value.message.startswith("The file is not audio that can be read, or it is damaged. WAV, MP3")
    assert refused.value.param == "file"
    assert "argument" not in refused.value.message
