"""A model of Pocket TTS with random weights, small enough for tests: it makes sound, and no words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_SMALL = {"dimension": 32, "n_filters": 4}
_LAYERS = {
    "d_model": 32, "num_heads": 2, "num_layers": 1, "dim_feedforward": 32, "input_dimension": 32,
    "output_dimensions": [32],
}  # fmt: skip


def write_pocket_model(folder: Path) -> None:
    """Write weights, configuration and tokenizer, as the library itself saves and reads them."""
    import safetensors.torch
    import torch
    import yaml
    from pocket_tts import TTSModel
    from pocket_tts.utils.config import CONFIGS_DIR
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder.mkdir(parents=True, exist_ok=True)
    letters = ["<unk>", *map(chr, range(32, 127))]
    tokenizer = Tokenizer(models.WordLevel({each: n for n, each in enumerate(letters)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = yaml.safe_load((Path(CONFIGS_DIR) / "english_2m_2026-10.yaml").read_text())
    for name in ("weights_path", "weights_path_without_voice_cloning"):
        del config[name]
    table = {"tokenizer": "tokenizers", "tokenizer_path": str(folder / "tokenizer.json"), "n_bins": len(letters)}
    config["flow_lm"]["lookup_table"].update(table)
    codec = config["mimi"]
    for part in ("seanet", "decoder_seanet"):
        codec[part].update(_SMALL)
    for part in ("transformer", "decoder_transformer"):
        codec[part].update(_LAYERS)
    codec["outer_dim"] = codec["quantizer"]["output_dimension"] = 32
    (folder / "config.yaml").write_text(json.dumps(config))
    torch.manual_seed(1)
    model = TTSModel.load_model(config=folder / "config.yaml")
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    name = "flow_lm.speaker_proj_weight"  # zeros in a model without weights: every voice would be the same
    weights[name] = torch.randn_like(weights[name])
    for name, tensor in weights.items():
        if name.startswith("flow_lm.") and "self_attn" in name:
            weights[name] = 30 * tensor  # so that what was heard is louder than the noise of the weights
    safetensors.torch.save_file(weights, str(folder / "model.safetensors"))
