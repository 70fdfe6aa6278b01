"""The reference is whole: generated pages are current, no setting, command or error is without words."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from catalog.errors import RoundhouseError
from server.configuration.tree import ROWS, SectionOfSettings, Setting, every_setting, sections
from server.settings import load_settings
from tests.docs.command_page import commands
from tests.docs.pages import GENERATED, REFERENCE, ROOT
from tests.docs.settings_page import example, rows, tables

ERRORS = REFERENCE / "errors.md"
SETTINGS = list(every_setting())
FIELDS_OF_ROWS = [setting for _, section in rows() for setting in section.settings]
_ROW = re.compile(r"^\| `(\w+)` \| ([\w ]+) \| (.+) \| (.+) \|$", re.MULTILINE)


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_page_is_current(name: str) -> None:
    assert (REFERENCE / name).read_text(encoding="utf-8") == GENERATED[name](), "write it anew: make reference"


@pytest.mark.parametrize("setting", [*SETTINGS, *FIELDS_OF_ROWS], ids=lambda setting: setting.name)
def test_a_setting_says_what_it_means(setting: Setting) -> None:
    assert setting.field.description, "its Field has no description"
    for table in tables(setting.field.annotation):
        assert all(field.description for field in table.model_fields.values()), table.__name__


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_a_setting_has_an_example_unless_its_default_shows_one(setting: Setting) -> None:
    if setting.name not in (*ROWS, "admin_keys", "metrics_keys"):
        assert setting.example not in (None, [], {}, ""), "its Field has no examples"


@pytest.mark.parametrize("section", list(sections()), ids=lambda section: section.name or "top")
def test_the_examples_of_a_section_are_valid_together(
    section: SectionOfSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MY_API_KEYS", "MY_ADMIN_KEYS", "MY_METRICS_KEYS"):
        monkeypatch.setenv(name, "a-key")
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1")
    certificates = import_module("certifi").where()
    text = example(section).replace("/etc/ssl/certs/company.pem", certificates)
    file = tmp_path / "roundhouse.toml"
    file.write_text(text)
    load_settings(file)


def test_every_command_and_option_says_what_it_does() -> None:
    for words, context in commands():
        assert context.command.help, words
        for parameter in context.command.get_params(context):
            record = parameter.get_help_record(context)
            assert record is None or record[1], f"{words} {parameter.name}"


def codes_in_the_source() -> Iterator[tuple[str, str]]:
    """Every code that a class of errors has or that an error is given, with its place."""
    for package in ("server", "routing", "backends", "catalog"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                inside = node.body if isinstance(node, ast.ClassDef) else [node]
                for statement in inside:
                    if (code := _code(statement, own=isinstance(node, ast.ClassDef))) is not None:
                        yield code, str(path.relative_to(ROOT))


def _code(statement: ast.AST, *, own: bool) -> str | None:
    match statement:
        case ast.Assign(targets=[target], value=ast.Constant(value=str(code))):
            pass
        case ast.AnnAssign(target=target, value=ast.Constant(value=str(code))):
            pass
        case _:
            return None
    name = (
        target.attr
        if isinstance(target, ast.Attribute)
        else target.id
        if own and isinstance(target, ast.Name)
        else ""
    )
    return code if name == "code" else None


def test_every_error_code_is_described_and_none_that_is_gone() -> None:
    described = {code for code, *_ in _ROW.findall(ERRORS.read_text(encoding="utf-8"))}
    existing = dict(codes_in_the_source())
    missing = [f"{code} ({place})" for code, place in existing.items() if code not in described]
    assert not missing, f"{ERRORS.name} does not describe: {', '.join(missing)}"
    assert described <= existing.keys(), f"gone: {described - existing.keys()}"


def test_an_error_is_described_with_its_status() -> None:
    statuses = {code: status for code, status, *_ in _ROW.findall(ERRORS.read_text(encoding="utf-8"))}
    errors = [RoundhouseError]
    while errors:
        error = errors.pop()
        errors += error.__subclasses__()
        if error.code in statuses:
            assert statuses[error.code] in (str(error.status), "in a batch"), error.code
