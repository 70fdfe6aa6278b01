"""Tells broken model files from whole ones by their heads and sizes, without reading the weights.

Formats: GGUF (see :mod:`catalog.gguf`); safetensors: https://huggingface.co/docs/safetensors, "Format".
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

from catalog.gguf import NotGguf, least_size

_CONFIGS = {"vllm": "config.json", "mlx": "config.json", "diffusion": "model_index.json"}
_GGUF_ENGINES = frozenset({"llamacpp", "llama-cpp-python"})
_LONGEST_HEAD = 100_000_000
"""Bytes of a safetensors head, as the format limits it."""

Signature = tuple[tuple[str, int, int], ...]


class DamageCheck:
    """Checks the files of models; those that have not changed since are not read again."""

    def __init__(self) -> None:
        self._known: dict[tuple[str | None, Path], tuple[Signature, str | None]] = {}

    def reason(self, engine: str | None, path: Path) -> str | None:
        """Return why the engine will fail to open ``path``, as a sentence, or None. Raises OSError."""
        files = _files(engine, path)
        signature = tuple((str(file), (stat := file.stat()).st_mtime_ns, stat.st_size) for file in files)
        known = self._known.get((engine, path))
        if known is None or known[0] != signature:
            known = self._known[engine, path] = (signature, _damage(engine, path, files))
        return known[1]


def _files(engine: str | None, path: Path) -> list[Path]:
    if engine in _GGUF_ENGINES:
        return [path]
    if engine in _CONFIGS and path.is_dir():
        return sorted(
            file for file in path.rglob("*") if file.suffix in (".json", ".safetensors") and file.is_file()
        )
    return []


def _damage(engine: str | None, path: Path, files: list[Path]) -> str | None:
    if engine in _GGUF_ENGINES:
        return gguf_damage(path)
    config = _CONFIGS.get(engine or "")
    if config is None or not path.is_dir():
        return None
    if not isinstance(_json(path / config), dict):
        return f"{path.name} has no readable {config}."
    cut = next((file for file in files if file.suffix == ".safetensors" and not _whole_safetensors(file)), None)
    return None if cut is None else f"{cut.name} in {path.name} is damaged or cut short."


def gguf_damage(path: Path) -> str | None:
    """Return why a GGUF file cannot be loaded: its head is damaged, or its tensors end before its end."""
    try:
        least = least_size(path)
    except NotGguf as error:
        return error.message
    size = path.stat().st_size
    if size < least:
        return f"{path.name} is cut short: it has {size} bytes, and its tensors need more than {least}."
    return None


def _whole_safetensors(path: Path) -> bool:
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size - 8, _LONGEST_HEAD):
                return False
            head = json.loads(file.read(length))
        ends = [int(tensor["data_offsets"][1]) for name, tensor in head.items() if name != "__metadata__"]
    except (struct.error, ValueError, KeyError, IndexError, TypeError, AttributeError):
        return False
    return bool(size >= 8 + length + max(ends, default=0))


def _json(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
