"""The kinds of work that go on after their requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.api.doors import DOORS
from server.batches.dialects import AnthropicDialect, OpenAIDialect
from server.batches.pacing import Pacer
from server.batches.work import BatchWork
from server.calibration.work import Calibrations
from server.history.background import BackgroundResponses
from server.models.pulls import PullWork
from server.storage.runner import BackgroundWork
from server.videos.work import VideoWork

if TYPE_CHECKING:
    from server.runtime import Runtime
    from server.settings import Settings


def works(runtime: Runtime, settings: Settings) -> tuple[BackgroundWork, ...]:
    """Every kind of work, on the parts behind the gate."""
    longest = settings.server.limits.body_bytes
    pacer = Pacer(lambda: runtime.traffic)
    messages = AnthropicDialect(DOORS["/v1/messages"])
    pulls = (
        ()
        if runtime.library is None or runtime.pulls is None
        else (PullWork(runtime.pulls.kind, runtime.storage, runtime.library),)
    )
    return (
        *pulls,
        BatchWork(runtime, settings.storage, OpenAIDialect(DOORS), pacer, longest_line=longest),
        BatchWork(runtime, settings.storage, messages, pacer, longest_line=longest),
        BackgroundResponses(runtime),
        VideoWork(runtime),
        Calibrations(runtime),
    )
