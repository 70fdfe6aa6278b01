"""Rows of discovered models, on servers and on disk; and upgrades."""

from __future__ import annotations

from pathlib import Path

import pytest

from catalog.discovery import MAX_LISTED, discovered_row, discovered_rows, rows_from_folder, upgrades
from catalog.model import Capability, Endpoint, Model, PathSource, Size, UpstreamSource
from catalog.types import Json
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


@pytest.mark.parametrize("name", [3, None, "", "x" * 500, "a b", "a\n", "auto", "AUTO", "auto:fast"])
def test_a_name_that_no_row_can_have_gives_none(name: object) -> None:
    assert discovered_row(LAN, name) is None


def test_an_id_that_is_too_long_with_its_endpoint_gives_no_row() -> None:
    far = LAN.model_copy(update={"id": "e" * 60})
    assert discovered_row(far, "x" * 139) is not None
    assert discovered_row(far, "x" * 140) is None


@pytest.mark.parametrize("name", ["local", "Local/smollm2"])
def test_a_listed_name_never_stands_for_a_model_of_this_machine(name: str) -> None:
    row = discovered_row(LAN, name)
    assert row is not None
    assert (row.id, row.aliases) == (f"lan/{name}", ())


def test_a_bad_entry_of_a_list_spoils_only_itself() -> None:
    def described(entry: Json) -> Json | None:
        return None if entry.get("router") else {"name": entry["id"], "size": Size(parameters=int(entry["count"]))}

    bad: list[Json] = [{}, {"id": "x", "count": "many"}, {"id": "auto", "count": 1}, {"id": "y", "count": -1}]
    rows = discovered_rows(LAN, [*bad, {"router": True}, {"id": "good", "count": 1}], described)
    assert [row.id for row in rows] == ["lan/good"]
    assert (rows.unusable, rows.left_out) == (4, 0)


def test_a_list_gives_a_bounded_number_of_rows() -> None:
    entries: list[Json] = [{"name": f"m{number}"} for number in range(MAX_LISTED + 3)]
    rows = discovered_rows(LAN, entries, dict)
    assert (len(rows), rows.left_out) == (MAX_LISTED, 3)


def test_a_file_whose_name_no_model_can_have_spoils_only_itself(tmp_path: Path) -> None:
    for name in ("auto.gguf", "good.gguf"):
        (tmp_path / name).write_bytes(chat_model())
    told: list[str] = []
    rows = rows_from_folder(tmp_path, lambda path, reason: told.append(f"{path.name}: {reason}"))
    assert [row.id for row in rows] == ["good"]
    assert told == ["auto.gguf: its name cannot be a model's id"]


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


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["tiny-Q4_0.gguf", "tiny-Q8_0.gguf", "mmproj-F16.gguf"], {"tiny-q4_0", "tiny-q8_0"}),
        (["tiny-Q4_0.gguf", "mmproj-model-f16.gguf"], {"tiny-q4_0"}),
        (["Tiny-Q4_0.gguf", "other-Q4_0.gguf", "mmproj-tiny-F16.gguf"], {"tiny-q4_0"}),
        (["Tiny-Q4_0.gguf", "other-Q4_0.gguf", "tiny.mmproj-Q8_0.gguf"], {"tiny-q4_0"}),
        (["tiny-Q4_0.gguf", "other-Q4_0.gguf", "mmproj-F16.gguf"], set()),
        (["tiny-Q4_0-00001-of-00002.gguf", "tiny-Q4_0-00002-of-00002.gguf", "mmproj-F16.gguf"], {"tiny-q4_0"}),
    ],
)
def test_a_projector_belongs_to_the_model_beside_it_that_it_names(
    tmp_path: Path, files: list[str], found: set[str]
) -> None:
    for name in files:
        (tmp_path / name).write_bytes(gguf_bytes({}) if "mmproj" in name else chat_model())
    rows = {row.id: row for row in rows_from_folder(tmp_path)}
    assert {name for name, row in rows.items() if Capability.VISION in row.capabilities} == found
    (projector,) = (str(tmp_path / name) for name in files if "mmproj" in name)
    assert {row.options.get("mmproj") for name, row in rows.items() if name in found} <= {projector}


def test_a_projector_of_another_width_is_another_models_and_one_that_hears_says_so(tmp_path: Path) -> None:
    (tmp_path / "tiny-Q4_0.gguf").write_bytes(chat_model())
    projector = tmp_path / "mmproj-F16.gguf"
    projector.write_bytes(gguf_bytes({"clip.vision.projection_dim": 575}))
    (found,) = rows_from_folder(tmp_path)
    assert "mmproj" not in found.options
    projector.write_bytes(gguf_bytes({"clip.vision.projection_dim": 576, "clip.has_vision_encoder": True}))
    (tmp_path / "mmproj-Q8_0.gguf").write_bytes(projector.read_bytes())
    (found,) = rows_from_folder(tmp_path)
    assert found.options == {"mmproj": str(projector)}
    projector.write_bytes(gguf_bytes({"clip.has_audio_encoder": True}))
    (found,) = rows_from_folder(tmp_path)
    assert Capability.AUDIO_INPUT in found.capabilities
    assert Capability.VISION not in found.capabilities


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
