"""Manifests of pulled models: their files with sizes and digests, and their catalogue rows.

One JSON file per model under ``rows/``, written last and atomically, so that its presence means a complete pull.
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

    ``fingerprint`` identifies the pulled source: once a row's pin changes, the files no longer match it. ``row``
    is the catalogue row of a model pulled by address, which no settings file contains.
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
        """Return the first file that is missing or has another size, or ``None``. No file is read."""
        for name, file in self.files.items():
            try:
                if within(root, name).stat().st_size != file.size:
                    return name
            except (OSError, PullError):
                return name
        return None


def fingerprint(model: Model) -> str:
    """Hash the source of ``model`` and the options that affect its conversion."""
    source = model.source.model_dump(mode="json", exclude_defaults=True)
    for pin in (*source.get("wheels", ()), *source.get("tarballs", ())):
        pin.pop("size", None)  # used for the progress bar only
    return hashlib.sha256(
        json.dumps([source, model.options.get("precision")], sort_keys=True).encode()
    ).hexdigest()


def read(path: Path) -> Manifest | None:
    """Read the manifest at ``path``; ``None`` if it is missing or invalid, so that the model is pulled again."""
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def write(path: Path, manifest: Manifest) -> None:
    """Write atomically: a reader sees the old manifest, none, or the new one."""
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
    """Return the SHA-256 of a file, hexadecimal; ``watch`` is called with the bytes read so far."""
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
    """Describe every file under ``folder``, by its path relative to ``root``."""
    return {
        path.relative_to(root).as_posix(): StoredFile(size=path.stat().st_size, sha256=sha256_of(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }
