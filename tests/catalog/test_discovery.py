"""Rows of discovered models, on servers and on disk; and upgrades."""

from __future__ import annotations

from pathlib import Path

import pytest

from catalog.discovery import discovered_row, rows_from_folder, upgrades
from catalog.model import Capability, Endpoint, Model, PathSource, Size, UpstreamSource
from tests.fakes.gguf import chat_model, gguf_bytes

LAN = Endpoint(id="lan", base_url="http://10.0.0.2:8000/v1", private=True)
CLOUD = Endpoint(id="cloud", base_url="https://models.example/v1")


def test_a_servers_models_become_rows_that_name_it() -> None:
    row = discovered_row(LAN, "Qwen/Qwen3-8B", context=4096)
    assert row is not None
    assert row.id == "lan/Qwen/Qwen3-8B"
    assert row.aliases == ("Qwen/Qwen3-8B",)
    assert row.source == UpstreamSource(endpoint="lan", model="Qwen/Qwen3-8B")
    assert row.limits.context_window == 4096
    assert Capability.CHAT in row.capabilities
    assert row.price.input == 0


def test_a_server_that_is_not_the_users_has_no_known_price() -> None:
    row = discovered_row(CLOUD, "m")
    assert row is not None
    assert row.price.input is None


@pytest.mark.parametrize(
    ("name", "capability"),
    [
        ("BAAI/bge-m3", Capability.EMBED),
        ("Qwen3-Reranker-0.6B", Capability.RERANK),
        ("nomic-embed-text", Capability.EMBED),
        ("whisper-large-v3", Capability.TRANSCRIBE),
        ("kokoro", Capability.SPEAK),
        ("llama-3.1-8b", Capability.CHAT),
    ],
)
def test_a_name_betrays_what_a_model_is_for(name: str, capability: Capability) -> None:
    row = discovered_row(LAN, name)
    assert row is not None
    assert capability in row.capabilities


@pytest.mark.parametrize("name", [3, None, "", "x" * 500, "a b"])
def test_a_name_that_no_row_can_have_gives_none(name: object) -> None:
    assert discovered_row(LAN, name) is None


@pytest.mark.parametrize("context", [None, 0, -1, True, "4096", 4096.0])
def test_a_context_window_that_is_no_count_is_unknown(context: object) -> None:
    row = discovered_row(LAN, "m", context=context)
    assert row is not None
    assert row.limits.context_window is None


def test_gguf_files_on_disk_are_found_also_behind_the_links_of_the_hugging_face_cache(tmp_path: Path) -> None:
    blob = tmp_path / "blobs" / "abc"
    blob.parent.mkdir()
    blob.write_bytes(chat_model())
    snapshot = tmp_path / "models--acme--tiny" / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    (snapshot / "Tiny-Q4_K_M.gguf").symlink_to(blob)
    (snapshot / "dangling-Q8_0.gguf").symlink_to(tmp_path / "nothing")
    (snapshot / "mmproj-F16.gguf").write_bytes(gguf_bytes({}))
    (snapshot / "broken.gguf").write_bytes(b"no model")
    for part in (1, 2):
        (snapshot / f"big-0000{part}-of-00002.gguf").write_bytes(chat_model())
    rows = {row.id: row for row in rows_from_folder(tmp_path)}
    assert set(rows) == {"tiny-q4_k_m", "big"}
    tiny = rows["tiny-q4_k_m"]
    assert tiny.size.quantization == "Q4_K_M"
    assert isinstance(tiny.source, PathSource)
    assert tiny.source.path == str(snapshot / "Tiny-Q4_K_M.gguf")
    assert rows_from_folder(tmp_path / "nowhere") == []


def row(model_id: str, **fields: object) -> Model:
    return Model.model_validate(
        {"id": model_id, "capabilities": {Capability.CHAT}, "source": PathSource(path="/x"), **fields}
    )


def test_a_successor_is_followed_to_the_last_that_fits() -> None:
    rows = [row("a", successor="b"), row("b", successor="c"), row("c", successor="a")]
    assert upgrades([rows[0]], rows, lambda _: True)["a"].id == "c"
    assert upgrades([rows[0]], rows, lambda model: model.id != "c")["a"].id == "b"
    assert upgrades([rows[0]], rows, lambda _: False) == {}


def test_a_newer_version_of_the_family_is_an_upgrade_if_it_can_do_as_much_and_is_not_far_larger() -> None:
    def member(model_id: str, version: str, weights: int, **fields: object) -> Model:
        return row(model_id, family="q", version=version, size=Size(parameters=weights), **fields)

    old = member("old", "2.5", 7)
    rows = [
        old,
        member("new", "3", 8),
        member("huge", "3.5", 70),
        member("embedder", "4", 7, capabilities={Capability.EMBED}),
        member("older", "2", 7),
    ]
    assert upgrades([old], rows, lambda _: True)["old"].id == "new"
