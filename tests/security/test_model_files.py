"""Models are read as data, never as code, only from the catalogue, in workers that hold no secret."""

from __future__ import annotations

import os
import pickle
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from backends.queueing import Need
from backends.workers.engines import llamacpp
from backends.workers.engines.vllm import engine as vllm
from backends.workers.process import scrubbed
from backends.workers.spec import WorkerSpec
from catalog.errors import ModelUnavailable, PullError
from catalog.files.gguf import NotGguf, read_header
from catalog.model import Capability, Model, PathSource
from catalog.paths import safe_relative, slug, within
from catalog.selection import RemoteFile, select
from catalog.store.store import Store
from tests.security.conftest import CHAT, PROVIDER_KEY, PROVIDER_KEY_ENV, OpenSite, assert_error

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's own bounds are Linux's")


def row(path: Path, engine: str) -> Model:
    source = PathSource(path=str(path))
    return Model(id="m", capabilities=frozenset({Capability.CHAT}), source=source, engine=engine)


@pytest.mark.parametrize("engine", ["llamacpp", "onnx", "vllm", "mlx", "diffusion", "whisper", "llama-cpp-python"])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt", "model.pth", "model.pkl"])
def test_a_pickle_is_never_opened(tmp_path: Path, engine: str, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(pickle.dumps({"weights": 1}))
    with pytest.raises(ModelUnavailable, match="pickle"):
        Store(tmp_path / "store").path(row(file, engine))


@pytest.mark.parametrize("engine", ["vllm", "mlx", "diffusion"])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "sub/optimizer.pt", "modeling_evil.py", "kernel.so"])
def test_a_folder_with_a_pickle_or_code_is_never_opened(tmp_path: Path, engine: str, name: str) -> None:
    folder = tmp_path / "model"
    (folder / name).parent.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    for config in ("config.json", "model_index.json"):
        (folder / config).write_text("{}")
    store = Store(tmp_path / "store")
    assert store.path(row(folder, engine)) == folder
    (folder / name).write_bytes(b"x")
    with pytest.raises(ModelUnavailable, match="code"):
        store.path(row(folder, engine))


def test_whispers_model_bin_is_ctranslate2s_and_no_pickle(tmp_path: Path) -> None:
    store, weights = Store(tmp_path / "store"), tmp_path / "model.bin"
    weights.write_bytes(struct.pack("<IH", 6, 12) + b"WhisperSpec\0" + bytes(64))
    assert store.path(row(tmp_path, "whisper")) == tmp_path
    for content in (
        pickle.dumps({"a": 1}, protocol=2),
        pickle.dumps({"a": 1}, protocol=4),
        b"PK\x03\x04" + bytes(64),
    ):
        weights.write_bytes(content)
        with pytest.raises(ModelUnavailable, match="pickle"):
            store.path(row(tmp_path, "whisper"))


@pytest.mark.parametrize("engine", ["llamacpp", "onnx", "whisper"])
def test_a_path_that_is_neither_file_nor_folder_is_never_opened(tmp_path: Path, engine: str) -> None:
    pipe = tmp_path / "m.gguf"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero")):
        with pytest.raises(ModelUnavailable, match="neither a file nor a folder"):
            Store(tmp_path / "store").path(row(path, engine))


def test_a_file_that_is_no_gguf_is_no_model_of_llamacpp(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"\x7fELF" + bytes(100))
    with pytest.raises(ModelUnavailable, match="no GGUF"):
        Store(tmp_path / "store").path(row(file, "llamacpp"))


def test_the_hub_selects_no_pickle_and_no_code() -> None:
    names = ("config.json", "pytorch_model.bin", "model.pt", "modeling_evil.py", "model.ckpt")
    with pytest.raises(PullError):
        select([RemoteFile(name, 10, "0" * 64) for name in names])
    chosen = select([RemoteFile(name, 10, "0" * 64) for name in (*names, "model.safetensors")])
    assert {Path(file.name).suffix for file in chosen.files} <= {".json", ".safetensors"}


def test_no_engine_is_told_to_run_a_models_code() -> None:
    spec = WorkerSpec(engine="vllm", model_id="m", path="/models/m", socket="/tmp/s", api_key="k")
    assert "--trust-remote-code" not in vllm.arguments(spec)
    for source in Path("backends").rglob("*.py"):
        assert "trust_remote_code=True" not in source.read_text()


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "a/../../x",
        "/etc/passwd",
        "C:\\x",
        "..\\x",
        "a\\b",
        "",
        ".",
        "a/\0b",
        "\\\\host\\x",
        "C:x",
        "a/..",
        "x\n",
    ],
)
def test_traversal_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(PullError):
        safe_relative(name)
    with pytest.raises(PullError):
        within(tmp_path, name)


def test_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "link").symlink_to("/etc")
    with pytest.raises(PullError, match="link"):
        within(tmp_path / "store", "link/passwd")


def test_a_models_name_is_one_component_of_a_path() -> None:
    for name in ("../../etc", "a/b", "..", "a\\b", "C:", "~", "\0"):
        assert "/" not in slug(name)
        assert "\\" not in slug(name)


@pytest.mark.parametrize(
    "name",
    ["../../../etc/passwd", "/etc/passwd", "near/../far", "near\x00", "file:///etc/passwd", "hub:a/b", "%2e%2e/x"],
)
async def test_names_resolve_through_the_catalogue_only(site: OpenSite, name: str) -> None:
    async with site() as running:
        answer = await running.client.post("/v1/chat/completions", json={**CHAT, "model": name})
        assert_error(answer, 404, "model_not_found")
        assert not running.runtime.pool.snapshot().workers


