"""The table of engines, and the interpreters that run them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from backends.workers.engines.environments import LOOK_AGAIN, Environment
from backends.workers.engines.registry import builtin_engines
from catalog.errors import ConfigurationError
from catalog.installing import install_command
from catalog.model import Capability, Model, PathSource


def test_every_engine_of_the_house_has_its_module() -> None:
    engines = builtin_engines()
    for name, engine in engines.items():
        module = engine.command[engine.command.index("--module") + 1]
        assert importlib.util.find_spec(module) is not None, name
        assert engine.slots(2) >= 1
        assert "cpu" in engine.devices


def test_a_missing_package_is_noticed_without_importing_anything() -> None:
    heavy = ("xllamacpp", "onnxruntime", "faster_whisper", "torch", "vllm", "mlx_lm", "llama_cpp", "av")
    script = f"""
import sys
from backends.workers.engines.registry import builtin_engines
engines = builtin_engines()
reasons = [engines.missing(name) for name in engines]
assert not [m for m in {heavy!r} if m in sys.modules]
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_unknown_engine_is_missing() -> None:
    missing = builtin_engines().missing("warp-drive")
    assert missing is not None
    assert missing.message.startswith(
        "There is no engine 'warp-drive'; the engines are diffusion, llama-cpp-python,"
    )


def test_the_command_holds_no_shell_and_no_secret() -> None:
    for engine in builtin_engines().values():
        assert Path(engine.command[0]) == Path(sys.executable)


def test_an_engine_may_have_an_interpreter_of_its_own(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    engines = builtin_engines({"mlx": python})
    assert engines["mlx"].command[0] == str(python)
    assert engines["onnx"].command[0] == sys.executable


def test_an_interpreter_for_an_engine_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="warp-drive"):
        builtin_engines({"warp-drive": Path(sys.executable)})


def test_another_interpreter_is_asked_what_it_can_import(tmp_path: Path) -> None:
    environment = Environment(Path(sys.executable))
    assert environment.lacks(("json", "sqlite3")) is None
    assert environment.lacks(("json", "no_such_package")) == "no_such_package"
    missing = builtin_engines({"mlx": tmp_path / "no-python"}).missing("mlx")
    assert missing is not None
    assert install_command("mlx", python=str(tmp_path / "no-python")) in missing.message
    assert "does not run" in missing.message


def test_an_interpreter_that_lacked_a_package_is_asked_again_later_but_not_each_time(tmp_path: Path) -> None:
    now = 0.0
    asked = tmp_path / "asked"
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho . >> {asked}\n[ -e {tmp_path}/installed ] || echo mlx_lm\n")
    python.chmod(0o755)
    environment = Environment(python, clock=lambda: now)
    assert environment.lacks(("mlx_lm",)) == environment.lacks(("mlx_lm",)) == "mlx_lm"
    assert asked.read_text().count(".") == 1
    (tmp_path / "installed").touch()
    now = LOOK_AGAIN
    assert environment.lacks(("mlx_lm",)) is None
    now = 10 * LOOK_AGAIN
    assert environment.lacks(("mlx_lm",)) is None
    assert asked.read_text().count(".") == 2, "what is there stays there"


def row(engine: str, **options: Any) -> Model:
    return Model(
        id="m",
        capabilities=frozenset({Capability.CHAT}),
        source=PathSource(path="/models/m.gguf"),
        engine=engine,
        options=options,
        origin="user",
    )


def test_the_options_of_every_engine_are_checked_without_importing_its_packages() -> None:
    heavy = ("xllamacpp", "onnxruntime", "faster_whisper", "torch", "vllm", "mlx_lm", "llama_cpp", "av")
    script = f"""
import sys
from tests.backends.workers.engines.test_registry import row
from backends.workers.engines.registry import builtin_engines, check_engines
from catalog.errors import ConfigurationError
engines = builtin_engines()
for name in engines:
    check_engines([row(name, slots=2)], engines)
    try:
        check_engines([row(name, made_up=1)], engines)
    except ConfigurationError as error:
        assert "made_up" in error.message and "'m'" in error.message
    else:
        raise AssertionError(name)
assert not [m for m in {heavy!r} if m in sys.modules]
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("option", ["mmproj", "draft", "chat_template_file", "lora"])
def test_a_file_that_a_row_names_and_that_is_missing_is_named_with_its_option(option: str, tmp_path: Path) -> None:
    file = tmp_path / "file.gguf"
    value: Any = [{"path": str(file)}] if option == "lora" else str(file)
    reason = builtin_engines().missing_file(row("llamacpp", **{option: value}))
    assert reason is not None
    assert f"options.{option}" in reason
    assert str(file) in reason
    file.touch()
    assert builtin_engines().missing_file(row("llamacpp", **{option: value})) is None
