"""Names that come from elsewhere become paths here, and none of them leaves its folder."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

from catalog.errors import PullError

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.")


def safe_relative(name: str) -> PurePosixPath:
    """``name`` as a relative path, or PullError if it is absolute, climbs with ``..`` or hides a drive.

    Archives, repositories and manifests name their files with forward slashes on every system; a backslash
    or a drive letter is only ever an attempt to leave on Windows.
    """
    path = PurePosixPath(name)
    windows = PureWindowsPath(name)
    if (
        not name
        or "\\" in name
        or any(ord(character) < 32 for character in name)
        or path.is_absolute()
        or windows.drive
        or ".." in path.parts
        or not path.parts
    ):
        raise PullError(f"The file name {name[:200]!r} is refused: it would lie outside the model's folder.")
    return path


def within(root: Path, name: str) -> Path:
    """``root / name``, or PullError if that is outside ``root``, also by way of a symbolic link."""
    path = root / safe_relative(name)
    if not path.resolve().is_relative_to(root.resolve()):
        raise PullError(f"The file name {name[:200]!r} is refused: a link leads out of the model's folder.")
    return path


def slug(model_id: str) -> str:
    """A model id as one path component: reversible, and distinct also where file names ignore case.

    Everything but lower-case letters, digits, ``-``, ``_`` and ``.`` is percent-encoded, so ``Q4`` is not ``q4``.
    """
    return "".join(
        character if character in _PLAIN else "".join(f"%{byte:02x}" for byte in character.encode())
        for character in model_id
    )
