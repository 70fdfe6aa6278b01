"""The engines and how they are run."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

from backends.workers.engines.registry import builtin_engines


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
    assert builtin_engines().missing("warp-drive") is not None


def test_the_command_holds_no_shell_and_no_secret() -> None:
    for engine in builtin_engines().values():
        assert Path(engine.command[0]) == Path(sys.executable)
