"""The pages of the documentation, and which of them are generated."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.docs import catalogue_page, chart_page, command_page, metrics_page, settings_page

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
README = ROOT / "README.md"

GENERATED: Mapping[str, Callable[[], str]] = {
    "settings.md": settings_page.page,
    "commands.md": command_page.page,
    "metrics.md": metrics_page.page,
    "catalogue.md": catalogue_page.page,
    "helm.md": chart_page.page,
}
"""The generated pages of ``docs/reference`` and their makers."""

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


class Example(NamedTuple):
    """A fenced block of a page. ``number`` counts the page's blocks of every language."""

    page: Path
    number: int
    language: str
    code: str

    @property
    def title(self) -> str:
        """A name for test reports: page, number, language and the path that is asked."""
        path = re.search(r"localhost:8000(/[\w/.-]*)", self.code)
        return f"{self.page.stem}-{self.number}-{self.language}{path.group(1) if path else ''}"


def pages() -> list[Path]:
    """README and every page of the documentation."""
    return [README, *sorted(DOCS.rglob("*.md"))]


def examples(*languages: str) -> Iterator[Example]:
    """The blocks in these languages of all pages."""
    for page in pages():
        for number, (language, code) in enumerate(_BLOCK.findall(page.read_text(encoding="utf-8"))):
            if language in languages:
                yield Example(page, number, language, code)
