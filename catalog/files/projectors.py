"""Finds the projector of a GGUF model that sees or hears: a second file beside it, named ``mmproj``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from catalog.errors import RoundhouseError
from catalog.files.gguf import GgufHeader, read_header
from catalog.files.quantization import quantization_of
from catalog.model import Capability

_PREFERRED = {"F16": 0, "BF16": 1, "Q8_0": 2}
_SAYS_NOTHING = re.compile(r"mmproj|model|gguf|vision|clip|fp16|fp32")
_PART = re.compile(r"-\d{5}-of-\d{5}$")


def is_projector(name: str) -> bool:
    """Whether a GGUF file of this name is a projector."""
    return "mmproj" in name.lower()


def senses(projector: Path) -> frozenset[Capability]:
    """The kinds of input that a projector adds: pictures, if its header says nothing or cannot be read."""
    header = _header(projector)
    told = {
        Capability.VISION: header.values.get("clip.has_vision_encoder"),
        Capability.AUDIO_INPUT: header.values.get("clip.has_audio_encoder"),
    }
    return frozenset(kind for kind, has in told.items() if has is True) or frozenset({Capability.VISION})


def projector_of(model: Path, files: Sequence[Path]) -> Path | None:
    """The projector among the files of the model's folder, in half precision if there are several.

    Its name must hold the model's, or no name at all in a folder whose models are one in several quantizations;
    and its output must be as wide as the model's embeddings, as far as the headers tell.
    """
    models = {_base(file) for file in files if not is_projector(file.name)}
    width = _header(model).integer("embedding_length")
    fitting = [
        file
        for file in files
        if is_projector(file.name) and _belongs(_base(file), _base(model), models) and _fits(file, width)
    ]
    return min(fitting, key=_rank, default=None)


def _belongs(projector: str, model: str, models: Iterable[str]) -> bool:
    if not projector:
        return set(models) == {model}
    return projector in model or model in projector


def _fits(projector: Path, width: int | None) -> bool:
    told = _header(projector).values.get("clip.vision.projection_dim")
    return width is None or not isinstance(told, int) or told == width


def _rank(projector: Path) -> tuple[int, str]:
    return _PREFERRED.get(quantization_of(projector.name) or "", 3), projector.name


def _base(file: Path) -> str:
    """The letters and digits of a file's name that are the model's own."""
    stem, quantization = _PART.sub("", file.stem), quantization_of(file.name)
    if quantization is not None:
        stem = re.sub(re.escape(quantization), "", stem, flags=re.IGNORECASE)
    return re.sub(r"[^a-z0-9]", "", _SAYS_NOTHING.sub("", stem.lower()))


def _header(file: Path) -> GgufHeader:
    try:
        return read_header(file)
    except (RoundhouseError, OSError):
        return GgufHeader()
