"""Refuses model files that can execute code when they are loaded.

A pickle (PyTorch's ``.bin``, ``.pt``, ``.ckpt``) runs arbitrary code on loading. Accepted are GGUF, safetensors,
ONNX and CTranslate2's own ``model.bin`` in a faster-whisper folder, which is not a pickle. PyTorch saves a zip
with ``data.pkl``; pickles of older versions begin with the opcode PROTO.
"""

from __future__ import annotations

from pathlib import Path

PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".h5", ".keras"})
_CODE = frozenset({".py", ".pyc", ".so", ".dll", ".dylib"})
_FOLDERS = frozenset({"vllm", "mlx", "diffusion", "diffusion-video"})


def refusal(engine: str | None, path: Path) -> str | None:
    """Return the reason why this engine must not open ``path``, as a sentence, or ``None``."""
    if path.is_file() and path.suffix.lower() in PICKLES:
        return f"{path.name} may be a pickle, which can run code when it is loaded. Use GGUF, safetensors or ONNX."
    if engine in ("llamacpp", "llama-cpp-python"):
        return None if _begins(path, b"GGUF") else f"{path.name} is no GGUF file."
    if engine == "whisper":
        weights = path / "model.bin"
        if weights.is_file() and _is_pickle(weights):
            return f"{path.name}/model.bin is a pickle. Convert the model to CTranslate2, or pull one that is."
    if engine in _FOLDERS and path.is_dir():
        return _folder(path)
    return None


def _folder(path: Path) -> str | None:
    names = [file for file in path.rglob("*") if file.is_file()]
    for file in names:
        if file.suffix.lower() in PICKLES:
            return f"{file.name} in {path.name} may be a pickle, which can run code. Keep only safetensors there."
        if file.suffix.lower() in _CODE:
            return f"{file.name} in {path.name} is code, and a model's own code is never run. Remove it."
    return None


def _begins(path: Path, magic: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except OSError:
        return False


def _is_pickle(path: Path) -> bool:
    """Whether the file is a zip as PyTorch writes it, or begins with the opcode PROTO of a known protocol."""
    with path.open("rb") as file:
        head = file.read(4)
    return head[:2] == b"PK" or (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05" and head[2:4] != b"\0\0")
