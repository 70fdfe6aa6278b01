"""Selects the files of a repository that make one model, from their names and sizes. No I/O."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from catalog.errors import PullError
from catalog.files.quantization import quantization_of
from catalog.paths import safe_relative

_SPLIT = re.compile(r"-(?P<part>\d{5})-of-(?P<parts>\d{5})\.gguf$", re.IGNORECASE)
_WORKING_SHARE = 0.15
"""Memory reserved for compute buffers and a small KV cache, as a share of the model's size."""

_ONNX_NAMES = ("model.onnx", "onnx/model.onnx")
_ONNX_COMPANIONS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json")
_WHISPER_NEEDED = ("model.bin", "config.json")
_WHISPER_COMPANIONS = ("tokenizer.json", "preprocessor_config.json")
_INDEX = "model_index.json"
_VARIANT = re.compile(r"\.(fp16|bf16|non_ema)(\.|-\d)")
_OTHER_RUNTIMES = ("onnx", "openvino", "coreml", "flax")
_TRANSFORMERS_COMPANIONS = ("*.json", "*.model", "*.jinja", "*.tiktoken", "merges.txt", "vocab.txt")


class Kind(StrEnum):
    """The format of a repository's model, which determines the engine."""

    GGUF = "gguf"
    ONNX = "onnx"
    WHISPER = "whisper"
    TRANSFORMERS = "transformers"
    DIFFUSERS = "diffusers"
    FILES = "files"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository. Large files have a ``sha256``; small ones have git's blob id in ``sha1``."""

    name: str
    size: int
    sha256: str | None = None
    sha1: str | None = None
    saved_as: str | None = None

    @property
    def local(self) -> str:
        """The file's path on disk. An ONNX graph is moved beside its tokenizer, where engines open it."""
        return self.saved_as or self.name


@dataclass(frozen=True, slots=True)
class Selection:
    """The files of one model. ``entry`` is the file to open, or ``.`` for the folder."""

    kind: Kind
    files: tuple[RemoteFile, ...]
    entry: str
    quantization: str | None = None
    projector: str | None = None

    @property
    def size(self) -> int:
        """Bytes to fetch."""
        return sum(file.size for file in self.files)


def select(
    files: Sequence[RemoteFile],
    *,
    pattern: str | None = None,
    memory: int | None = None,
    only: Sequence[str] = (),
) -> Selection:
    """Select the model that ``pattern`` names, or the largest quantisation that fits ``memory`` bytes.

    ``pattern`` is a quantisation (``Q4_K_M``), a file or folder of the repository, or a glob. Only GGUF, ONNX,
    CTranslate2 and safetensors are accepted, as these formats cannot contain code. ``only`` are globs of files to
    take as they are, in one folder. Raises PullError that lists the available choices.
    """
    for file in files:
        safe_relative(file.name)
    if only:
        return _named_files(files, only)
    if any(_is_gguf(file.name) for file in files):
        return _gguf(files, pattern, memory)
    if pattern is not None:
        files = [file for file in files if _matches(file.name, pattern) or _companion(file.name)]
    by_name = {file.name: file for file in files}
    for name in _ONNX_NAMES:
        if name in by_name and "tokenizer.json" in by_name:
            return _onnx(by_name, name)
    if all(name in by_name for name in _WHISPER_NEEDED) and any("vocabulary" in n for n in by_name):
        wanted = {*_WHISPER_NEEDED, *_WHISPER_COMPANIONS}
        chosen = tuple(f for f in files if f.name in wanted or f.name.startswith("vocabulary."))
        return Selection(Kind.WHISPER, chosen, ".")
    if _INDEX in by_name:
        return _diffusers(files, memory)
    if any(name.endswith(".safetensors") for name in by_name):
        return _transformers(files, memory)
    raise PullError(
        "The repository holds no model that can be run: no GGUF, ONNX (with tokenizer.json), CTranslate2 or "
        "safetensors files" + (f" that match {pattern!r}." if pattern else ".")
    )


# ---- GGUF


@dataclass(frozen=True, slots=True)
class _Group:
    """A complete GGUF model: one file, or all parts of a split one, in order."""

    name: str
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def _gguf(files: Sequence[RemoteFile], pattern: str | None, memory: int | None) -> Selection:
    groups = _groups([f for f in files if _is_gguf(f.name) and not _is_extra(f.name)])
    candidates = [g for g in groups if pattern is None or _group_matches(g, pattern)]
    if not candidates:
        there = ", ".join(sorted({_label(group) for group in groups}))[:400] or "none"
        raise PullError(f"No GGUF file of the repository matches {pattern!r}. There are: {there}.")
    fitting = [g for g in candidates if memory is None or g.size * (1 + _WORKING_SHARE) <= memory]
    if not fitting:
        smallest = min(candidates, key=lambda g: g.size)
        raise PullError(
            f"Nothing fits: the smallest choice, {_label(smallest)}, takes {_gib(smallest.size)} and a share to "
            f"work in; this machine has {_gib(memory or 0)} for it."
        )
    chosen = max(fitting, key=lambda g: (g.size, g.name))
    projector = _projector(files)
    return Selection(
        Kind.GGUF,
        (*chosen.files, *([projector] if projector else [])),
        entry=chosen.files[0].name,
        quantization=quantization_of(chosen.files[0].name),
        projector=projector.name if projector else None,
    )


