"""Isolation of workers: private sockets and keys, an environment without secrets, and their logs."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path

import psutil

from backends.queueing import Need
from tests.backends.workers.conftest import OpenPool, client, model


async def test_the_sockets_folder_is_private_and_gone_afterwards(open_pool: OpenPool) -> None:
    async with open_pool() as h, h.pool.lease(model(), Need()) as upstream:
        socket = Path(upstream.uds)
        assert len(str(socket)) < 108
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    assert not socket.parent.exists()


async def test_a_worker_answers_only_its_own_key(open_pool: OpenPool) -> None:
    async with open_pool() as h, h.pool.lease(model(), Need()) as upstream:
        async with client(upstream) as http:
            refused = await http.post("/chat/completions", json={}, headers={"Authorization": "Bearer other"})
        assert refused.status_code == 401
        assert upstream.api_key not in repr(upstream)
        assert upstream.api_key not in " ".join(psutil.Process(h.view().pid).cmdline())


async def test_a_workers_environment_holds_no_secrets(open_pool: OpenPool) -> None:
    secrets = {"OPENAI_API_KEY": "sk-secret", "VLLM_API_KEY": "x", "HF_TOKEN": "y", "MY_VAR": "z"}
    environment = {**os.environ, **secrets}
    async with open_pool(environment=environment) as h:
        await h.pool.load(model())
        seen = psutil.Process(h.view().pid).environ()
        assert not set(secrets) & set(seen)
        assert seen["PATH"] == os.environ["PATH"]
        assert seen["OMP_WAIT_POLICY"] == "passive"


async def test_a_worker_never_reports_its_use_to_the_makers_of_engines(open_pool: OpenPool) -> None:
    switches = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK")
    async with open_pool(environment={**os.environ, **dict.fromkeys(switches, "0")}) as h:
        await h.pool.load(model())
        seen = psutil.Process(h.view().pid).environ()
        assert [seen[name] for name in switches] == ["1"] * 4


async def test_the_log_is_there_after_the_worker_is_gone(open_pool: OpenPool) -> None:
    async with open_pool() as h:
        await h.ask(model())
        os.kill(h.view().pid, signal.SIGKILL)
        await h.until(lambda: h.view().pid is None)
        assert await h.pool.log("m", lines=1) == "fake worker of m listens\n"
        assert await h.pool.log("never heard of") == ""
