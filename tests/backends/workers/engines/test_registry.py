"""The table of engines, and the interpreters that run them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from backends.workers.engines import environments
from backends.workers.engines.environments import LOOK_AGAIN, Environment
from backends.workers.engines.registry import builtin_engines, check_engines
from catalog.errors import ConfigurationError
from catalog.installing import install_command
from catalog.model import Capability, Model, PathSource
from catalog.toml_rows import builtin_rows
from tests.fakes.gguf import chat_model


def test_every_engine_of_the_house_has_its_module() -> None:
    engines = builtin_engines()
    for name, engine in engines.items():
        module = engine.command[engine.command.index("--module") + 1]
        assert importlib.util.find_spec(module) is not None, name
        assert engine.slots(2) >= 1
        assert "cpu" in engine.devices


def test_a_model_of_mlx_that_sees_takes_one_request_at_a_time() -> None:
    engines = builtin_engines()
    writes = Model(
        id="m", engine="mlx", capabilities=frozenset({Capability.CHAT}), source=PathSource(path="/models/m")
    )
    sees = writes.model_copy(update={"capabilities": frozenset({Capability.CHAT, Capability.VISION})})
    assert (engines.slots(writes, 8), engines.slots(sees, 8)) == (16, 1)
    assert engines.slots(sees.model_copy(update={"engine": "llamacpp"}), 8) > 1


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
        "There is no engine 'warp-drive'; the engines are apple, diffusion, diffusion-video, llama-cpp-python,"
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


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (None, "there is no such file"),
        ("#!/no/such/shell\n", "there is no such file"),
        ("#!/bin/sh\nexit 3\n", "it ended with status 3"),
        ("#!/bin/sh\nkill -9 $$\n", "signal 9"),
        ("#!/bin/sh\nexec sleep 60\n", "no answer within 0.2 seconds"),
    ],
)
def test_an_interpreter_that_does_not_run_is_named_with_its_setting_and_the_reason(
    script: str | None, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "no-python"
    if script is not None:
        python.write_text(script)
        python.chmod(0o755)
    if "sleep" in (script or ""):
        monkeypatch.setattr(environments, "CHECK_TIMEOUT", 0.2)
    engines = builtin_engines({"mlx": python})
    missing = engines.missing("mlx")
    assert missing is not None
    assert "workers.python.mlx" in missing.message
    assert f"{python} does not run" in missing.message
    assert why in missing.message
    assert "Install it" not in missing.message, "an interpreter that does not run cannot install"
    assert [error.message for error in engines.own_pythons_missing()] == [missing.message]


def test_an_interpreter_without_the_engine_gets_the_command_that_installs_it(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho mlx_lm\n")
    python.chmod(0o755)
    missing = builtin_engines({"mlx": python}).missing("mlx")
    assert missing is not None
    assert install_command("mlx", python=str(python)) in missing.message


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
    serves = builtin_engines()[engine].serves or {Capability.CHAT}
    return Model(
        id="m",
        capabilities=frozenset({min(serves)}),
        source=PathSource(path="/models/m.gguf"),
        engine=engine,
        options=options,
        origin="user",
    )


@pytest.mark.parametrize("engine", builtin_engines())
def test_a_row_with_an_endpoint_that_its_engine_cannot_serve_is_refused(engine: str) -> None:
    engines = builtin_engines()
    serves = engines[engine].serves
    both = row(engine).model_copy(update={"capabilities": {Capability.EMBED, Capability.SPEAK}})
    if not serves:
        check_engines([both], engines)
        return
    with pytest.raises(
        ConfigurationError, match=f"the engine '{engine}' cannot (embed|speak); its models"
    ) as told:
        check_engines([both], engines)
    assert told.value.param == "capabilities"
    assert all(each.value in str(told.value) for each in serves)


def test_every_built_in_row_has_what_its_engine_can_serve() -> None:
    engines = builtin_engines()
    for model in builtin_rows()[0]:
        if model.local and model.engine is not None and model.engine in engines:
            serves = engines[model.engine].serves
            assert not serves or model.endpoints <= serves, model.id


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
    file.write_bytes(b"{{ messages }}" if option == "chat_template_file" else chat_model())
    assert builtin_engines().missing_file(row("llamacpp", **{option: value})) is None


GGUF_OPTIONS = [
    ("llamacpp", "mmproj"),
    ("llamacpp", "draft"),
    ("llamacpp", "lora"),
    ("llama-cpp-python", "lora_path"),
]


@pytest.mark.parametrize(("engine", "option"), GGUF_OPTIONS)
@pytest.mark.parametrize("content", ["fifo", "folder", "text", "empty", "cut"])
def test_a_file_of_an_option_is_looked_at_like_the_model(
    engine: str, option: str, content: str, tmp_path: Path
) -> None:
    file = tmp_path / "part.gguf"
    if content == "fifo":
        os.mkfifo(file)
    elif content == "folder":
        file.mkdir()
    else:
        file.write_bytes({"text": b"hello world", "empty": b"", "cut": chat_model()[:40]}[content])
    value: Any = [{"path": str(file)}] if option == "lora" else str(file)
    reason = builtin_engines().missing_file(row(engine, **{option: value})) or ""
    assert f"options.{option}" in reason
    assert "part.gguf" in reason


@pytest.mark.parametrize(("engine", "option"), [("mlx", "adapter_path"), ("vllm", "tokenizer")])
def test_an_option_that_names_a_folder_is_refused_for_a_file(engine: str, option: str, tmp_path: Path) -> None:
    file = tmp_path / "adapter"
    file.write_bytes(b"x")
    assert "no folder" in (builtin_engines().missing_file(row(engine, **{option: str(file)})) or "")
    assert builtin_engines().missing_file(row(engine, **{option: str(tmp_path)})) is None


def in_folder(engine: str, folder: Path, **options: Any) -> Model:
    return row(engine, **options).model_copy(update={"source": PathSource(path=str(folder))})


@pytest.mark.parametrize(
    ("engine", "options", "files"),
    [
        ("onnx", {}, ("tokenizer.json", "model.onnx")),
        ("onnx", {"file": "other.onnx"}, ("tokenizer.json", "other.onnx")),
        ("whisper", {}, ("model.bin", "tokenizer.json")),
        ("speech", {"library": "kokoro"}, ("model.onnx", "voices.bin")),
    ],
)
def test_a_folder_without_a_file_that_its_engine_opens_says_which(
    engine: str, options: dict[str, Any], files: tuple[str, ...], tmp_path: Path
) -> None:
    good = {".json": b'{"model": {}}', ".onnx": b"\x08\x07", ".bin": b"weights"}
    for name in files:
        for other in files:
            (tmp_path / other).write_bytes(good[Path(other).suffix])
        assert builtin_engines().missing_file(in_folder(engine, tmp_path, **options)) is None
        (tmp_path / name).write_bytes(b"")
        assert name in (builtin_engines().missing_file(in_folder(engine, tmp_path, **options)) or "")
        (tmp_path / name).unlink()
        assert name in (builtin_engines().missing_file(in_folder(engine, tmp_path, **options)) or "")
    (tmp_path / files[0]).write_bytes(b"x")
    assert "must be a folder" in (
        builtin_engines().missing_file(in_folder(engine, tmp_path / files[0], **options)) or ""
    )


def test_an_onnx_folder_may_name_its_graph_itself(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(b"{}")
    (tmp_path / "roundhouse.json").write_bytes(b'{"file": "graph.onnx"}')
    assert "graph.onnx" in (builtin_engines().missing_file(in_folder("onnx", tmp_path)) or "")
    (tmp_path / "roundhouse.json").write_bytes(b'{"file"')
    assert "roundhouse.json" in (builtin_engines().missing_file(in_folder("onnx", tmp_path)) or "")


def test_a_path_of_the_home_folder_is_spelt_out_for_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/anna")
    options = builtin_engines().options_of(row("vllm", chat_template_file="~/chat.jinja"))
    assert options is not None
    assert options.model_dump()["chat_template_file"] == Path("/home/anna/chat.jinja")
