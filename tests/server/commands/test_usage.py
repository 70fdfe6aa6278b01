"""The table of ``roundhouse usage``."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from server.cli import app
from server.commands.client import ServerClient

FIGURES: dict[str, Any] = {
    "calls": 3, "unknown_cost_calls": 0, "input_tokens": 5, "output_tokens": 6, "cached_tokens": 0,
    "reasoning_tokens": 0, "units": 0.0, "cost": "0.500000000", "estimated_cost": "0.000000000",
}  # fmt: skip


@pytest.mark.parametrize("unknown", [0, 2])
def test_what_is_estimated_is_shown_where_a_cost_is_unknown(monkeypatch: pytest.MonkeyPatch, unknown: int) -> None:
    figures = {**FIGURES, "unknown_cost_calls": unknown, "estimated_cost": f"{unknown / 8:.9f}"}
    report = {"data": [{"model": "m", **figures}], "total": figures}
    monkeypatch.setattr(ServerClient, "get", lambda *_, **__: report)
    monkeypatch.setenv("COLUMNS", "200")
    shown = CliRunner().invoke(app, ["usage", "--by", "model"]).output
    assert ("0.250000000" in shown) is bool(unknown)
    assert ("ESTIMATED" in shown) is bool(unknown)
