"""Rows of folders that transformers, vLLM and MLX open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from catalog.file_rows import folder_row
from catalog.model import Capability


def folder(path: Path, config: dict[str, Any], *, chats: bool = True) -> Path:
    made = path / "model"
    made.mkdir()
    (made / "config.json").write_text(json.dumps(config))
    (made / "model.safetensors").write_bytes(b"x")
    (made / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"} if chats else {}))
    return made


@pytest.mark.parametrize(
    ("config", "senses"),
    [
        ({"model_type": "llama"}, set()),
        ({"model_type": "gemma3", "vision_config": {}, "image_token_index": 5}, {Capability.VISION}),
        (
            {"model_type": "qwen2_vl", "vision_config": {}, "image_token_id": 5, "video_token_id": 6},
            {Capability.VISION, Capability.VIDEO_INPUT},
        ),
        (
            {"model_type": "gemma3n", "vision_config": {}, "audio_config": {}},
            {Capability.VISION, Capability.AUDIO_INPUT},
        ),
    ],
)
def test_the_config_tells_what_a_chat_model_sees_and_hears(
    tmp_path: Path, config: dict[str, Any], senses: set[Capability]
) -> None:
    row = folder_row(folder(tmp_path, config))
    kinds = {Capability.VISION, Capability.VIDEO_INPUT, Capability.AUDIO_INPUT}
    assert row.capabilities & kinds == senses
    assert (row.family, Capability.CHAT in row.capabilities) == (config["model_type"], True)


def test_a_model_without_a_chat_template_is_given_no_pictures(tmp_path: Path) -> None:
    row = folder_row(folder(tmp_path, {"model_type": "siglip", "vision_config": {}}, chats=False))
    assert Capability.VISION not in row.capabilities


def test_the_context_of_a_model_that_sees_stands_with_its_texts(tmp_path: Path) -> None:
    config = {"model_type": "qwen3_vl", "text_config": {"max_position_embeddings": 4096}}
    row = folder_row(folder(tmp_path, config))
    assert row.limits.context_window == 4096
