"""Turns untrusted names (archive members, repository files, model ids) into paths that stay within a folder."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

from catalog.errors import PullError

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.")


def safe_relative(name: str) -> PurePosixPath:
    """Return ``name`` as a relative path. Raises PullError if it is absolute or contains ``..`` or a drive.

    Archives, repositories and manifests use forward slashes on every system, so a backslash or a drive letter can
    only be an attempt to leave the folder on Windows.
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
    """Return ``root / name``. Raises PullError if that is outside ``root``, also through a symbolic link."""
    path = root / safe_relative(name)
    if not path.resolve().is_relative_to(root.resolve()):
        raise PullError(f"The file name {name[:200]!r} is refused: a link leads out of the model's folder.")
    return path


def slug(model_id: str) -> str:
    """Encode a model id as one path component; reversible.

    Everything but lower-case letters, digits, ``-``, ``_`` and ``.`` is percent-encoded, so ``Q4`` and ``q4`` stay
    distinct on file systems that ignore case.
    """
    return "".join(
        character if character in _PLAIN else "".join(f"%{byte:02x}" for byte in character.encode())
        for character in model_id
    )
