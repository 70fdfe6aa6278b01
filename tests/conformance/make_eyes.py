"""Makes a small model of Gemma 3's kind that sees, with random weights, as a folder that MLX opens.

It runs in the environment of the engine mlx: ``make_eyes.py FOLDER``. The model answers at random, but not
blindly: each picture has tokens of its own, and another picture other ones.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

SIDE, PATCH, TOKENS = 32, 8, 4
"""Pixels of a picture's side and of a patch's, and the tokens of a picture."""
SPECIAL = (
    *("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
    *("<start_of_image>", "<end_of_image>", "<image_soft_token>"),
)
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<start_of_image>{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def write_tokenizer(folder: Path) -> dict[str, int]:
    """Write a tokenizer of bytes; return the ids of :data:`SPECIAL`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {name: at for at, name in enumerate((*SPECIAL, *letters))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    pictures = {
        "image_token": "<image_soft_token>",
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
    }
    told = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **named,
        **pictures,
        "extra_special_tokens": pictures,
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return vocabulary


def write_model(folder: Path) -> None:
    """Write the folder: configuration, tokenizer, processor and weights."""
    import mlx.core as mx
    from mlx.utils import tree_flatten, tree_unflatten
    from mlx_vlm.models import gemma3

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = write_tokenizer(folder)
    size = len(vocabulary)
    config = {
        "model_type": "gemma3",
        "architectures": ["Gemma3ForConditionalGeneration"],
        "vocab_size": size,
        "hidden_size": 64,
        "image_token_index": vocabulary["<image_soft_token>"],
        "mm_tokens_per_image": TOKENS,
        "pad_token_id": vocabulary["<pad>"],
        "eos_token_id": [vocabulary["<eos>"], vocabulary["<end_of_turn>"]],
        "text_config": {
            "model_type": "gemma3_text",
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "intermediate_size": 128,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "vocab_size": size,
            "query_pre_attn_scalar": 16,
            "sliding_window": 512,
            "sliding_window_pattern": 2,
            "mm_tokens_per_image": TOKENS,
            "max_position_embeddings": 4096,
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            "num_hidden_layers": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_attention_heads": 4,
            "patch_size": PATCH,
            "image_size": SIDE,
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    processor = {
        "processor_class": "Gemma3Processor",
        "image_processor_type": "Gemma3ImageProcessor",
        "image_seq_length": TOKENS,
        "size": {"height": SIDE, "width": SIDE},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "rescale_factor": 1 / 255,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    (folder / "processor_config.json").write_text(
        json.dumps({"processor_class": "Gemma3Processor", "image_seq_length": TOKENS})
    )
    mx.random.seed(1)
    whole = gemma3.ModelConfig.from_dict(config)
    whole.text_config = gemma3.TextConfig.from_dict(config["text_config"])
    whole.vision_config = gemma3.VisionConfig.from_dict(config["vision_config"])
    model = gemma3.Model(whole)
    drawn = [
        (name, value if value.ndim < 2 else mx.random.normal(value.shape) / value.shape[-1] ** 0.5)
        for name, value in tree_flatten(model.parameters())
    ]
    model.update(tree_unflatten(drawn))
    mx.save_safetensors(
        str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())), {"format": "mlx"}
    )


if __name__ == "__main__":
    write_model(Path(sys.argv[1]))