def _groups(files: Sequence[RemoteFile]) -> list[_Group]:
    """Group files into complete models; a split model that lacks a part is left out."""
    groups = []
    parts: dict[tuple[str, int], dict[int, RemoteFile]] = {}
    for file in files:
        match = _SPLIT.search(file.name)
        if match is None:
            groups.append(_Group(file.name, (file,)))
        else:
            stem = file.name[: match.start()]
            parts.setdefault((stem, int(match["parts"])), {})[int(match["part"])] = file
    for (stem, count), found in parts.items():
        if sorted(found) == list(range(1, count + 1)):
            groups.append(_Group(f"{stem}.gguf", tuple(found[index] for index in sorted(found))))
    return groups


def _group_matches(group: _Group, pattern: str) -> bool:
    named = quantization_of(group.files[0].name)
    if named is not None and named.lower() == pattern.lower():
        return True
    return _matches(group.name, pattern) or any(_matches(file.name, pattern) for file in group.files)


def _label(group: _Group) -> str:
    return quantization_of(group.files[0].name) or group.name


def _projector(files: Sequence[RemoteFile]) -> RemoteFile | None:
    """Return the image projector of a vision model, in half precision if there are several."""
    found = [file for file in files if _is_gguf(file.name) and _stem(file.name).startswith("mmproj")]
    found += [f for f in files if _is_gguf(f.name) and "mmproj" in _stem(f.name) and f not in found]
    if not found:
        return None
    order = {"F16": 0, "BF16": 1, "Q8_0": 2}

    def rank(file: RemoteFile) -> tuple[int, int]:
        return order.get(quantization_of(file.name) or "", 3), file.size

    return min(found, key=rank)


def _is_gguf(name: str) -> bool:
    return name.lower().endswith(".gguf")


def _is_extra(name: str) -> bool:
    """Whether the file is a projector, an importance matrix or an adapter, and not a model."""
    stem = _stem(name)
    return "mmproj" in stem or "imatrix" in stem or stem.startswith("lora")


# ---- folders


def _onnx(by_name: dict[str, RemoteFile], graph: str) -> Selection:
    wanted = [by_name[name] for name in _ONNX_COMPANIONS if name in by_name]
    # A graph's weights may be in a second file (model.onnx_data), which has to stay beside it.
    wanted += [
        replace(file, saved_as=name.rsplit("/", 1)[-1])
        for name, file in by_name.items()
        if name == graph or name.startswith(f"{graph}_data")
    ]
    pooling = by_name.get("1_Pooling/config.json")
    if pooling is not None:
        wanted.append(pooling)
    return Selection(Kind.ONNX, tuple(wanted), entry=".")


def _transformers(files: Sequence[RemoteFile], memory: int | None) -> Selection:
    chosen = tuple(
        file
        for file in files
        if "/" not in file.name
        and (
            file.name.endswith(".safetensors")
            or any(fnmatch.fnmatchcase(file.name, pattern) for pattern in _TRANSFORMERS_COMPANIONS)
        )
    )
    return _within(Selection(Kind.TRANSFORMERS, chosen, "."), memory)


def _diffusers(files: Sequence[RemoteFile], memory: int | None) -> Selection:
    """A pipeline of diffusers: its index, and in each component's folder the weights in full precision."""
    chosen = []
    for file in files:
        folder, _, name = file.name.rpartition("/")
        if file.name == _INDEX or (
            folder
            and not folder.startswith(_OTHER_RUNTIMES)
            and not _VARIANT.search(name)
            and (name.endswith(".safetensors") or _companion(name))
        ):
            chosen.append(file)
    if not any(file.name.endswith(".safetensors") for file in chosen):
        raise PullError("The repository's pipeline has no safetensors; other formats of weights can run code.")
    return _within(Selection(Kind.DIFFUSERS, tuple(chosen), "."), memory)


def _named_files(files: Sequence[RemoteFile], only: Sequence[str]) -> Selection:
    chosen = []
    for pattern in only:
        found = [file for file in files if _matches(file.name, pattern)]
        if not found:
            raise PullError(f"The repository has no file {pattern!r}, which the model needs.")
        chosen += [replace(file, saved_as=file.name.rsplit("/", 1)[-1]) for file in found]
    return Selection(Kind.FILES, tuple(dict.fromkeys(chosen)), ".")


def _within(selection: Selection, memory: int | None) -> Selection:
    if memory is not None and selection.size * (1 + _WORKING_SHARE) > memory:
        raise PullError(
            f"The model takes {_gib(selection.size)} and a share to work in; "
            f"this machine has {_gib(memory)} for it."
        )
    return selection


# ---- names


def _matches(name: str, pattern: str) -> bool:
    lowered, wanted = name.lower(), pattern.lower().strip("/")
    base = lowered.rsplit("/", 1)[-1]
    return (
        lowered.startswith(f"{wanted}/")
        or fnmatch.fnmatchcase(lowered, wanted)
        or fnmatch.fnmatchcase(base, wanted)
    )


def _companion(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in _TRANSFORMERS_COMPANIONS)


def _stem(name: str) -> str:
    return name.rsplit("/", 1)[-1].lower()


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
