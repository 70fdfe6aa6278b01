"""Settings of the objects that callers keep."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from catalog.validation.section import Section

DAY = 86_400.0
MIB = 1 << 20


class StorageSettings(Section):
    """Bounds of what is kept for each key: responses, conversations, chat completions, files, batches."""

    store: Literal["default", "asked", "never"] = Field(
        default="default",
        description="which answers are kept: as OpenAI does (responses unless store is false, chats if it is "
        "true), only those with store: true, or none",
    )
    provider_ids: tuple[str, ...] = Field(
        default=(),
        description="ids at providers, whose accounts all keys share, that keys which are not admin's may name: "
        "prompts, vector stores, files, containers, skills, addresses such as gs://bucket/*; * stands for any "
        "characters",
        examples=[["pmpt_abc123", "vs_*"]],
    )
    keep: float = Field(default=30 * DAY, gt=0, description="seconds for which answers and batches are kept")
    bytes_per_key: int = Field(
        default=256 * MIB, gt=0, description="room for one key's records; the oldest answers give way to new ones"
    )
    files: Path | None = Field(
        default=None,
        description="folder of files and batches; default: files in data_dir. Gateways that share a state in "
        "Redis need a folder that all of them see",
        examples=["/srv/roundhouse/files"],
    )
    file_bytes: int = Field(default=512 * MIB, gt=0, description="largest uploaded file")
    file_bytes_per_key: int = Field(default=4096 * MIB, gt=0, description="room for one key's files, in all")
    image_url_seconds: float = Field(
        default=3600.0, gt=0, description="seconds for which the address of a picture works that an answer names"
    )
    batches: int = Field(default=2, ge=0, description="batches that one process works on at a time; 0: none")
    batch_lines: int = Field(default=50_000, gt=0, description="most lines of a batch")
    batch_concurrency: int = Field(default=16, gt=0, description="lines of a batch that are asked at a time")
    batch_fallback: bool = Field(
        default=True,
        description="lines that a provider's batch API does not take or answer are asked one by one, at the full "
        "price; false: they are refused",
    )
    background: int = Field(default=64, ge=0, description="background responses that one process makes at a time")
