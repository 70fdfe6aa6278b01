"""Which local models cannot run here, and why."""

from __future__ import annotations

import threading

import pytest

from catalog.errors import EngineMissing
from catalog.model import FREE, Capability, Model, PathSource
from catalog.store.file_checks import FileChecks
from routing.plan import Block
from routing.upstreams.availability import Availability


def row(name: str, engine: str | None = "llamacpp") -> Model:
    return Model(
        id=name,
        engine=engine,
        capabilities=frozenset({Capability.CHAT}),
        source=PathSource(path=f"/models/{name}"),
        price=FREE,
    )


class Disk:
    """A store whose answers are by the id of the row."""

    def __init__(self, **answers: str | OSError | threading.Event) -> None:
        self._answers = answers

    def missing(self, model: Model) -> str | None:
        answer = self._answers.get(model.id)
        if isinstance(answer, OSError):
            raise answer
        if isinstance(answer, threading.Event):
            answer.wait()
            return None
        return answer


def test_rows_without_files_or_engine_are_blocked_with_the_reason() -> None:
    def missing(engine: str) -> EngineMissing | None:
        return EngineMissing(engine, extra=engine) if engine == "vllm" else None

    here = Availability(Disk(gone="pull it", broken=OSError(5, "Input/output error")), missing)
    here.refresh((row("fine"), row("gone"), row("broken"), row("other", "vllm"), row("none", None)))
    assert {name: block.code for name, block in here.blocked.items()} == {
        "gone": "not_pulled",
        "broken": "not_pulled",
        "other": "engine_missing",
        "none": "no_engine",
    }
    assert "Input/output error" in here.blocked["broken"].reason
    assert (here.has_files(row("other")), here.has_files(row("gone"))) == (True, False)


def test_a_row_on_a_device_that_this_machine_lacks_is_blocked_with_what_it_has() -> None:
    asked: list[int] = []

    def devices() -> frozenset[str]:
        asked.append(1)
        return frozenset({"cpu", "cuda:0"})

    here = Availability(Disk(), lambda _: None, devices=devices)
    here.refresh((row("fine"),))
    assert not asked, "devices are looked for only if a row names one"
    rows = (row("fine"), row("there").model_copy(update={"device": "cuda:0"}))
    absent = row("absent").model_copy(update={"device": "cuda:9"})
    for _ in range(2):
        here.refresh((*rows, absent))
        assert {name: block.code for name, block in here.blocked.items()} == {"absent": "no_device"}
    assert "'cuda:9', and this machine has: cpu, cuda:0" in here.blocked["absent"].reason
    assert len(asked) == 1


def test_a_row_on_a_mount_that_hangs_is_blocked_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()
    here = Availability(Disk(hangs=answers), lambda _: None)
    monkeypatch.setattr(here, "_files", FileChecks[Block | None](timeout=0.05))
    here.refresh((row("fine"), row("hangs")))
    assert list(here.blocked) == ["hangs"]
    assert not here.has_files(row("hangs"))
    answers.set()
    while here.blocked:
        here.refresh((row("fine"), row("hangs")))


def test_the_same_mapping_stays_while_nothing_changes() -> None:
    here = Availability(Disk(gone="pull it"), lambda _: None)
    here.refresh((row("gone"),))
    before = here.blocked
    here.refresh((row("gone"),))
    assert here.blocked is before
