"""Quantisation names, read from the names of GGUF files.

The names are those of llama.cpp: ``llama_ftype`` and ``ggml_type``.
"""

from __future__ import annotations

import re

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


def quantization_of(file_name: str) -> str | None:
    """The quantisation that a file's name contains, in full (``UD-Q4_K_XL``), or ``None``.

    Of several the last one counts, as names end with it. ``BF16`` and ``F16`` are two types; ``Q3_K_L``,
    ``IQ4_XS``, ``MXFP4_MOE`` and ``UD-IQ2_M`` are whole names.
    """
    found = list(_PATTERN.finditer(file_name.rsplit("/", 1)[-1]))
    if not found:
        return None
    match = found[-1]
    base = match["base"].upper().replace("-", "_")
    return ("UD-" if match["ud"] else "") + _SPELLINGS.get(base, base) + (match["interleaved"] or "")
