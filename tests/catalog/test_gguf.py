"""GGUF headers, valid and malformed."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.file_rows import gguf_facts
from catalog.files.gguf import NotGguf, read_header
from catalog.model import Capability, Geometry
from tests.fakes.gguf import Value, chat_model, gguf_bytes


def written(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    return path


def test_scalars_strings_and_arrays_are_read(tmp_path: Path) -> None:
    header = read_header(
        written(
            tmp_path,
            gguf_bytes(
                {"general.architecture": "x", "x.n": 7, "x.f": 0.5, "x.b": True, "x.l": [3, 9], "x.s": ["a"]}
            ),
        )
    )
    assert header.architecture == "x"
    assert header.values["x.n"] == 7
    assert header.values["x.f"] == 0.5
    assert header.values["x.b"] is True
    assert header.arrays["x.l"] == (3, 9)
    assert header.arrays["x.s"] == ("a",)
    assert header.integer("n") == 7
    assert header.integer("l") == 9


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GGU",
        b"ZIP!" + bytes(40),
        b"GGUF" + struct.pack("<IQQ", 1, 0, 0),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 62),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 4, 1 << 40),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 9, 1),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<I", 99),
        chat_model()[:100],
    ],
)
def test_what_is_no_whole_gguf_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(NotGguf):
        read_header(written(tmp_path, data))


@settings(max_examples=150, deadline=None)
@given(position=st.integers(0, 400), value=st.integers(0, 255))
def test_a_damaged_header_is_read_or_refused_but_never_worse(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int
) -> None:
    data = bytearray(chat_model())
    data[position % len(data)] = value
    path = tmp_path_factory.mktemp("gguf") / "damaged.gguf"
    path.write_bytes(bytes(data))
    try:
        read_header(path)
    except NotGguf:
        return


@pytest.mark.parametrize(
    ("pairs", "capabilities"),
    [
        ({"general.architecture": "llama"}, {Capability.COMPLETION, Capability.JSON_SCHEMA}),
        ({"general.architecture": "bert"}, {Capability.EMBED}),
        ({"general.architecture": "qwen3", "qwen3.pooling_type": 3}, {Capability.EMBED}),
        ({"general.architecture": "bert", "bert.pooling_type": 4}, {Capability.RERANK}),
    ],
)
def test_pooling_and_architecture_tell_what_a_model_can_do(
    tmp_path: Path,
    pairs: dict[str, Value],
    capabilities: set[Capability],
) -> None:
    assert gguf_facts(written(tmp_path, gguf_bytes(pairs)))["capabilities"] == capabilities


def test_the_template_tells_of_tools_and_reasoning(tmp_path: Path) -> None:
    plain = gguf_facts(written(tmp_path, chat_model()))["capabilities"]
    rich = gguf_facts(written(tmp_path, chat_model(template="{{ tools }}<think>")))["capabilities"]
    assert rich - plain == {Capability.TOOLS, Capability.REASONING}


def test_the_geometry_of_the_kv_cache_is_kept(tmp_path: Path) -> None:
    facts = gguf_facts(written(tmp_path, chat_model()))
    assert facts["geometry"] == Geometry(layers=30, kv_heads=3, head_dim=64)
    assert facts["options"] == {}
