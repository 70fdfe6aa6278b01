"""Settings of realtime sessions."""

from __future__ import annotations

from pydantic import Field

from catalog.validation.section import Section

MIB = 1024 * 1024


class RealtimeSettings(Section):
    """Sessions over a WebSocket (/v1/realtime): how many, how long, how much each keeps. Sizes in bytes."""

    sessions: int = Field(default=64, ge=0, description="most open sessions in one gateway process; 0 serves none")
    sessions_per_key: int | None = Field(
        default=None,
        gt=0,
        description="most open sessions with one key, in one gateway process; by default without limit",
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
