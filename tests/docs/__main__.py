"""Writes the generated pages of ``docs/reference``: ``python -m tests.docs``."""

from __future__ import annotations

from tests.docs.pages import GENERATED, REFERENCE

for name, page in GENERATED.items():
    (REFERENCE / name).write_text(page(), encoding="utf-8")
