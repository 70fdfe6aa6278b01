"""Links, commands, make targets, settings and headers that the pages name exist."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from backends.wire.chat import ChatRequest
from catalog.catalog import Catalog
from routing.beliefs.prior_files import PriorFiles
from routing.reading.intent import IntentBody
from routing.reading.requests import read_chat
from server.api.management.admin import Priors
from server.settings import load_settings
from tests.docs.command_page import PROGRAM, commands
from tests.docs.pages import DOCS, ROOT, Example, examples, pages

DESIGN = sorted(path for path in ROOT.rglob("DESIGN.md") if not path.relative_to(ROOT).parts[0].startswith("."))
LINKED = [*pages(), ROOT / "CONTRIBUTING.md", *DESIGN]
WORKERS = ROOT / "backends" / "workers"
"""Programs behind the gateway, whose headers do not leave it."""
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_MAKE = re.compile(r"\bmake ((?:[a-z-]+ ?)+)")
_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_HEADER = re.compile(r'"(x-roundhouse-[a-z-]*[a-z])"')
OPTIONS = {words: context.command.get_params(context) for words, context in commands()}
"""The parameters of each command, by its words."""


def named(path: Path) -> str:
    """A page's path from the project's root, for test reports."""
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", LINKED, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(page.read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{link}: there is no such file"
        if anchor:
            assert anchor in anchors(path), f"{link}: there is no such heading"
        if page.is_relative_to(DOCS):
            assert path.is_relative_to(DOCS), (
                f"{link}: the built pages do not have it; name its path in the source"
            )


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as MkDocs makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def lines_of_commands() -> dict[str, str]:
    """Every call of the command line in a page's examples and text, by page and line."""
    called = [
        (example.page, line)
        for example in examples("sh", "bash", "text", "console")
        for line in example.code.splitlines()
    ]
    called += [(page, code) for page in LINKED for code in _CODE.findall(page.read_text(encoding="utf-8"))]
    return {
        f"{page.name}: {line}": line
        for page, line in called
        if line.startswith(f"{PROGRAM} ") and "[OPTIONS]" not in line and "COMMAND" not in line
    }


@pytest.mark.parametrize("line", lines_of_commands().values(), ids=lines_of_commands())
def test_a_command_of_a_page_exists_with_its_options(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    for length in (2, 1, 0):  # none: an option of the program itself
        if (length or words[0].startswith("-")) and (name := " ".join(words[:length])) in OPTIONS:
            break
    else:
        pytest.fail(f"there is no command {' '.join(words[:2])}")
    known = {option for each in OPTIONS[name] for option in (*each.opts, *each.secondary_opts)}
    for word in words[length:]:
        option = word.partition("=")[0]
        assert not word.startswith("-") or option in known or word == "-", f"{name} has no option {option}"


@pytest.mark.parametrize("page", LINKED, ids=named)
def test_make_targets_of_a_page_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text(encoding="utf-8")
    code = [*_CODE.findall(text), *re.findall(r"^make .*$", text, re.MULTILINE)]
    for each in code:
        if (found := _MAKE.match(each)) is not None:
            unknown = set(found.group(1).split()) - targets
            assert not unknown, f"{each}: there is no target {', '.join(unknown)}"


@pytest.mark.parametrize("page", [page for page in pages() if page.name != "settings.md"], ids=named)
def test_the_settings_of_a_page_are_read_as_they_stand(page: Path, tmp_path: Path) -> None:
    for example in examples("toml"):
        if example.page == page:
            settings = load_settings(written(example, tmp_path))
            Catalog.load(user_models=settings.model, user_endpoints=_endpoints(page, settings.endpoint))


def written(example: Example, folder: Path) -> Path:
    """A settings file with one example."""
    file = folder / f"{example.number}.toml"
    file.write_text(example.code)
    return file


def _endpoints(page: Path, own: tuple[dict[str, object], ...]) -> list[dict[str, object]]:
    """The endpoints of an example, and those of the page's others that its rows may name."""
    found = {str(row["id"]): row for row in own}
    for example in examples("toml"):
        if example.page == page:
            for row in tomllib.loads(example.code).get("endpoint", ()):
                found.setdefault(row["id"], row)
    return list(found.values())


def test_the_priors_of_a_page_are_read_by_files_and_by_imports(tmp_path: Path) -> None:
    found = list(examples("priors"))
    assert len(found) == 2
    for example in found:
        kind = ".json" if example.code.startswith("{") else ".toml"
        file = tmp_path / f"{example.number}{kind}"
        file.write_text(example.code)
        assert PriorFiles.read([file]).given
        document = json.loads(example.code) if kind == ".json" else tomllib.loads(example.code)
        assert Priors.model_validate(document).given


def test_every_field_of_routing_is_described() -> None:
    described = (DOCS / "routing.md").read_text(encoding="utf-8")
    assert not [name for name in IntentBody.model_fields if f"`{name}`" not in described]


def test_headers_of_an_answer_that_come_back_are_no_wishes() -> None:
    described = re.findall(
        r"`(x-roundhouse-[a-z-]+)`", (DOCS / "api.md").read_text(encoding="utf-8").split("Each field")[0]
    )
    assert len(described) >= 10
    body = ChatRequest.model_validate({"model": "auto", "messages": [{"role": "user", "content": "Hello"}]})
    assert read_chat(body, dict.fromkeys(described, "any")).intent == read_chat(body).intent


def test_every_client_that_is_tried_is_named() -> None:
    text = (DOCS / "clients.md").read_text(encoding="utf-8").lower()
    tried = tomllib.loads((ROOT / "tests" / "clients" / "clients.toml").read_text())["client"]
    assert not [name for name in tried if name not in text and name.partition("-")[0] not in text]


def test_every_header_of_ours_is_described() -> None:
    named = {
        header
        for package in ("server", "routing", "backends", "catalog")
        for path in (ROOT / package).rglob("*.py")
        if not path.is_relative_to(WORKERS)
        for header in _HEADER.findall(path.read_text())
    }
    described = "".join(page.read_text(encoding="utf-8") for page in DOCS.glob("*.md"))
    assert not sorted(header for header in named if f"`{header}" not in described)
