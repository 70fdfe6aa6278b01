"""Other gateways in front of the same upstream: nginx, LiteLLM's proxy, Portkey's gateway.

Each raises :class:`~tests.bench.fetching.Unavailable` where it cannot be installed or does not start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tests.bench import fetching
from tests.bench.bench import Bench
from tests.bench.contestants import KEY, Contestant, started, wait_http, wait_port
from tests.e2e.serving import free_port

NGINX, LITELLM, PORTKEY = "nginx", "LiteLLM", "Portkey's gateway"

NGINX_CONF = """
daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
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
def nginx(bench: Bench, folder: Path, behind: Contestant) -> Iterator[Contestant]:
    """nginx as a bare proxy in one process, with its files in ``folder``: the least that a hop costs."""
    binary = fetching.nginx_binary(bench)
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    address = behind.base.removeprefix("http://").removesuffix("/v1")
    config = folder / "nginx.conf"
    config.write_text(NGINX_CONF.format(folder=folder, address=address, port=port), encoding="utf-8")
    command = [str(binary), "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(config)]
    with started(command, cwd=folder) as process:
        wait_port(port, process)
        yield Contestant(NGINX, f"http://127.0.0.1:{port}/v1", "fast", process.pid)


@contextmanager
def litellm(bench: Bench, folder: Path, behind: Contestant) -> Iterator[Contestant]:
    """LiteLLM's proxy with a key, from an environment of its own."""
    python = fetching.environment(bench, "litellm", "litellm[proxy]")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(
        "model_list:\n  - model_name: bench\n    litellm_params:\n      model: openai/fast\n"
        f"      api_base: {behind.base}\n      api_key: none\n"
        f"general_settings:\n  master_key: {KEY}\n",
        encoding="utf-8",
    )
    port = free_port()
    binary = str(python.parent / "litellm")
    command = [binary, "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)]
    env = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}
    with started(command, cwd=folder, env=env) as process:
        wait_http(f"http://127.0.0.1:{port}/health/liveliness", process, folder / "log", within=120)
        yield Contestant(LITELLM, f"http://127.0.0.1:{port}/v1", "bench", process.pid, KEY)


PORTKEY_PACKAGE = {
    "private": True,
    "dependencies": {"@portkey-ai/gateway": "1.15.2"},
    # Later ones answer streams with 500: https://github.com/Portkey-AI/gateway/issues/1389
    "overrides": {"@hono/node-server": "1.13.5"},
}


@contextmanager
def portkey(bench: Bench, folder: Path, behind: Contestant) -> Iterator[Contestant]:
    """Portkey's gateway on Node.js; it knows no keys of its own, and headers name the upstream."""
    package = fetching.node_package(bench, "portkey", PORTKEY_PACKAGE)
    program, _ = fetching.node(bench)
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    script = package / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    with started([str(program), str(script), f"--port={port}", "--headless"], cwd=folder) as process:
        wait_http(f"http://127.0.0.1:{port}/", process, folder / "log")
        headers = {"x-portkey-provider": "openai", "x-portkey-custom-host": behind.base}
        yield Contestant(PORTKEY, f"http://127.0.0.1:{port}/v1", "fast", process.pid, KEY, headers)


PEERS: dict[str, Callable[[Bench, Path, Contestant], AbstractContextManager[Contestant]]] = {
    NGINX: nginx,
    PORTKEY: portkey,
    LITELLM: litellm,
}
