"""Checks the room on a disk before a pull."""

from __future__ import annotations

import shutil
from pathlib import Path

from catalog.errors import PullError

RESERVE = 64 * 2**20
"""Bytes of a disk that a pull leaves free, for the state and logs."""


class DiskFull(PullError):
    """The disk has no room for the files of a model."""

    status = 507
    code = "insufficient_storage"


def check_room(folder: Path, need: int, label: str) -> None:
    """Raises DiskFull if ``need`` bytes would not leave the reserve free on the disk of ``folder``."""
    if need <= 0:
        return
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    free = shutil.disk_usage(existing).free
    if need + RESERVE > free:
        raise DiskFull(
            f"'{label}' needs {_gib(need)} of disk, and {_gib(max(0, free - RESERVE))} is free at {folder}. Make "
            "room (roundhouse list, roundhouse rm), or pull a smaller quantisation."
        )


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
