"""Settings of what stays between requests: the objects that callers keep, and their realtime sessions."""

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
    videos: int = Field(
        default=16,
        ge=0,
        description="videos that one process works on at a time, beside those of providers; one key has three "
        "quarters at most; 0: none",
    )
    background: int = Field(
        default=64,
        ge=0,
        description="background responses that one process makes at a time; one key has three quarters at most",
    )


class RealtimeSettings(Section):
    """Sessions over a WebSocket (/v1/realtime): how many, how long, how much each keeps. Sizes in bytes."""

    sessions: int = Field(default=64, ge=0, description="most open sessions in one gateway process; 0 serves none")
    sessions_per_key: int | None = Field(
        default=None,
        gt=0,
        description="most open sessions with one key, in one gateway process; by default three quarters of all, "
        "less while others have some",
        examples=[8],
    )
    session_seconds: float = Field(default=3600.0, gt=0, description="seconds until a session ends")
    idle_seconds: float = Field(
        default=900.0, gt=0, description="seconds without an event of the client after which its session ends"
    )
    message_bytes: int = Field(default=16 * MIB, ge=4096, description="largest event of a client")
    buffer_seconds: float = Field(
        default=300.0,
        ge=1,
        description="longest audio of one turn: what an input buffer holds before it is committed",
    )
    audio_bytes: int = Field(
        default=32 * MIB,
        ge=0,
        description="audio of earlier turns that a session keeps for conversation.item.retrieve, the newest",
    )
    text_bytes: int = Field(
        default=8 * MIB, gt=0, description="text and pictures of a session's conversation, as they were sent"
    )
