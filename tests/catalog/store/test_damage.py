"""Broken model files are told from whole ones by their heads and sizes."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest

from catalog.discovery import rows_from_folder
from catalog.store import damage
from catalog.store.damage import DamageCheck
from tests.fakes.gguf import chat_model


def with_tensor(*, offset: int, data: int) -> bytes:
    """A GGUF file that describes one tensor at ``offset``, followed by ``data`` bytes."""
    head = bytearray(chat_model())
    head[8:16] = struct.pack("<Q", 1)
    name = b"output.weight"
    head += struct.pack("<Q", len(name)) + name + struct.pack("<IQIQ", 1, 4, 0, offset)
    head += bytes(-len(head) % 32)
    return bytes(head) + bytes(data)


def folder_model(folder: Path, *, config: bytes = b"{}", cut: int = 0) -> Path:
    folder.mkdir()
    (folder / "config.json").write_bytes(config)
    head = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, "__metadata__": {}}).encode()
    whole = struct.pack("<Q", len(head)) + head + bytes(16)
    (folder / "model.safetensors").write_bytes(whole[: max(0, len(whole) - cut)])
    return folder


def test_a_gguf_that_ends_before_its_tensors_is_cut_short(tmp_path: Path) -> None:
    check = DamageCheck()
    file = tmp_path / "m.gguf"
    file.write_bytes(with_tensor(offset=64, data=80))
    assert check.reason("llamacpp", file) is None
    file.write_bytes(with_tensor(offset=64, data=60))
    assert "is cut short" in (check.reason("llamacpp", file) or ""), "a changed file is read again"


def test_a_split_gguf_needs_all_its_parts_and_each_whole(tmp_path: Path) -> None:
    check = DamageCheck()
    first, second = tmp_path / "m-00001-of-00002.gguf", tmp_path / "m-00002-of-00002.gguf"
    first.write_bytes(chat_model())
    assert f"there is no {second}" in (check.reason("llamacpp", first) or "")
    second.write_bytes(b"GG")
    assert check.reason("llamacpp", first)
    second.write_bytes(chat_model())
    assert check.reason("llamacpp", first) is None
    second.unlink()
    os.mkfifo(second)
    assert "not a regular file" in (check.reason("llamacpp", first) or "")
    second.unlink()
    assert check.reason("llamacpp", first), "a part that is gone is noticed"


@pytest.mark.parametrize("length", [0, 3, 10, 100, 300])
def test_a_gguf_without_its_head_is_damaged(tmp_path: Path, length: int) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(chat_model()[:length])
    assert DamageCheck().reason("llamacpp", file)


def test_a_folder_needs_its_config_and_whole_weights(tmp_path: Path) -> None:
    check = DamageCheck()
    assert check.reason("mlx", folder_model(tmp_path / "good")) is None
    assert "no readable config.json" in (check.reason("mlx", folder_model(tmp_path / "a", config=b"{")) or "")
    for cut in (1, 16, 40, 200):
        reason = check.reason("vllm", folder_model(tmp_path / f"cut{cut}", cut=cut)) or ""
        assert "model.safetensors in" in reason


def test_files_that_did_not_change_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check, reads = DamageCheck(), 0
    file = tmp_path / "m.gguf"
    file.write_bytes(chat_model())

    def counted(_: Path) -> str | None:
        nonlocal reads
        reads += 1
        return None

    monkeypatch.setattr(damage, "gguf_damage", counted)
    for _ in range(3):
        assert check.reason("llamacpp", file) is None
    assert reads == 1
    os.utime(file, ns=(1, 1))
    assert check.reason("llamacpp", file) is None
    assert reads == 2


def test_a_folder_of_discovery_tells_of_each_file_that_it_leaves_out(tmp_path: Path) -> None:
    (tmp_path / "good-Q8_0.gguf").write_bytes(chat_model())
    (tmp_path / "bad-Q8_0.gguf").write_bytes(chat_model()[:200])
    told: dict[str, str] = {}
    rows = rows_from_folder(tmp_path, lambda path, reason: told.update({path.name: reason}))
    assert [row.id for row in rows] == ["good-q8_0"]
    assert list(told) == ["bad-Q8_0.gguf"]
