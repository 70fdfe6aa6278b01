"""Write the starter chat model as a Hugging Face folder in bf16: ``make_smollm2.py FILE.gguf FOLDER``.

MLX and vLLM read such folders. It runs in the pictures' environment, which has torch and transformers (with gguf).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Read, dequantise, write."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file, folder = Path(sys.argv[1]), Path(sys.argv[2])
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.bfloat16)
    # The weights are plain now, but the model still names the GGUF's quantiser and would refuse to be saved.
    for owner, name in ((model.config, "quantization_config"), (model, "hf_quantizer")):
        if hasattr(owner, name):
            delattr(owner, name)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main()
