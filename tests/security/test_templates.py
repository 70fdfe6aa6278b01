"""A model's chat template is untrusted code: it runs in the worker, sees only messages, and has a time limit."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from backends.queueing import Need
from backends.workers.pool import WorkerState
from catalog.errors import WorkerFailed
from catalog.model import Model
from tests.backends.workers.conftest import client
from tests.backends.workers.engines.test_real import starter, supervisor

pytestmark = pytest.mark.engine

PLAIN = "{% for m in messages %}{{ m.content }}{% endfor %}"
LOOP = "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}" * 50


def with_template(folder: Path, template: str) -> Model:
    file = folder / "template.jinja"
    file.write_text(template)
    row = starter("smollm2-135m-instruct")
    return row.model_copy(update={"options": {**row.options, "chat_template_file": str(file)}})


async def rendered(folder: Path, template: str) -> str | None:
    """The prompt that the worker makes of ``hello``; None when it refuses the template."""
    row = with_template(folder, template)
    async with supervisor(folder, slots=1) as pool:
        try:
            async with pool.lease(row, Need()) as upstream, client(upstream) as http:
                body = {"messages": [{"role": "user", "content": "hello"}]}
                answer = await http.post("http://worker/apply-template", json=body)
        except WorkerFailed:
            return None
        return str(answer.json()["prompt"]) if answer.status_code == 200 else None


@pytest.mark.parametrize(
    "escape",
    [
        "{{ ().__class__.__base__.__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ self._TemplateReference__context }}",
        "{% include '/etc/passwd' %}",
        "{% import '/etc/passwd' as x %}",
        "{{ lipsum.__globals__['os'].environ }}",
    ],
)
async def test_a_template_reaches_nothing_but_its_messages(tmp_path: Path, escape: str) -> None:
    """The template fails to load, is refused, or renders nothing in that place."""
    prompt = await rendered(tmp_path, f"[{escape}]{PLAIN}")
    assert prompt is None or prompt.replace(" ", "") == "[]hello", prompt


async def test_a_template_that_reaches_for_nothing_is_rendered(tmp_path: Path) -> None:
    assert await rendered(tmp_path, f"[]{PLAIN}") == "[]hello"


async def test_a_template_without_end_ends_with_its_worker(tmp_path: Path) -> None:
    """The request times out; its worker, which goes on computing, is ended; a new one answers the next request."""
    sometimes = f"{{% if messages[0].content == 'loop' %}}{LOOP}{{% endif %}}{PLAIN}"
    row = with_template(tmp_path, sometimes)
    body = {"max_tokens": 4, "messages": [{"role": "user", "content": "hello"}]}
    async with supervisor(tmp_path, slots=1, runaway=1.0, sample_interval=0.1) as pool:
        async with pool.lease(row, Need()) as upstream, client(upstream) as http:
            assert (await http.post("/chat/completions", json=body)).status_code == 200
            (before,) = pool.snapshot().workers
            looping = {**body, "messages": [{"role": "user", "content": "loop"}]}
            with pytest.raises(httpx.ReadTimeout):
                await http.post("/chat/completions", json=looping, timeout=1.0)
        async with asyncio.timeout(30):
            while pool.snapshot().workers[0].pid == before.pid:
                await asyncio.sleep(0.05)
        async with pool.lease(row, Need()) as upstream, client(upstream) as http:
            assert (await http.post("/chat/completions", json=body)).status_code == 200
        (after,) = pool.snapshot().workers
        assert (after.state, after.pid != before.pid) == (WorkerState.READY, True)


async def test_a_template_without_end_keeps_its_model_from_starting_and_no_longer_than_a_start_may_take(
    tmp_path: Path,
) -> None:
    """llama.cpp renders a template while it loads, to detect its capabilities."""
    row = with_template(tmp_path, LOOP + PLAIN)
    async with supervisor(tmp_path, slots=1, start_timeout=4.0, stop_grace=0.5) as pool:
        with pytest.raises(WorkerFailed, match="not ready within 4 s"):
            await pool.load(row)
        assert pool.snapshot().workers[0].pid is None


async def test_a_template_that_takes_all_memory_ends_with_its_worker_and_the_error_says_so(
    tmp_path: Path,
) -> None:
    doubles = (
        "{% set ns = namespace(s='x' * 1000) %}{% for i in range(40) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}"
    )
    row = with_template(tmp_path, doubles + PLAIN)
    budget = 1200 * 2**20
    async with supervisor(tmp_path, slots=1, memory={"cpu": budget}) as pool:
        with pytest.raises(WorkerFailed, match="more than the 1200 MiB left for it"):
            await pool.load(row)
        assert pool.snapshot().workers[0].pid is None
