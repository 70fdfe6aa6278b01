"""Tells broken model files from whole ones by their heads and sizes, without reading the weights.

Formats: GGUF (see :mod:`catalog.files.gguf`); safetensors: https://huggingface.co/docs/safetensors, "Format".
"""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

from catalog.files.gguf import NotGguf, least_size

_CONFIGS = {"vllm": "config.json", "mlx": "config.json", "diffusion": "model_index.json"}
_CONFIGS["diffusion-video"] = _CONFIGS["diffusion"]
_GGUF_ENGINES = frozenset({"llamacpp", "llama-cpp-python"})
_SPLIT = re.compile(r"(.+)-\d{5}-of-(\d{5})\.gguf", re.IGNORECASE)
_ONNX_TAGS = frozenset({0x08, 0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42, 0x72, 0xA2, 0xCA})
"""First bytes of the fields of ``ModelProto`` in protobuf's encoding; source: onnx.proto."""
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
        signature = tuple(_state(file) for file in files)
        known = self._known.get((engine, path))
        if known is None or known[0] != signature:
            known = self._known[engine, path] = (signature, _damage(engine, path, files))
        return known[1]


def _state(file: Path) -> tuple[str, int, int]:
    try:
        stat = file.stat()
    except FileNotFoundError:
        return str(file), -1, -1
    return str(file), stat.st_mtime_ns, stat.st_size


def _files(engine: str | None, path: Path) -> list[Path]:
    if engine in _GGUF_ENGINES:
        return _parts(path)
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


def _parts(path: Path) -> list[Path]:
    """The files of a GGUF model: the parts of a split one, of which ``path`` is the first, up to a missing one."""
    split = _SPLIT.fullmatch(path.name)
    if split is None:
        return [path]
    parts = []
    for part in range(1, int(split[2]) + 1):
        parts.append(path.with_name(f"{split[1]}-{part:05}-of-{split[2]}.gguf"))
        if not parts[-1].exists():
            break
    return parts


def file_damage(path: Path) -> str | None:
    """Return why ``path`` is no file with content of its kind, or None. Raises OSError."""
    if not path.exists():
        return f"there is no {path}."
    if not path.is_file():
        return f"{path} is not a regular file."
    with path.open("rb") as file:
        head = file.read(256)
    if not head:
        return f"{path} is empty."
    if path.suffix == ".json" and not head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith((b"{", b"[")):
        return f"{path} is not JSON."
    if path.suffix == ".onnx" and head[0] not in _ONNX_TAGS:
        return f"{path} is not an ONNX graph."
    return None


def gguf_damage(path: Path) -> str | None:
    """Return why a GGUF model cannot be loaded: a part is missing or no file, or is damaged, or is cut short."""
    return next((reason for part in _parts(path) if (reason := _part_damage(part)) is not None), None)


def _part_damage(path: Path) -> str | None:
    if not path.is_file():
        return f"{path} is not a regular file." if path.exists() else f"there is no {path}."
    try:
        least = least_size(path)
    except NotGguf as error:
        return error.message if path.name in error.message else f"{path.name} is no GGUF file: {error.message}"
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
