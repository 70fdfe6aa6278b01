"""The modules that start-up imports. Packages that no request has needed yet would only delay it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

START = """
import asyncio, json, sys
from server.settings import load_settings
from server.processes.sockets import loop_factory
from server.app import create_app

async def start():
    app = create_app(load_settings(None, data_dir=sys.argv[1]))
    async with app.router.lifespan_context(app):
        print(json.dumps(sorted(sys.modules)))

with asyncio.Runner(loop_factory=loop_factory()) as runner:
    runner.run(start())
"""

ENGINES = ("xllamacpp", "llama_cpp", "onnxruntime", "tokenizers", "faster_whisper", "ctranslate2", "av", "hibari",
           "pypinyin", "mlx", "mlx_lm", "vllm", "diffusers", "torch", "transformers",
           "apple_fm_sdk", "cyllama", "PIL", "onnx_asr", "pocket_tts")  # fmt: skip
CLIENTS = ("openai", "anthropic", "huggingface_hub", "redis", "keyring", "opentelemetry.sdk")
OWN = ("backends.anthropic", "backends.google", "backends.elevenlabs",
       "backends.ollama", "backends.azure", "server.wires.messages", "server.wires.responses",
       "server.wires.ollama.chat", "server.wires.ollama.lines", "server.wires.ollama.models",
       "server.api.ollama.calls",
       "routing.state.redis", "server.processes.fleet", "server.observability.spans",
       "server.commands")  # fmt: skip
TERMINAL = ("typer", "rich.progress", "rich.live")


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> frozenset[str]:
    """The modules of a gateway that has opened its runtime."""
    return modules(START, str(tmp_path_factory.mktemp("data")))


def modules(code: str, *arguments: str) -> frozenset[str]:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return frozenset(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("name", [*ENGINES, *CLIENTS, *OWN, *TERMINAL])
def test_a_start_does_not_import_it(name: str, started: frozenset[str]) -> None:
    assert name not in started


def test_the_modules_examined_are_those_of_a_real_start(started: frozenset[str]) -> None:
    assert {"server.app", "server.assembly", "backends.local.backend", "fastapi"} <= started


def test_the_packages_of_every_engine_are_in_the_list() -> None:
    from backends.workers.engines.registry import builtin_engines

    assert {package for engine in builtin_engines().values() for package in engine.packages} <= {*ENGINES}


def test_the_command_line_imports_a_command_only_when_it_is_called() -> None:
    loaded = modules("import json, sys, server.cli; print(json.dumps(sorted(sys.modules)))")
    assert "typer" in loaded
    assert not loaded & {
        "pydantic",
        "fastapi",
        "httpx",
        "numpy",
        "server.settings",
        "server.commands.library.local",
    }
