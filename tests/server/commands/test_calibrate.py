"""``roundhouse calibrate`` against a running server: followed, printed, interrupted, cancelled."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.serving import Served, served
from tests.server.calibration.school import PRICE, Pupil, reasoning_answers

QUICK = ("--tasks", "reasoning,maths", "--questions", "3")


@pytest.fixture
async def pupils() -> AsyncIterator[dict[str, Pupil]]:
    async with Pupil() as bright, Pupil() as dull:
        bright.knows = reasoning_answers()
        yield {"bright": bright, "dull": dull}


@pytest.fixture
async def server(tmp_path: Path, pupils: dict[str, Pupil]) -> AsyncIterator[Served]:
    rows = [f'[[endpoint]]\nid = "{name}"\nbase_url = "{pupil.base_url}"\n' for name, pupil in pupils.items()]
    rows += [
        f'[[model]]\nid = "{name}"\ncapabilities = ["chat"]\n'
        f'source = {{ kind = "upstream", endpoint = "{name}", model = "fake-chat" }}\n'
        f"price = {{ input = {PRICE['input']}, output = {PRICE['output']} }}\n"
        for name in pupils
    ]
    (tmp_path / "roundhouse.toml").write_text(f'data_dir = "{tmp_path / "data"}"\n' + "\n".join(rows))
    held = served(tmp_path)
    running = await asyncio.to_thread(held.__enter__)
    yield running
    await asyncio.to_thread(held.__exit__, None, None, None)


async def started(server: Served, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server.cli", "calibrate", *arguments, "--url", server.url),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


async def ended(process: asyncio.subprocess.Process, status: int = 0) -> tuple[str, str]:
    out, err = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == status, err.decode()
    return out.decode(), err.decode()


async def run(server: Served, *arguments: str, status: int = 0) -> tuple[str, str]:
    return await ended(await started(server, *arguments), status)


async def test_scores_priors_and_speed_of_each_model_are_printed(server: Served) -> None:
    out, _ = await run(server, *QUICK)
    rows = [line.split() for line in out.splitlines()]
    scores = {(row[0], row[1]): row[2] for row in rows if len(row) >= 6 and row[1] in ("reasoning", "maths")}
    assert scores == {
        ("bright", "reasoning"): "1.00",
        ("bright", "maths"): "1.00",
        ("dull", "reasoning"): "0.00",
        ("dull", "maths"): "0.00",
    }
    assert "TOKENS/S" in out
    assert out.splitlines()[-1].startswith("completed; $")


async def test_only_the_models_named_are_asked_and_the_result_may_be_json(
    server: Served, pupils: dict[str, Pupil]
) -> None:
    out, _ = await run(server, *QUICK, "--models", "dull", "--json")
    assert list(json.loads(out)["results"]) == ["dull"]
    assert pupils["bright"].asked == []


async def test_a_budget_that_is_too_small_is_said_with_what_to_do(server: Served) -> None:
    out, _ = await run(server, *QUICK, "--budget", "0")
    assert "Run it again with a larger --budget" in out
    assert "out of budget" in out.splitlines()[-1]


async def test_an_interrupted_command_leaves_it_to_the_server_and_the_next_one_follows_or_cancels(
    server: Served, pupils: dict[str, Pupil]
) -> None:
    gate = pupils["dull"].gate = asyncio.Event()
    first = await started(server, *QUICK)
    async with asyncio.timeout(60):
        while len(pupils["dull"].asked) <= 4:
            await asyncio.sleep(0.02)
    first.send_signal(signal.SIGINT)
    _, err = await ended(first, 130)
    assert "It goes on in the server" in err
    follower = await started(server, *QUICK)
    assert follower.stderr is not None
    assert b"following" in await asyncio.wait_for(follower.stderr.readline(), 60)
    out, _ = await run(server, "--cancel")
    assert out.splitlines()[-1].startswith("cancelled; $")
    out, _ = await ended(follower)
    assert out.splitlines()[-1].startswith("cancelled; $")
    gate.set()


async def test_nothing_to_cancel_is_said(server: Served) -> None:
    out, _ = await run(server, "--cancel")
    assert out == "no calibration is running\n"


async def test_an_unknown_model_is_refused_by_name(server: Served) -> None:
    _, err = await run(server, "--models", "nobody", status=4)
    assert "nobody" in err
