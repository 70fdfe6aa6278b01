"""Reads the metadata at the head of a GGUF file, without the tensors.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian. Files are
untrusted, so every count and length is checked against a limit before memory is allocated.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from catalog.errors import RoundhouseError

Scalar = int | float | bool | str

_MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
_FORMATS: dict[int, str] = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_MAX_PAIRS = 1 << 16
_MAX_KEY = 1 << 16
_MAX_STRING = 1 << 24
_MAX_ITEMS = 1 << 24
_MAX_DIMENSIONS = 8
_KEPT_ITEMS = 4096
_KEPT_STRINGS = 64


class NotGguf(RoundhouseError):
    """The file is not GGUF, is truncated, or declares impossible sizes."""

    code = "not_gguf"


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """The key-value pairs of a GGUF file: ``values`` are scalars, ``arrays`` those of at most 4096 numbers or 64
    strings. Longer arrays, such as vocabularies, are skipped.
    """

    values: dict[str, Scalar] = field(default_factory=dict)
    arrays: dict[str, tuple[Scalar, ...]] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        """``general.architecture``, for example ``llama`` or ``bert``; empty if it is missing."""
        return str(self.values.get("general.architecture", ""))

    def integer(self, key: str) -> int | None:
        """Return an integer by its key without the architecture (``context_length``); of an array, the largest."""
        name = f"{self.architecture}.{key}"
        value = self.values.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        numbers = [v for v in self.arrays.get(name, ()) if isinstance(v, int) and not isinstance(v, bool)]
        return max(numbers, default=None)

    def text(self, key: str) -> str | None:
        """Return a string by its full key."""
        value = self.values.get(key)
        return value if isinstance(value, str) else None


def read_header(path: Path) -> GgufHeader:
    """Read the header of ``path``. Raises NotGguf, and OSError if the file cannot be opened."""
    with path.open("rb") as file:
        try:
            return _header(file)
        except (struct.error, UnicodeDecodeError, KeyError, EOFError) as error:
            raise NotGguf(f"{path.name} is not a whole GGUF file: its header cannot be read.") from error


def least_size(path: Path) -> int:
    """Return the bytes that the file must at least have: where its last tensor begins.

    Raises NotGguf, and OSError if the file cannot be opened.
    """
    with path.open("rb") as file:
        try:
            header = _header(file)
            return _last_tensor(file, header)
        except (struct.error, UnicodeDecodeError, KeyError, EOFError) as error:
            raise NotGguf(f"{path.name} is not a whole GGUF file: its header cannot be read.") from error


def _last_tensor(file: BinaryIO, header: GgufHeader) -> int:
    """Read the descriptions of the tensors, after the header."""
    begin = file.tell()
    file.seek(8)
    (tensors,) = struct.unpack("<Q", file.read(8))
    file.seek(begin)
    if tensors > _MAX_PAIRS:
        raise NotGguf(f"The GGUF header declares {tensors} tensors, more than {_MAX_PAIRS}.")
    last = -1
    for _ in range(tensors):
        _string(file, _MAX_KEY)
        (dimensions,) = struct.unpack("<I", file.read(4))
        if dimensions > _MAX_DIMENSIONS:
            raise NotGguf(f"The GGUF header declares a tensor of {dimensions} dimensions.")
        file.seek(8 * dimensions + 4, 1)
        (offset,) = struct.unpack("<Q", file.read(8))
        last = max(last, offset)
    if last < 0:
        return file.tell()
    alignment = header.values.get("general.alignment", 32)
    step = alignment if isinstance(alignment, int) and alignment > 0 else 32
    return -(-file.tell() // step) * step + last + 1


def _header(file: BinaryIO) -> GgufHeader:
    if file.read(4) != _MAGIC:
        raise NotGguf("The file does not begin with the letters GGUF.")
    (version,) = struct.unpack("<I", file.read(4))
    if version not in (2, 3):
        raise NotGguf(f"GGUF version {version} is not known; 2 and 3 are.")
    _tensors, pairs = struct.unpack("<QQ", file.read(16))
    if pairs > _MAX_PAIRS:
        raise NotGguf(f"The GGUF header declares {pairs} entries, more than {_MAX_PAIRS}.")
    header = GgufHeader()
    for _ in range(pairs):
        key = _string(file, _MAX_KEY)
        (kind,) = struct.unpack("<I", file.read(4))
        if kind == _ARRAY:
            _array(file, key, header)
        else:
            header.values[key] = _scalar(file, kind)
    return header


def _array(file: BinaryIO, key: str, header: GgufHeader) -> None:
    kind, count = struct.unpack("<IQ", file.read(12))
    if count > _MAX_ITEMS:
        raise NotGguf(f"The GGUF array {key[:80]!r} declares {count} items, more than {_MAX_ITEMS}.")
    if kind == _STRING and count <= _KEPT_STRINGS:
        header.arrays[key] = tuple(_string(file, _MAX_KEY) for _ in range(count))
    elif kind == _STRING:
        for _ in range(count):
            (length,) = struct.unpack("<Q", file.read(8))
            _skip(file, length)
    elif kind == _ARRAY:
        raise NotGguf("A GGUF array of arrays is not supported.")
    elif count <= _KEPT_ITEMS:
        header.arrays[key] = tuple(_scalar(file, kind) for _ in range(count))
    else:
        _skip(file, count * struct.calcsize(_FORMATS[kind]))


def _scalar(file: BinaryIO, kind: int) -> Scalar:
    if kind == _STRING:
        return _string(file, _MAX_STRING)
    form = _FORMATS[kind]
    value: Scalar = struct.unpack(form, file.read(struct.calcsize(form)))[0]
    return value


def _string(file: BinaryIO, limit: int) -> str:
    (length,) = struct.unpack("<Q", file.read(8))
    if length > limit:
        raise NotGguf(f"The GGUF header declares a string of {length} bytes, more than {limit}.")
    data = file.read(length)
    if len(data) != length:
        raise EOFError
    return data.decode("utf-8", errors="replace")


def _skip(file: BinaryIO, length: int) -> None:
    if length > _MAX_STRING * 16:
        raise NotGguf(f"The GGUF header declares a block of {length} bytes.")
    file.seek(length, 1)
