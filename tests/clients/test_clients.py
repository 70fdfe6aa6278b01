"""Each client runs its whole loop through a real server, in its default configuration.

``make test-clients`` runs it. A client's program in ``programs/`` proves by itself that the loop was whole, and
exits with 0. Here its traffic is judged: no answer that it does not expect, no parameter lost that matters,
nothing that a strict upstream refuses, no error in the server's log.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.bench.fetching import own_data
from tests.clients.environments import HERE, Client, Unavailable, installed, path, table
from tests.clients.tap import Exchange, Tap
from tests.e2e.providers import endpoint, model, providers
from tests.e2e.serving import Served, served
from tests.fakes import copier
from tests.fakes.scripted import Scripted

pytestmark = pytest.mark.skipif(
    "ROUNDHOUSE_CLIENTS" not in os.environ,
    reason="installs clients from registries; run it by `make test-clients`",
)
KEY = "sk-of-the-clients"
UPSTREAMS = {"scripted": "capable", "starter": "smollm2-135m-instruct", "strict": "copier"}
"""A model for each kind: a remote one that plays a capable model, a small real one, and a local one whose worker
runs hand-made weights and whose chat template is as strict as any."""
OTHERS = (
    ("capable-embed", "fake-embed", ["embed"]),
    ("capable-image", "gpt-image-1", ["image"]),
    ("capable-ear", "whisper-1", ["transcribe", "translate"]),
    ("capable-voice", "tts-1", ["speak"]),
    # the models of OpenAI's own tests
    ("gpt-6-astra", "fake-chat", ["chat", "json_schema", "tools"]),
    ("model", "fake-chat", ["chat", "json_schema", "tools"]),
    ("gpt-3.5-turbo-instruct", "fake-chat", ["completion"]),
    ("text-embedding-3-small", "fake-embed", ["embed"]),
    ("whisper-1", "whisper-1", ["transcribe", "translate"]),
    ("gpt-4o-transcribe", "whisper-1", ["transcribe"]),
    ("tts-1", "tts-1", ["speak"]),
    ("gpt-image-1.5", "gpt-image-1", ["image"]),
    ("gpt-image-2.5-flare", "gpt-image-1", ["image"]),
    ("omni-moderation-latest", "fake-moderation", ["moderate"]),
)
LOCAL = """
[[model]]
id = "copier"
engine = "llamacpp"
capabilities = ["chat", "completion", "tools", "json_schema"]
limits = {{ context_window = 49152 }}
source = {{ kind = "path", path = "{path}" }}
"""
LEAST = 45.0
"""Seconds that must be left for another client to begin."""
_FAULT = re.compile(r"Traceback|\[error|\[critical|\"level\": ?\"(error|critical)\"")


def chosen() -> list[Client]:
    """The clients that ``ROUNDHOUSE_CLIENTS`` names, or all of the table."""
    names = os.environ.get("ROUNDHOUSE_CLIENTS", "all").split()
    if names == ["all"]:
        return list(table().values())
    if unknown := set(names) - table().keys():
        raise ValueError(f"There are no clients {sorted(unknown)}; the table has {', '.join(table())}.")
    return [table()[name] for name in names]


@pytest.fixture(scope="module")
def end() -> float:
    """When no other client may begin: ``ROUNDHOUSE_CLIENTS_SECONDS`` bounds the run."""
    return time.monotonic() + float(os.environ.get("ROUNDHOUSE_CLIENTS_SECONDS") or 3600)


@pytest.fixture(scope="module")
def commands() -> Iterator[dict[str, Future[list[str]]]]:
    """The command of each client, as soon as it is installed: one installs while another runs."""
    with ThreadPoolExecutor(1) as pool:
        yield {client.name: pool.submit(installed, client) for client in chosen()}
        pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Scripted]:
    fake = Scripted()
    with providers(fake):
        yield fake


@pytest.fixture(scope="module")
def server(upstream: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("server")
    limits = {"context_window": 200_000, "max_output_tokens": 32_000}
    rows = [
        endpoint("scripted", upstream),
        model(UPSTREAMS["scripted"], "fake-chat", at="scripted", limits=limits),
        *(model(name, there, at="scripted", capabilities=able) for name, there, able in OTHERS),
    ]
    copier.write(folder / "copier.gguf")
    rows.append(LOCAL.format(path=folder / "copier.gguf"))
    (folder / "roundhouse.toml").write_text("\n".join(rows))
    with served(folder, "--starter", environment={"ROUNDHOUSE_API_KEYS": KEY, **own_data(folder)}) as running:
        yield running


@pytest.mark.parametrize("kind", UPSTREAMS)
@pytest.mark.parametrize("client", chosen(), ids=lambda client: client.name)
def test_a_client_finishes_its_loop(
    client: Client,
    kind: str,
    server: Served,
    upstream: Scripted,
    commands: dict[str, Future[list[str]]],
    end: float,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if kind == "starter" and client.starter:
        pytest.skip(client.starter)
    if kind == "strict" and client.strict is None:
        pytest.skip("its row says nothing of the model with a strict template")
    if (left := end - time.monotonic()) < LEAST:
        pytest.skip(f"the time is up: {client.name} is not run")
    try:
        command = commands[client.name].result(left)
    except (Unavailable, TimeoutError) as reason:
        pytest.skip(f"{client.name} does not install: {reason or 'the time is up'}")
    if client.needs and missing(server, client.needs):
        pytest.skip(f"{client.needs} is not served")
    if client.fails:
        request.applymarker(pytest.mark.xfail(reason=client.fails, strict=True))
    upstream.refusals.clear()
    upstream.arguments = client.arguments
    logged = server.log.stat().st_size
    tap = Tap(int(server.url.rpartition(":")[2]))
    with providers(tap):
        status, output = run(client, [*command, program(client)], kind, tap.port, tmp_path)
        passed = list(tap.exchanges())
    if client.unjudged:  # a table
        with capsys.disabled():
            print(f"\n{client.name}, {kind}:\n{output}")
    lines = server.log.read_text(errors="replace")[logged:].splitlines()
    complaints = [
        *([f"exit status {status}"] if status else []),
        *(f"refused by the upstream: {refusal}" for refusal in upstream.refusals),
        *judged(client, kind, passed),
        *(f"log: {line}" for line in lines if _FAULT.search(line)),
    ]
    if complaints or not passed:
        (tmp_path / "traffic.txt").write_text(tap.text())
        counted = Counter(f"{exchange.status} {exchange.request} {exchange.dropped or ''}" for exchange in passed)
        traffic = [] if client.unjudged else [f"{count} x {line}" for line, count in counted.items()]
        said = output if len(output) < 10_000 else f"{output[:6000]}\n...\n{output[-4000:]}"
        report = [*complaints, f"--- traffic (whole in {tmp_path})", *traffic, "--- output", said]
        pytest.fail("\n".join(report), pytrace=False)


def judged(client: Client, kind: str, passed: list[Exchange]) -> Iterator[str]:
    """The faults in a client's traffic."""
    lacks = {*client.dropped, *((client.strict or ()) if kind == "strict" else ())}
    for exchange in passed:
        told = f"{exchange.request} {exchange.status}"
        if exchange.status >= 400 and not client.unjudged and told not in client.refused:
            yield f"answered: {told}"
        if lost := set(exchange.dropped) - lacks:
            yield f"left out of {exchange.request}: {', '.join(sorted(lost))}"


