"""Which files a model may be made of: formats that hold numbers, and never code.

A pickle (PyTorch's ``.bin``, ``.pt``, ``.ckpt``) runs what it likes when it is loaded. So a model is GGUF,
safetensors, ONNX, or CTranslate2's own ``model.bin`` within a faster-whisper folder, which is no pickle. Source of
the ways a pickle is recognised: PyTorch saves a zip with ``data.pkl``, older ones begin with the opcode PROTO.
"""

from __future__ import annotations

from pathlib import Path

PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".h5", ".keras"})
_CODE = frozenset({".py", ".pyc", ".so", ".dll", ".dylib"})
_FOLDERS = frozenset({"vllm", "mlx", "diffusion"})


def refusal(engine: str | None, path: Path) -> str | None:
    """Why this file or folder is not opened by this engine, in a sentence; ``None`` if it may be."""
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
    """A zip as PyTorch writes it, or the pickle opcode PROTO with a protocol that exists."""
    with path.open("rb") as file:
        head = file.read(4)
    return head[:2] == b"PK" or (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05" and head[2:4] != b"\0\0")
