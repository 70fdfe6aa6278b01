"""Quantisation names, read from the names of GGUF files.

The names are those of llama.cpp (``llama_ftype`` and ``ggml_type``); bits per weight are those that its
``quantize`` tool documents for an 8B Llama 3.1, rounded. They only order and estimate; where a file's size is
known, that is used instead.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

BITS_PER_WEIGHT: dict[str, float] = {
    "F32": 32.0,
    "BF16": 16.0,
    "F16": 16.0,
    "FP8": 8.0,
    "Q8_0": 8.5,
    "Q8_1": 9.0,
    "Q8_K": 9.1,
    "Q6_K": 6.56,
    "Q5_1": 6.0,
    "Q5_K": 5.7,
    "Q5_K_L": 5.8,
    "Q5_K_M": 5.7,
    "Q5_K_S": 5.57,
    "Q5_0": 5.5,
    "Q4_1": 5.0,
    "Q4_K": 4.89,
    "Q4_K_L": 5.0,
    "Q4_K_M": 4.89,
    "Q4_K_S": 4.67,
    "IQ4_NL": 4.68,
    "Q4_0": 4.5,
    "NVFP4": 4.5,
    "IQ4_XS": 4.46,
    "Q3_K_L": 4.3,
    "MXFP4": 4.25,
    "Q3_K": 4.0,
    "Q3_K_M": 4.0,
    "IQ3_M": 3.76,
    "IQ3_S": 3.66,
    "Q3_K_S": 3.64,
    "IQ3_XS": 3.5,
    "IQ3_XXS": 3.25,
    "Q2_K": 3.16,
    "Q2_K_L": 3.3,
    "Q2_K_S": 2.97,
    "IQ2_M": 2.93,
    "IQ2_S": 2.74,
    "IQ2_XS": 2.59,
    "IQ2_XXS": 2.38,
    "IQ1_M": 2.15,
    "TQ2_0": 2.06,
    "IQ1_S": 2.0,
    "TQ1_0": 1.69,
    "Q1_0": 1.1,
}
"""Bits per weight by name, without the prefixes and suffixes of a packager."""

_SIZES = "XXS|XS|XXL|XL|NL|S|M|L"
_PATTERN = re.compile(
    rf"""(?<![A-Za-z0-9])
    (?P<ud>UD[-_.])?                                  # a packager's dynamic mix of types
    (?P<base>
        BF16 | FP16 | F16 | FP32 | F32 | FP8
      | (?:MXFP4|NVFP4)(?:[-_]MOE)?
      | IQ[1-4]_(?:{_SIZES})
      | TQ[12]_0
      | Q[2-8]_K(?:_(?:{_SIZES}))?
      | Q[1458]_[01]
    )
    (?P<interleaved>_[48]_[48](?:_\d)?)?              # repacked for one instruction set: Q4_0_4_4
    (?![A-Za-z0-9])""",
    re.VERBOSE | re.IGNORECASE,
)
_SPELLINGS = {"FP16": "F16", "FP32": "F32"}


@dataclass(frozen=True, slots=True)
class Quantization:
    """A quantisation by its full name (``UD-Q4_K_XL``) and its bits per weight."""

    name: str
    bits_per_weight: float

    def bytes_for(self, parameters: int) -> int:
        """About how many bytes ``parameters`` weights take."""
        return int(parameters * self.bits_per_weight / 8)


def parse(file_name: str) -> Quantization | None:
    """The quantisation that a file's name tells, or ``None``. The last one wins: names end with it.

    ``BF16`` and ``F16`` are two types; ``Q3_K_L``, ``IQ4_XS``, ``MXFP4_MOE`` and ``UD-IQ2_M`` are whole names.
    """
    stem = file_name.rsplit("/", 1)[-1]
    found = list(_PATTERN.finditer(stem))
    if not found:
        return None
    match = found[-1]
    base = match["base"].upper().replace("-", "_")
    base = _SPELLINGS.get(base, base)
    name = ("UD-" if match["ud"] else "") + base + (match["interleaved"] or "")
    return Quantization(name, _bits(base))


def _bits(base: str) -> float:
    if base in BITS_PER_WEIGHT:
        return BITS_PER_WEIGHT[base]
    root = base.removesuffix("_MOE")
    while root not in BITS_PER_WEIGHT:
        root = root.rsplit("_", 1)[0]
    # XL mixes keep more tensors at a higher type than the plain name: about a twentieth more.
    return BITS_PER_WEIGHT[root] * (1.05 if base.endswith(("XL", "XXL")) else 1.0)