def program(client: Client) -> str:
    """The path of a client's program: beside its packages where node looks for them."""
    return str((client.folder if client.program.endswith(".mjs") else HERE / "programs") / client.program)


def missing(server: Served, place: str) -> bool:
    headers = {"authorization": f"Bearer {KEY}"}
    return httpx.get(server.url + place, headers=headers, trust_env=False, timeout=10).status_code == 404


def run(client: Client, command: list[str], kind: str, port: int, folder: Path) -> tuple[int, str]:
    """The exit status and the output of a program, which sees nothing of this machine's settings."""
    url = f"http://127.0.0.1:{port}"
    (folder / "home").mkdir()
    (folder / "work").mkdir()
    environment = {
        "PATH": path(client),
        "HOME": str(folder / "home"),
        "TERM": "dumb",
        "LANG": "C.UTF-8",
        "ROUNDHOUSE_URL": url,
        "ROUNDHOUSE_MODEL": UPSTREAMS[kind],
        "ROUNDHOUSE_UPSTREAM": kind,
        "OPENAI_BASE_URL": f"{url}/v1",
        "OPENAI_API_KEY": KEY,
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": KEY,
        "OLLAMA_HOST": url,
    }
    with subprocess.Popen(
        command,
        cwd=folder / "work",
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=client.limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            output += f"\nended after {client.limit:.0f} s"
    return process.returncode, output
