"""Nothing that a caller asks for is lost on its way to a provider without a word.

``docs/FEATURES.md`` has the table; ``make features`` writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from anthropic.types.beta.message_create_params import MessageCreateParamsNonStreaming as BetaMessageParams
from openai.types import EmbeddingCreateParams, ModerationCreateParams
from openai.types.audio import SpeechCreateParams
from openai.types.audio.transcription_create_params import (
    TranscriptionCreateParamsNonStreaming as TranscriptionParams,
)
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsNonStreaming as CompletionParams
from openai.types.image_edit_params import ImageEditParamsNonStreaming as ImageEditParams
from openai.types.image_generate_params import ImageGenerateParamsNonStreaming as ImageParams
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming as ResponseParams

from tests.conformance.features.probe import Treatment, gateway
from tests.conformance.features.samples import DOORS
from tests.conformance.features.table import PAGE, cells, page

TYPES: Mapping[str, Any] = {
    "Chat": ChatParams,
    "Responses": ResponseParams,
    "Messages": BetaMessageParams,
    "Embeddings": EmbeddingCreateParams,
    "Completions": CompletionParams,
    "Moderations": ModerationCreateParams,
    "Images": ImageParams,
    "Image edits": ImageEditParams,
    "Speech": SpeechCreateParams,
    "Transcriptions": TranscriptionParams,
}


@pytest.mark.parametrize("door", TYPES)
def test_every_parameter_of_the_sdks_type_has_a_sample_or_is_the_gateways_own(door: str) -> None:
    known = TYPES[door].__required_keys__ | TYPES[door].__optional_keys__
    sampled = {sample.parameter for sample in DOORS[door].samples}
    assert known - sampled - DOORS[door].gateway.keys() == set()


async def test_nothing_is_lost_and_the_page_is_current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with gateway(tmp_path, monkeypatch.setenv) as asking:
        found = await cells(asking)
    faults = {
        cell: (result.treatment, result.detail)
        for cell, result in found.items()
        if result.treatment in (Treatment.LOST, Treatment.BROKEN)
    }
    assert faults == {}
    assert PAGE.read_text(encoding="utf-8") == page(found), "run `make features`"
