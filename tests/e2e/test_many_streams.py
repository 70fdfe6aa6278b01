"""Many concurrent streams through a gateway process: the benchmark's claim with fewer streams."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.bench.contestants import roundhouse, upstream
from tests.bench.limits import raise_open_files
from tests.bench.streams import WHOLE, at_once


def test_two_hundred_streams_at_once_are_whole_and_in_order(tmp_path: Path) -> None:
    raise_open_files()
    with upstream() as behind, roundhouse(tmp_path, behind, rows=("paced",)) as gateway:
        ends, _ = asyncio.run(at_once(gateway, 200, 50))
    assert ends == {WHOLE: 200}
