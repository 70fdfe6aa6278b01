"""Write a Stable Diffusion pipeline of a few hundred kilobytes with random weights: ``make_painter.py FOLDER``.

Its pictures are noise, but they come from the real text encoder, UNet, scheduler and autoencoder of diffusers.
"""

from __future__ import annotations

import json
import string
import sys
import tempfile
from pathlib import Path
from typing import Any


def main() -> None:
    """Build it from configurations, and save it as safetensors."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    torch.manual_seed(0)
    width = 16
    tokenizer, text_encoder = _words(width)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    autoencoder = AutoencoderKL(
        sample_size=64,
        latent_channels=4,
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
    )
    pipeline = StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(sys.argv[1], safe_serialization=True)


def _words(width: int) -> tuple[Any, Any]:
    """A tokenizer of letters, and a text encoder of ``width`` for it."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = string.ascii_lowercase
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    size, length = len(vocabulary), 32
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "vocab.json").write_text(json.dumps({token: at for at, token in enumerate(vocabulary)}))
        (folder / "merges.txt").write_text("#version: 0.2\n")
        files = (str(folder / "vocab.json"), str(folder / "merges.txt"))
        tokenizer = CLIPTokenizer(*files, model_max_length=length)
    config = CLIPTextConfig(
        vocab_size=size,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=length,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
        pad_token_id=size - 1,
    )
    return tokenizer, CLIPTextModel(config)


if __name__ == "__main__":
    main()
