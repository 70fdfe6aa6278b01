"""Quantisation names in file names."""

from __future__ import annotations

import pytest

from catalog.files.quantization import quantization_of


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("model-BF16.gguf", "BF16"),
        ("model-F16.gguf", "F16"),
        ("model.fp16.gguf", "F16"),
        ("model-F32.gguf", "F32"),
        ("Llama-3.1-8B-Instruct-Q4_K_M.gguf", "Q4_K_M"),
        ("model.q3_k_l.gguf", "Q3_K_L"),
        ("model-Q3_K_S.gguf", "Q3_K_S"),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1"),
        ("model-Q8_0-00001-of-00003.gguf", "Q8_0"),
        ("model-Q6_K.gguf", "Q6_K"),
        ("model-Q6_K_L.gguf", "Q6_K_L"),
        ("model-IQ4_XS.gguf", "IQ4_XS"),
        ("model-IQ2_XXS.gguf", "IQ2_XXS"),
        ("model-IQ4_NL.gguf", "IQ4_NL"),
        ("model-IQ1_M.gguf", "IQ1_M"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("model-MXFP4_MOE.gguf", "MXFP4_MOE"),
        ("Qwen3-30B-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("model-UD-IQ2_M.gguf", "UD-IQ2_M"),
        ("model-TQ1_0.gguf", "TQ1_0"),
        ("model-Q4_0_4_8.gguf", "Q4_0_4_8"),
        ("Q4_K_M/some-Q4_K_M.gguf", "Q4_K_M"),
    ],
)
def test_the_whole_name_is_read(file: str, name: str) -> None:
    assert quantization_of(file) == name


@pytest.mark.parametrize("file", ["model.gguf", "FAQ4_K.gguf", "q4.gguf", "Qwen2-7B.gguf", "IQ9_XS.gguf", ""])
def test_a_name_without_one_has_none(file: str) -> None:
    assert quantization_of(file) is None