async def test_a_template_or_an_address_never_comes_from_a_request(site: OpenSite) -> None:
    fields = ("chat_template", "Chat-Template", "api_base", "base_url", "api_key", "extra_headers")
    async with site() as running:
        for field in fields:
            chat: dict[str, Any] = {**CHAT, "max_tokens": 4, field: "{{ x }}"}
            assert_error(await running.client.post("/v1/chat/completions", json=chat), 400)
            assert (await running.client.post("/v1/messages", json=chat)).status_code == 400
            respond = {"model": "near", "input": "x", field: "{{ x }}"}
            assert_error(await running.client.post("/v1/responses", json=respond), 400)


def test_llama_servers_own_ways_to_change_a_template_are_shut() -> None:
    source = Path(llamacpp.__file__).read_text()
    assert "params.endpoint_props = False" in source


def crafted() -> dict[str, bytes]:
    """Invalid GGUF files: cut short, with impossible counts, with arrays within arrays."""

    def text(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    head = b"GGUF" + struct.pack("<I", 3)
    array = text(b"k") + struct.pack("<IIQ", 9, 9, 1) + struct.pack("<IQ", 9, 1) * 5000
    return {
        "only the magic": b"GGUF",
        "cut in its counts": head + b"\x01",
        "huge tensor count": head + struct.pack("<QQ", 2**63, 0),
        "huge pair count": head + struct.pack("<QQ", 0, 2**63),
        "huge key": head + struct.pack("<QQ", 0, 1) + struct.pack("<Q", 2**62) + b"k",
        "huge string": head + struct.pack("<QQ", 0, 1) + text(b"k") + struct.pack("<IQ", 8, 2**60),
        "huge array": head + struct.pack("<QQ", 0, 1) + text(b"k") + struct.pack("<IIQ", 9, 4, 2**60),
        "nested arrays": head + struct.pack("<QQ", 0, 1) + array,
        "unknown type": head + struct.pack("<QQ", 0, 1) + text(b"k") + struct.pack("<I", 99),
        "another version": b"GGUF" + struct.pack("<IQQ", 77, 0, 0),
        "no tensors": head
        + struct.pack("<QQ", 0, 1)
        + text(b"general.architecture")
        + struct.pack("<I", 8)
        + text(b"llama"),
        "noise": head + struct.pack("<QQ", 5, 5) + os.urandom(4096),
    }


@pytest.mark.parametrize("name", [name for name in crafted() if name not in ("no tensors", "huge tensor count")])
def test_the_gateway_reads_no_crafted_header(tmp_path: Path, name: str) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(crafted()[name])
    with pytest.raises(NotGguf):
        read_header(file)


@pytest.mark.engine
@pytest.mark.parametrize("name", ["huge tensor count", "noise"])
def test_a_crafted_gguf_ends_at_worst_its_own_worker(tmp_path: Path, name: str) -> None:
    file, socket = tmp_path / "m.gguf", tmp_path / "w.sock"
    file.write_bytes(crafted()[name])
    spec = WorkerSpec(engine="llamacpp", model_id="m", path=str(file), socket=str(socket), api_key="k")
    reader, writer = os.pipe()
    worker = subprocess.run(
        [sys.executable, "-m", "backends.workers.program.main", "--module", "backends.workers.engines.llamacpp",
         "--ready-fd", str(writer)],
        input=spec.model_dump_json().encode() + b"\n", capture_output=True, pass_fds=(writer,), timeout=60,
        check=False, start_new_session=True,
    )  # fmt: skip
    os.close(writer)
    said = os.read(reader, 4096)
    os.close(reader)
    assert worker.returncode != 0
    assert not said.startswith(b"ready")


def test_a_worker_inherits_no_secret() -> None:
    environment = {
        "PATH": "/bin", "OPENAI_API_KEY": "x", "ANTHROPIC_API_KEY": "x", "HF_TOKEN": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "NVIDIA_API_KEY": "x", "VLLM_API_KEY": "x", "XDG_SESSION_TOKEN": "x", "ROUNDHOUSE_API_KEYS": "x",
        "FOO": "x",
        "LD_PRELOAD": "x", "PYTHONPATH": "x", "PYTHONSTARTUP": "x", "http_proxy": "x",
        "NVIDIA_VISIBLE_DEVICES": "all",
    }  # fmt: skip
    assert {name for name, value in scrubbed(environment).items() if value == "x"} == set()
    assert scrubbed(environment)["NVIDIA_VISIBLE_DEVICES"] == "all"


@LINUX
async def test_a_running_worker_has_no_keys_and_can_gain_no_privileges(
    site: OpenSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-should-stay-in-the-gateway")
    async with site() as running:
        runtime = running.runtime
        near = runtime.catalog.resolve("near").model_copy(update={"id": "main", "engine": "fake-main"})
        view = await runtime.pool.load(near)
        process = Path(f"/proc/{view.pid}")
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines() if ":" in line)
        assert status["NoNewPrivs"].strip() == "1"
        limits = (process / "limits").read_text()
        assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE), "a core file would hold prompts"
        environment = (process / "environ").read_bytes()
        assert b"sk-should-stay" not in environment
        assert PROVIDER_KEY.encode() not in environment
        assert PROVIDER_KEY_ENV.encode() not in environment
        arguments = (process / "cmdline").read_bytes()
        assert PROVIDER_KEY.encode() not in arguments
        async with runtime.pool.lease(near, Need()) as upstream:
            assert upstream.api_key
            assert upstream.api_key.encode() not in arguments + environment
            assert upstream.uds is not None
            assert os.stat(os.path.dirname(upstream.uds)).st_mode & 0o777 == 0o700  # noqa: PTH116, PTH120
