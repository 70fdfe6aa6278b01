"""What a pull leaves beside the files: which files make a model whole, how large they are, and its row.

One JSON file per model under ``rows/``; written last, in one rename, so that its presence means the pull ended.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from catalog.errors import PullError
from catalog.model import Model
from catalog.paths import within

Watch = Callable[[int], None]


class StoredFile(BaseModel):
    """A file of a finished model."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(BaseModel):
    """A finished model on disk. Paths are relative to the store's root.

    ``fingerprint`` identifies the source that was pulled: when a row's pin changes, what is on disk is no
    longer that model. ``row`` is the catalogue row of a model that only the pull knows of.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: int = 1
    id: str
    fingerprint: str
    entry: str
    files: dict[str, StoredFile]
    row: Model | None = None

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.size for file in self.files.values())

    def absent(self, root: Path) -> str | None:
        """The first file that is not there in its full size; ``None`` when all are. No file is read."""
        for name, file in self.files.items():
            try:
                if within(root, name).stat().st_size != file.size:
                    return name
            except (OSError, PullError):
                return name
        return None


def fingerprint(model: Model) -> str:
    """Identifies what would be fetched for ``model`` and what would be made of it."""
    source = model.source.model_dump(mode="json", exclude_defaults=True)
    for wheel in source.get("wheels", ()):
        wheel.pop("size", None)  # it draws the progress bar, no more
    return hashlib.sha256(
        json.dumps([source, model.options.get("precision")], sort_keys=True).encode()
    ).hexdigest()


def read(path: Path) -> Manifest | None:
    """The manifest at ``path``; ``None`` if there is none or it cannot be understood (then it is pulled anew)."""
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def write(path: Path, manifest: Manifest) -> None:
    """Write in one step: a reader sees the old manifest, none, or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(manifest.model_dump_json(indent=1, exclude_none=True).encode())
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def sha256_of(path: Path, watch: Watch | None = None) -> str:
    """The SHA-256 of a file, hexadecimal; ``watch`` is told the bytes read so far."""
    digest = hashlib.sha256()
    done = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            done += len(block)
            if watch is not None:
                watch(done)
    return digest.hexdigest()


def describe_tree(root: Path, folder: Path) -> dict[str, StoredFile]:
    """Every file under ``folder``, by its path relative to ``root``."""
    return {
        path.relative_to(root).as_posix(): StoredFile(size=path.stat().st_size, sha256=sha256_of(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }
