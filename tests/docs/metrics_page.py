"""The reference of the metrics."""

from __future__ import annotations

from tests.deploy.metrics_table import table


def page() -> str:
    """The page as Markdown."""
    return table()
