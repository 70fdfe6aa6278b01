"""A wrong model row is told the same way at the start, on SIGHUP, and by ``list``, ``doctor`` and ``show``."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from catalog.errors import RoundhouseError
from catalog.model import Model
from server.app import create_app
from server.assembly import open_runtime
from server.cli import app
from server.edge.services import Services
from server.processes.reload import apply_settings
from server.settings import Settings, load_settings
from tests.fakes.gguf import chat_model

RUNNER = CliRunner()
COMMANDS = (("list",), ("doctor",), ("show", "smollm2-135m-instruct"))
REMOTE = "source = { kind = 'upstream', endpoint = 'lab', model = 'm' }"
LAB = "[[endpoint]]\nid = 'lab'\nbase_url = 'http://127.0.0.1:9/v1'\n"


def row(fields: str, *, name: str = "m", source: str = "source = { kind = 'path', path = '/x.gguf' }") -> str:
    can = "" if "capabilities" in fields else "capabilities = ['chat']\n"
    return f"[[model]]\nid = '{name}'\n{can}{source}\n{fields}\n"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROUNDHOUSE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "400")
    return tmp_path


def at_start(settings: Settings) -> str:
    async def start() -> None:
        started = create_app(settings, open_runtime=open_runtime)
        async with started.router.lifespan_context(started):
            pass

    with pytest.raises(RoundhouseError) as refused:
        asyncio.run(start())
    return refused.value.message


def on_reload(settings: Settings, before: Settings) -> str:
    async def reload() -> None:
        started = create_app(before, open_runtime=open_runtime)
        async with started.router.lifespan_context(started):
            services: Services = started.state.services
            await apply_settings(services, settings)

    with pytest.raises(RoundhouseError) as refused:
        asyncio.run(reload())
    return refused.value.message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (row("engine = 'lamacpp'"), "[[model]] 'm': engine: there is no 'lamacpp'"),
        (
            row("engine = 'llamacpp'\noptions = { pooled = 1 }"),
            "'pooled' of engine llamacpp: there is no such",
        ),
        (row("engine = 'llamacpp'\noptions = { slots = 0 }"), "it must be at least 1 (it is 0)"),
        (row("engine = 'llamacpp'\nkeep_alive = nan"), "keep_alive: it must be a finite number (it is nan)"),
        (row("size = { memory = -1 }"), "size.memory: it must be at least 0 (it is -1)"),
        (row("capabilities = ['fly']"), "capabilities.0: it must be "),
        (row("colour = 'red'"), "colour: there is no such field"),
        (row("", source=""), "source: this field is needed"),
        (row("", source=REMOTE), "lab"),
        (LAB + row("price = { input = -1 }", source=REMOTE), "price.input: it must be at least 0 (it is -1)"),
        (row("engine = 'llamacpp'") * 2, "[[model]] 'm' is given twice"),
        (row("engine = 'llamacpp'", name="auto"), "auto"),
        (LAB.replace("http://", "http://me:planted@"), "[[endpoint]] 'lab': base_url: "),
        (LAB + "protocol = 'morse'\n", "morse"),
        ("[[endpoint]]\nid = 'lab'\nprotocol = 'vertex'\n", "[[endpoint]] 'lab': project: "),
        (
            "[[endpoint]]\nid = 'lab'\nprotocol = 'vertex'\nproject = 'p'\ncredentials_file = '/'\n",
            "credentials_file: /: it is not a regular file",
        ),
    ],
)
def test_a_row_that_cannot_be_right_is_refused_in_the_same_words_everywhere(
    elsewhere: Path, text: str, says: str
) -> None:
    before = load_settings()
    (elsewhere / "roundhouse.toml").write_text(text)
    settings = load_settings()
    told = at_start(settings)
    assert says in told
    assert "planted" not in told
    assert told.endswith("Correct it in roundhouse.toml.")
    assert on_reload(settings, before) == told
    for command in COMMANDS:
        result = RUNNER.invoke(app, list(command))
        assert isinstance(result.exception, RoundhouseError), result.output
        assert result.exception.message == told


def test_a_row_whose_files_are_broken_has_the_same_reason_everywhere(elsewhere: Path) -> None:
    (elsewhere / "whole.gguf").write_bytes(chat_model())
    (elsewhere / "cut.gguf").write_bytes(chat_model()[:40])
    (elsewhere / "not.gguf").write_text("hello")
    os.mkfifo(elsewhere / "fifo.gguf")
    files = {
        "gone": ("gone.gguf", ""),
        "fifo": ("fifo.gguf", ""),
        "cut": ("cut.gguf", ""),
        "eyes": ("whole.gguf", f'options = {{ mmproj = "{elsewhere}/not.gguf" }}'),
        "tuned": ("whole.gguf", f'options = {{ lora = [{{ path = "{elsewhere}/gone.gguf" }}] }}'),
    }
    rows = "".join(
        row(
            f"engine = 'llamacpp'\n{more}",
            name=name,
            source=f"source = {{ kind = 'path', path = '{elsewhere / at}' }}",
        )
        for name, (at, more) in files.items()
    )
    before = load_settings()
    (elsewhere / "roundhouse.toml").write_text(rows)
    settings = load_settings()

    async def reasons(first: Settings) -> dict[str, str]:
        started = create_app(first, open_runtime=open_runtime)
        async with started.router.lifespan_context(started):
            services: Services = started.state.services
            if first is not settings:
                await apply_settings(services, settings)
            assert services.runtime is not None
            found: dict[str, str] = {}
            for name in files:
                model: Any = services.runtime.catalog.get(name)
                assert isinstance(model, Model)
                block = services.runtime.unavailable(model)
                found[name] = "" if block is None else block.reason
            return found

    told = asyncio.run(reasons(settings))
    assert all(told.values())
    assert asyncio.run(reasons(before)) == told
    for name, reason in told.items():
        shown = json.loads(RUNNER.invoke(app, ["show", name]).output)
        assert shown["state"] == {"ready": False, "missing": reason}
        for command in ("list", "doctor"):
            assert f"{name}: {reason}" in RUNNER.invoke(app, [command]).output
