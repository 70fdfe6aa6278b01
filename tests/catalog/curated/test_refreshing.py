"""The check of the curated catalogue against the hub: what differs, and the sizes that are written."""

from __future__ import annotations

import json
import socket
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from catalog.curated.collection import read_entries
from catalog.curated.refreshing import look_up, main, refresh
from catalog.store.hub import Hub
from tests.catalog.curated.test_collection import entry
from tests.fakes.gguf import chat_model
from tests.fakes.hub import FakeHub, Repository, serve

CONFIG = {"max_position_embeddings": 32768, "num_hidden_layers": 32, "num_key_value_heads": 8}
VLLM = {"repository": "acme/Toy-8B", "size": 10 + len(json.dumps(CONFIG))}
FILE = """# Toys.
[[model]]
id = "toy-8b"
name = "Toy 8B"
family = "toy"
released = "2026-01"
license = "MIT" # a comment that stays
capabilities = ["chat"]
parameters = 8.0
gguf = { repository = "acme/Toy-8B-GGUF", file = "T-{}.gguf", quantizations = ["Q4_K_M"], sizes = { Q4_K_M = 1 } }
"""


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    weights = {"model.safetensors": b"x" * 10, "config.json": json.dumps(CONFIG).encode()}
    repositories = {
        "acme/Toy-8B-GGUF": Repository({"T-Q4_K_M.gguf": chat_model(padding=100)}, tags=("license:mit",)),
        "acme/Toy-8B": Repository(weights, tags=("license:mit",)),
    }
    with serve(FakeHub(repositories)) as running:
        yield running


def gguf(**fields: object) -> dict[str, object]:
    return {"repository": "acme/Toy-8B-GGUF", "file": "T-{}.gguf", "quantizations": ["Q4_K_M"], **fields}


def differences(hub: FakeHub, **fields: object) -> list[str]:
    found = look_up(entry(**fields), Hub(hub.address))
    return [*found.resized, *found.differences]


def test_an_entry_that_agrees_with_the_hub_has_no_differences(hub: FakeHub) -> None:
    size = len(hub.repositories["acme/Toy-8B-GGUF"].files["T-Q4_K_M.gguf"])
    assert differences(hub, gguf=gguf(sizes={"Q4_K_M": size}), vllm=VLLM) == []


def test_each_difference_is_told(hub: FakeHub) -> None:
    assert "there is no Q6_K; there are: Q4_K_M" in differences(hub, gguf=gguf(quantizations=["Q6_K"]))[0]
    assert "and here about 4890000000" in differences(hub, gguf=gguf())[0]
    assert "there is no file Other-Q4_K_M.gguf" in " ".join(differences(hub, gguf=gguf(file="Other-{}.gguf")))
    assert "it has no projector" in " ".join(differences(hub, gguf=gguf(projector=5)))
    assert "the licence is mit, and here Apache-2.0" in differences(hub, gguf=gguf(), license="Apache-2.0")[1]
    assert "no repository acme/Gone" in differences(hub, gguf={**gguf(), "repository": "acme/Gone"})[0]
    window = differences(hub, gguf=None, vllm=VLLM, limits={"context_window": 4096})
    assert window == ["config.json: the context window is 32768, and here 4096"]
    assert "it has 8 KV heads, and here 4" in differences(hub, gguf=None, vllm=VLLM, cache=[[32, 4, 128]])[0]
    assert "and here more keep a cache" in differences(hub, gguf=None, vllm=VLLM, cache=[[40, 8, 128]])[0]
    hub.repositories["acme/Toy-8B"].gated = True
    assert differences(hub, gguf=None, vllm=VLLM) == ["vllm: it is gated, and here it is not"]


def test_sizes_and_the_day_are_written_and_everything_else_stays(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "toys.toml"
    file.write_text(FILE)
    assert refresh(tmp_path, Hub(hub.address)) == 1, "a size of one byte differs"
    assert "toys.toml: toy-8b: gguf: Q4_K_M has" in capsys.readouterr().out
    assert file.read_text() == FILE
    size = len(hub.repositories["acme/Toy-8B-GGUF"].files["T-Q4_K_M.gguf"])
    assert refresh(tmp_path, Hub(hub.address), write=True) == 0
    text = file.read_text()
    (checked,) = read_entries(tomllib.loads(text), file.name)
    assert checked.checked is not None
    assert checked.gguf is not None
    assert checked.gguf.sizes == {"Q4_K_M": size}
    assert "# a comment that stays" in text
    assert refresh(tmp_path, Hub(hub.address), write=True) == 0
    assert file.read_text() == text, "a second run of the same day changes nothing"
    hub.repositories["acme/Toy-8B-GGUF"].gated = True
    assert refresh(tmp_path, Hub(hub.address), write=True) == 1
    assert "checked" not in file.read_text(), "what differs is for a person, and no longer checked"


def test_without_a_network_it_says_so_once(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nothing listens
        assert main(["--endpoint", f"http://127.0.0.1:{taken.getsockname()[1]}", "qwen3-8b", "qwen3-4b"]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("The hub cannot be reached for unsloth/Qwen3-")
