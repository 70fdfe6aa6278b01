"""Faults of this program's own code, and fields of any type: no failure of the upstream's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from backends.wire.embeddings import EmbeddingRequest
from routing.outcomes import Result
from tests.routing.calling.scripted import GOOD, Stand, remote


@pytest.mark.parametrize("n", ["zz", "3", [1], 2])
async def test_an_undeclared_n_says_nothing_of_the_answers(stand: Stand, n: Any) -> None:
    stand.backend.scripts["a"] = GOOD
    stand.will_try(remote("a"))
    request = EmbeddingRequest.model_validate({"model": "a", "input": "x", "n": n})
    await stand.ask(replace(stand.job(), request=request))
    assert stand.results == [("cloud/a", Result.SUCCESS)]
    assert stand.recorder.outcomes[0].error is None


@pytest.mark.parametrize("fault", [TypeError, KeyError, ValueError, AttributeError])
async def test_an_own_fault_does_not_count_against_the_model(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, fault: type[Exception]
) -> None:
    def dropped(*_: Any) -> tuple[str, ...]:
        raise fault("a mistake in the code")

    monkeypatch.setattr(stand.backend, "dropped", dropped)
    stand.backend.scripts["a"] = GOOD
    for _ in range(6):
        stand.will_try(remote("a"))
        with pytest.raises(fault):
            await stand.ask()
    assert {result for _, result in stand.results} == {Result.REJECTED}
    assert stand.recorder.outcomes[0].error == "internal_error"
    monkeypatch.undo()
    stand.will_try(remote("a"))
    await stand.ask()
    assert stand.results[-1] == ("cloud/a", Result.SUCCESS)
