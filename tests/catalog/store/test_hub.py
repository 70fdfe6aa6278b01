"""Pulls from a hub: selection, resumption, verification and rows. The hub is a real HTTP server on loopback."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from catalog.catalog import Catalog
from catalog.errors import PullError
from catalog.model import Capability, HubSource, Model
from catalog.store.hub import Hub
from catalog.store.progress import PullEvent, Stage
from catalog.store.store import Store, parse_address
from catalog.store.transfer import ChecksumMismatch
from tests.fakes.gguf import chat_model, gguf_bytes
from tests.fakes.hub import FakeHub, Repository, serve

REPOSITORY = "acme/tiny-GGUF"
LARGE = 5 << 20


def no_pause(_seconds: float) -> None:
    """Skip the pause between two attempts."""


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serve(FakeHub()) as running:
        yield running


@pytest.fixture
def store(tmp_path: Path, hub: FakeHub) -> Store:
    return Store(tmp_path / "models", hub=Hub(endpoint=hub.address, sleep=no_pause))


def publish(hub: FakeHub, files: dict[str, bytes], **settings: object) -> None:
    hub.repositories[REPOSITORY] = Repository(files=files, **settings)  # type: ignore[arg-type]


def test_a_pulled_model_becomes_a_row_that_a_new_process_still_has(store: Store, hub: FakeHub) -> None:
    data = chat_model(template="{% if tools %}{{ tools }}{% endif %}", padding=1000)
    publish(hub, {"tiny-Q4_K_M.gguf": data, "README.md": b"# tiny"})
    row = store.pull_hub(f"hub:{REPOSITORY}")

    restarted = Store(store.root)
    catalog = Catalog.load(pulled=restarted.rows())
    found = catalog.resolve(REPOSITORY)
    assert found == row
    assert found.id == "tiny-q4_k_m"
    assert found.size.quantization == "Q4_K_M"
    assert found.size.parameters == 135_000_000
    assert found.limits.context_window == 8192
    assert found.capabilities >= {Capability.CHAT, Capability.TOOLS, Capability.JSON_SCHEMA}
    assert found.languages == ("en", "fr")
    assert restarted.path(found).read_bytes() == data


@pytest.mark.parametrize("lacking", ["rfilename", "size", "pointerSize"])
def test_a_description_that_lacks_a_field_is_a_pull_that_failed(store: Store, hub: FakeHub, lacking: str) -> None:
    publish(hub, {"tiny-Q4_K_M.gguf": chat_model(), "README.md": b"# tiny"}, lacking=(lacking,))
    with pytest.raises(PullError, match="tiny"):
        store.pull_hub(f"hub:{REPOSITORY}")


def test_only_the_files_of_the_model_are_fetched(store: Store, hub: FakeHub) -> None:
    publish(
        hub,
        {
            "tiny-Q4_K_M.gguf": chat_model(),
            "tiny-Q8_0.gguf": chat_model(padding=5000),
            "pytorch_model.bin": b"pickle",
            "README.md": b"#",
        },
    )
    store.pull_hub(f"{REPOSITORY}:Q4_K_M")
    assert [path for method, path, _ in hub.requests if method == "GET" and "/resolve/" in path] == [
        f"/{REPOSITORY}/resolve/{hub.repositories[REPOSITORY].commit}/tiny-Q4_K_M.gguf"
    ]


def test_a_connection_cut_in_mid_file_is_resumed_where_it_broke(store: Store, hub: FakeHub) -> None:
    data = chat_model(padding=LARGE)
    publish(hub, {"tiny-Q4_0.gguf": data})
    hub.cut_after["tiny-Q4_0.gguf"] = LARGE // 2
    row = store.pull_hub(REPOSITORY)
    assert store.path(row).read_bytes() == data
    first, second = hub.downloads("tiny-Q4_0.gguf")
    assert first is None
    assert second is not None
    assert 0 < int(second.removeprefix("bytes=").rstrip("-")) <= LARGE // 2


def test_a_pull_that_was_stopped_is_resumed_by_the_next_process(store: Store, hub: FakeHub) -> None:
    data = chat_model(padding=LARGE)
    publish(hub, {"tiny-Q4_0.gguf": data})

    class Stopped(Exception):
        pass

    def stop(event: PullEvent) -> None:
        if event.stage is Stage.DOWNLOADING and event.done > LARGE // 2:
            raise Stopped

    with pytest.raises(Stopped):
        store.pull_hub(REPOSITORY, stop)
    assert store.rows() == ()
    assert store.list() == ()

    row = Store(store.root, hub=Hub(endpoint=hub.address, sleep=no_pause)).pull_hub(REPOSITORY)
    assert store.path(row).read_bytes() == data
    resumed = hub.downloads("tiny-Q4_0.gguf")[-1]
    assert resumed is not None
    assert int(resumed.removeprefix("bytes=").rstrip("-")) >= LARGE // 2


def test_one_wrong_byte_is_found_and_nothing_is_kept(store: Store, hub: FakeHub) -> None:
    data = chat_model(padding=10_000)
    publish(hub, {"tiny-Q4_0.gguf": data})
    hub.corrupt["tiny-Q4_0.gguf"] = 5_000
    with pytest.raises(ChecksumMismatch, match=r"tiny-Q4_0\.gguf"):
        store.pull_hub(REPOSITORY)
    assert list(store.root.rglob("*.gguf")) == []
    assert store.rows() == ()

    hub.corrupt.clear()
    assert store.path(store.pull_hub(REPOSITORY)).read_bytes() == data


def test_one_wrong_byte_in_a_small_file_is_found_by_its_git_digest(store: Store, hub: FakeHub) -> None:
    publish(
        hub,
        {"model.onnx": b"graph", "tokenizer.json": b'{"a": 1}', "config.json": b'{"hidden_size": 8}'},
    )
    hub.corrupt["tokenizer.json"] = 3
    with pytest.raises(ChecksumMismatch, match=r"tokenizer\.json"):
        store.pull_hub(REPOSITORY)


def test_a_gated_repository_wants_a_token_and_takes_the_one_given(store: Store, hub: FakeHub) -> None:
    publish(hub, {"tiny-Q4_0.gguf": chat_model()}, token="hf_secret")
    with pytest.raises(PullError, match="token") as caught:
        store.pull_hub(REPOSITORY, token="hf_wrong")
    assert "hf_wrong" not in caught.value.message
    row = store.pull_hub(REPOSITORY, token="hf_secret")
    assert store.ready(row)
    for path in (store.root / "rows").iterdir():
        assert "hf_secret" not in path.read_text()


def test_a_revision_is_fetched_and_an_unknown_one_refused(store: Store, hub: FakeHub) -> None:
    publish(hub, {"tiny-Q4_0.gguf": chat_model()}, revisions=("main", "v2"))
    assert isinstance(source := store.pull_hub(REPOSITORY, revision="v2").source, HubSource)
    assert source.revision == "v2"
    with pytest.raises(PullError, match="no revision 'v9'"):
        store.pull_hub(REPOSITORY, revision="v9")


def test_an_unknown_repository_is_a_pull_error(store: Store) -> None:
    with pytest.raises(PullError, match="no repository acme/nothing"):
        store.pull_hub("acme/nothing")


def test_a_hub_that_is_not_there_is_a_pull_error(tmp_path: Path) -> None:
    store = Store(tmp_path, hub=Hub(endpoint="http://127.0.0.1:9", sleep=no_pause))
    with pytest.raises(PullError):
        store.pull_hub(REPOSITORY)


def test_a_split_model_in_a_subfolder_comes_whole_and_its_first_part_is_opened(store: Store, hub: FakeHub) -> None:
    parts = {f"Q8_0/tiny-Q8_0-0000{n}-of-00003.gguf": chat_model(padding=n * 100) for n in (1, 2, 3)}
    publish(hub, {**parts, "Q4_0/tiny-Q4_0.gguf": chat_model()})
    row = store.pull_hub(f"{REPOSITORY}:Q8_0")
    first = store.path(row)
    assert first.name == "tiny-Q8_0-00001-of-00003.gguf"
    assert {p.name: p.read_bytes() for p in first.parent.iterdir()} == {
        name.split("/")[1]: data for name, data in parts.items()
    }
    assert row.id == "tiny-q8_0"

    (first.parent / "tiny-Q8_0-00002-of-00003.gguf").unlink()
    assert not store.ready(row)


def test_the_largest_quantisation_that_fits_the_memory_is_chosen(store: Store, hub: FakeHub) -> None:
    publish(
        hub,
        {
            "tiny-Q2_K.gguf": chat_model(padding=10_000),
            "tiny-Q4_K_M.gguf": chat_model(padding=40_000),
            "tiny-F16.gguf": chat_model(padding=160_000),
        },
    )
    assert store.pull_hub(REPOSITORY, memory=60_000).size.quantization == "Q4_K_M"
    assert store.pull_hub(REPOSITORY).size.quantization == "F16"
    with pytest.raises(PullError, match="Nothing fits"):
        store.pull_hub(REPOSITORY, memory=1000)


def test_removing_a_model_keeps_the_file_that_another_one_needs(store: Store, hub: FakeHub) -> None:
    projector = gguf_bytes({"general.architecture": "clip"})
    publish(
        hub,
        {
            "tiny-Q4_0.gguf": chat_model(padding=100),
            "tiny-Q8_0.gguf": chat_model(padding=200),
            "mmproj-F16.gguf": projector,
        },
    )
    small, large = store.pull_hub(f"{REPOSITORY}:Q4_0"), store.pull_hub(f"{REPOSITORY}:Q8_0")
    assert Capability.VISION in small.capabilities
    shared = store.path(large).parent / "mmproj-F16.gguf"
    assert small.options == {"mmproj": str(shared)}
    small_path = store.path(small)
    assert store.remove(small.id) == len(chat_model(padding=100))
    assert not small_path.exists()
    assert shared.read_bytes() == projector
    assert store.ready(large)
    store.remove(large.id)
    assert not shared.exists()


def test_without_a_network_the_error_is_one_line_that_says_so_and_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nothing listens
        hub = Hub(endpoint=f"http://127.0.0.1:{taken.getsockname()[1]}", sleep=no_pause)
        with pytest.raises(PullError) as refused:
            Store(tmp_path / "models", hub=hub).pull_hub(REPOSITORY)
    told = refused.value.message
    assert told.startswith(f"The hub cannot be reached for {REPOSITORY} (")
    assert "HTTPS_PROXY" in told
    assert "broke off" not in told
    assert "\n" not in told


def test_a_file_that_is_there_is_not_fetched_for_a_second_model(store: Store, hub: FakeHub) -> None:
    publish(hub, {"tiny-Q4_0.gguf": chat_model(), "mmproj-F16.gguf": gguf_bytes({}), "tiny-Q8_0.gguf": b"GGUF"})
    store.pull_hub(f"{REPOSITORY}:Q4_0")
    events: list[PullEvent] = []
    publish(hub, {**hub.repositories[REPOSITORY].files, "tiny-Q8_0.gguf": chat_model(padding=9)})
    store.pull_hub(f"{REPOSITORY}:Q8_0", events.append)
    assert len(hub.downloads("mmproj-F16.gguf")) == 1
    assert (Stage.CACHED, "mmproj-F16.gguf") in {(event.stage, event.file) for event in events}


def test_two_repositories_with_a_file_of_one_name_become_two_models(store: Store, hub: FakeHub) -> None:
    publish(hub, {"tiny-Q4_0.gguf": chat_model(name="one")})
    hub.repositories["other/tiny"] = Repository(files={"tiny-Q4_0.gguf": chat_model(name="two")}, commit="d" * 40)
    first, second = store.pull_hub(REPOSITORY), store.pull_hub("other/tiny")
    assert (first.id, second.id) == ("tiny-q4_0", "other/tiny-q4_0")
    assert (first.name, second.name) == ("one", "two")
    assert store.path(first) != store.path(second)


def test_a_repository_cannot_write_outside_its_folder(store: Store, hub: FakeHub, tmp_path: Path) -> None:
    publish(hub, {"../../escaped.gguf": chat_model()})
    with pytest.raises(PullError, match="refused"):
        store.pull_hub(REPOSITORY)
    assert list(tmp_path.rglob("escaped.gguf")) == []


def test_a_row_of_the_users_own_names_a_hub_model_and_pins_its_digest(store: Store, hub: FakeHub) -> None:
    publish(hub, {"tiny-Q4_0.gguf": chat_model()})
    row = Model(
        id="mine",
        capabilities=frozenset({Capability.CHAT}),
        engine="llamacpp",
        source=HubSource(repository=REPOSITORY, pattern="*Q4_0.gguf"),
    )
    assert store.pull(row).name == "tiny-Q4_0.gguf"
    assert store.rows() == ()
    pinned = row.model_copy(
        update={"source": HubSource(repository=REPOSITORY, sha256={"tiny-Q4_0.gguf": "0" * 64})}
    )
    with pytest.raises(ChecksumMismatch, match="the row pins"):
        store.pull(pinned)


@pytest.mark.parametrize("address", ["", "nothing", "a/b/c", "../x", "a/b c", "hub:", "/etc/passwd"])
def test_an_address_of_another_form_is_refused(address: str) -> None:
    with pytest.raises(PullError, match="no repository address"):
        parse_address(address)
