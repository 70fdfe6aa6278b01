"""What is measured side by side: Roundhouse, LiteLLM's proxy, nginx, all in front of one fast upstream."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.client import Target
from tests.e2e.serving import free_port

ROOT = Path(__file__).parents[2]
LITELLM = ROOT / ".venv-litellm"
KEY = "rh-bench-0123456789abcdef"


@dataclass(frozen=True)
class Contestant:
    """A server under test. ``pid`` is ``None`` for what has no process of its own."""

    name: str
    base: str
    model: str
    pid: int | None = None
    key: str | None = None

    def target(self, path: str = "/chat/completions") -> Target:
        """Where its requests go."""
        return Target(self.base + path, {"authorization": f"Bearer {self.key}"} if self.key else {})


@contextmanager
def upstream() -> Iterator[Contestant]:
    """The fast upstream itself."""
    port = free_port()
    with _process([sys.executable, "-m", "tests.bench.upstream", str(port)], cwd=ROOT) as process:
        _wait_port(port, process)
        yield Contestant("direct", f"http://127.0.0.1:{port}/v1", "fast", process.pid)


ROW = """
[[model]]
id = "bench-{name}"
capabilities = ["chat", "embed"]
limits = {{ context_window = 128000 }}
price = {{ input = 1.0, output = 2.0 }}
source = {{ kind = "upstream", endpoint = "bench", model = "{name}" }}
"""


@contextmanager
def roundhouse(
    folder: Path,
    behind: Contestant,
    *arguments: str,
    rows: Sequence[str] = ("fast",),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Contestant]:
    """One gateway with a key, the router and everything that is on by default.

    ``rows`` are the behaviours of :mod:`tests.bench.upstream` to have as models, ``bench-NAME``; a request for
    ``auto`` goes to one of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = f'[[endpoint]]\nid = "bench"\nbase_url = "{behind.base}"\n'
    text += "".join(ROW.format(name=name) for name in rows)
    (folder / "roundhouse.toml").write_text(text, encoding="utf-8")
    port = free_port()
    command = [sys.executable, "-m", "server.cli", "serve", "--port", str(port), *arguments]
    env = {
        "PYTHONPATH": str(ROOT),
        "ROUNDHOUSE_DATA_DIR": str(folder / "data"),
        "ROUNDHOUSE_API_KEYS": KEY,
        **(environment or {}),
    }
    with _process(command, cwd=folder, env=env) as process:
        _wait_http(f"http://127.0.0.1:{port}/ready", process, folder / "log")
        yield Contestant("Roundhouse", f"http://127.0.0.1:{port}/v1", "auto", process.pid, KEY)


@contextmanager
def litellm(folder: Path, behind: Contestant) -> Iterator[Contestant | None]:
    """LiteLLM's proxy from an environment of its own; ``None`` when it cannot be installed."""
    if not _install_litellm():
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(
        "model_list:\n  - model_name: bench\n    litellm_params:\n      model: openai/fast\n"
        f"      api_base: {behind.base}\n      api_key: none\n"
        f"general_settings:\n  master_key: {KEY}\n",
        encoding="utf-8",
    )
    port = free_port()
    command = [
        str(LITELLM / "bin" / "litellm"),
        "--config",
        "config.yaml",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    env = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}
    with _process(command, cwd=folder, env=env) as process:
        _wait_http(f"http://127.0.0.1:{port}/health/liveliness", process, folder / "log", within=120)
        yield Contestant("LiteLLM", f"http://127.0.0.1:{port}/v1", "bench", process.pid, KEY)


NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 10000000;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream behind {{ server {address}; keepalive 64; keepalive_requests 10000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://behind; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""


@contextmanager
def nginx(folder: Path, behind: Contestant) -> Iterator[Contestant | None]:
    """nginx as a bare proxy: what any hop costs at least. ``None`` where it is not installed."""
    binary = shutil.which("nginx")
    if binary is None:
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    address = behind.base.removeprefix("http://").removesuffix("/v1")
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, address=address, port=port), encoding="utf-8")
    with _process([binary, "-p", str(folder), "-c", str(config)], cwd=folder) as process:
        _wait_port(port, process)
        yield Contestant("nginx", f"http://127.0.0.1:{port}/v1", "fast", process.pid)


def _install_litellm() -> bool:
    if (LITELLM / "ready").exists():
        return True
    python = LITELLM / "bin" / "python"
    try:
        subprocess.run([sys.executable, "-m", "venv", str(LITELLM)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "litellm[proxy]"], check=True)
    except subprocess.CalledProcessError:
        return False
    (LITELLM / "ready").touch()
    return True


@contextmanager
def _process(
    command: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    log = (cwd if cwd != ROOT else Path(os.devnull).parent) / ("log" if cwd != ROOT else "null")
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, cwd=cwd, stdout=sink, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_port(port: int, process: subprocess.Popen[bytes], within: float = 20.0) -> None:
    end = time.monotonic() + within
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise SystemExit(f"nothing listens on port {port}")


def _wait_http(url: str, process: subprocess.Popen[bytes], log: Path, within: float = 30.0) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + within
    while time.monotonic() < end and process.poll() is None:
        try:
            with opener.open(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"{url} did not become ready:\n{log.read_text(errors='replace')[-4000:]}")
