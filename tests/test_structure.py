"""The structure of the project: sizes of files and folders, one name for each thing, one alias for JSON."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("server", "routing", "backends", "catalog")
LONGEST_FILE = 500
MOST_MODULES = 16
SHARED_NAMES: dict[str, str] = {}
"""Class names that several modules may define, each with the reason why."""


@cache
def modules(*folders: str) -> tuple[Path, ...]:
    """The Python files of these folders of the project, relative to its root."""
    return tuple(sorted(path.relative_to(ROOT) for folder in folders for path in (ROOT / folder).rglob("*.py")))


def module_level(node: ast.AST) -> Iterator[ast.stmt]:
    """Statements of a module, those within its ``if`` and ``try`` blocks included."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child
            if isinstance(child, ast.If | ast.Try):
                yield from module_level(child)


def defined(statement: ast.stmt) -> Iterator[str]:
    """The names that an assignment or a type alias defines."""
    if isinstance(statement, ast.Assign):
        yield from (target.id for target in statement.targets if isinstance(target, ast.Name))
    elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        yield statement.target.id


@pytest.mark.parametrize("folder", [*PACKAGES, "tests", "deploy"])
def test_no_file_has_more_than_five_hundred_lines(folder: str) -> None:
    lines = {str(path): len((ROOT / path).read_text().splitlines()) for path in modules(folder)}
    too_long = [f"{path}: {count} lines" for path, count in lines.items() if count > LONGEST_FILE]
    assert not too_long, "\n".join(too_long)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_folder_has_more_than_sixteen_modules(package: str) -> None:
    counts: dict[str, int] = defaultdict(int)
    for path in modules(package):
        if path.name != "__init__.py":
            counts[str(path.parent)] += 1
    too_many = [f"{folder}: {count} modules" for folder, count in counts.items() if count > MOST_MODULES]
    assert not too_many, "\n".join(too_many)


def test_a_public_class_has_a_name_of_its_own() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in modules(*PACKAGES):
        for statement in module_level(ast.parse((ROOT / path).read_text())):
            if isinstance(statement, ast.ClassDef) and not statement.name.startswith("_"):
                places[statement.name].append(str(path))
    several = {name: found for name, found in places.items() if len(found) > 1}
    clashes = [f"{name}: {', '.join(found)}" for name, found in several.items() if name not in SHARED_NAMES]
    assert not clashes, "\n".join(clashes)
    assert SHARED_NAMES.keys() <= several.keys(), "an exception that is needed no more"


def test_the_alias_of_a_json_object_is_defined_once() -> None:
    places = [
        str(path)
        for path in modules(*PACKAGES, "tests", "deploy")
        for statement in module_level(ast.parse((ROOT / path).read_text()))
        if "Json" in defined(statement)
    ]
    assert places == ["catalog/types.py"]


@pytest.mark.parametrize("folder", [*PACKAGES, "tests", "deploy"])
def test_a_docstring_names_its_subject(folder: str) -> None:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (
        (path, ast.get_docstring(node) or "")
        for path in modules(folder)
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, documented)
    )
    assert not [f"{path}: {text[:60]}" for path, text in found if text.startswith(("Who ", "What ", "Whose "))]
