"""``roundhouse batch`` against a running server: results in files, resumed, cancelled."""

from __future__ import annotations

import asyncio
import signal
import sys
from codecs import BOM_UTF8
from pathlib import Path
from typing import Any

import orjson
import pytest

from catalog.errors import InvalidRequest
from routing.state.records import Record
from tests.server.batches.helpers import chat_line, jsonl
from tests.server.conftest import Gateway, Start


async def start_command(gateway: Gateway, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server.cli", "batch", *arguments, "--url", gateway.server.url),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        preexec_fn=_take_interrupts,
    )


def _take_interrupts() -> None:
    """A suite that runs in the background of a shell has SIGINT ignored, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


async def finish(process: asyncio.subprocess.Process, status: int = 0) -> str:
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == status, out.decode()
    return out.decode()


async def run(gateway: Gateway, *arguments: str, status: int = 0) -> str:
    return await finish(await start_command(gateway, *arguments), status)


def ids(path: Path) -> list[str]:
    return sorted(orjson.loads(line)["custom_id"] for line in path.read_bytes().splitlines())


async def test_a_file_is_answered_into_files_beside_it(serve: Start, tmp_path: Path) -> None:
    source = tmp_path / "night.jsonl"
    source.write_bytes(jsonl(*(chat_line(f"r{n}") for n in range(5))))
    async with serve() as gateway:
        told = await run(gateway, str(source))
        assert "completed: 5 answered, 0 failed, of 5" in told
        assert ids(tmp_path / "night.results.jsonl") == [f"r{n}" for n in range(5)]
        assert not (tmp_path / "night.errors.jsonl").exists()
        gateway.backend.script = (InvalidRequest("No."),)
        told = await run(gateway, str(source), "--errors", str(tmp_path / "bad.jsonl"), status=1)
        assert "0 answered, 5 failed" in told
        assert ids(tmp_path / "bad.jsonl") == [f"r{n}" for n in range(5)]


async def test_an_unfinished_batch_of_the_file_is_followed_and_not_made_anew(
    serve: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(jsonl(chat_line("a")))
    async with serve() as gateway:
        gate = gateway.dispatcher.gate = asyncio.Event()
        told = await run(gateway, str(source), "--detach")
        (made,) = (await gateway.client.get("/v1/batches")).json()["data"]
        assert made["id"] in told
        runtime = gateway.services.runtime
        assert runtime is not None
        asked, found = asyncio.Event(), runtime.storage.found

        async def watched(kind: str, *arguments: Any, **more: Any) -> Record:
            asked.set()
            return await found(kind, *arguments, **more)

        monkeypatch.setattr(runtime.storage, "found", watched)
        following = await start_command(gateway, str(source))
        await asyncio.wait_for(asked.wait(), 60)
        gate.set()
        await finish(following)
        assert len((await gateway.client.get("/v1/batches")).json()["data"]) == 1
        assert ids(tmp_path / "in.results.jsonl") == ["a"]


async def test_an_interrupt_without_a_terminal_leaves_the_batch_at_work(serve: Start, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(jsonl(chat_line("a"), chat_line("b")))
    async with serve() as gateway:
        gateway.dispatcher.gate = asyncio.Event()
        following = await start_command(gateway, str(source))
        await asyncio.wait_for(gateway.dispatcher.waiting.wait(), 30)
        following.send_signal(signal.SIGINT)
        told = await finish(following, status=130)
        (made,) = (await gateway.client.get("/v1/batches")).json()["data"]
        assert f"roundhouse batch {made['id']}" in told
        assert made["status"] == "in_progress"
        answers, errors = tmp_path / "answers", tmp_path / "errors"
        told = await run(
            gateway, made["id"], "--cancel", "--output", str(answers), "--errors", str(errors), status=1
        )
        assert "cancelled: 0 answered" in told
        assert not answers.exists()
        assert ids(errors) == ["a", "b"]


async def test_cancel_without_an_unfinished_batch_makes_none_and_touches_nothing(
    serve: Start, tmp_path: Path
) -> None:
    source, results = tmp_path / "in.jsonl", tmp_path / "in.results.jsonl"
    source.write_bytes(jsonl(chat_line("a")))
    async with serve() as gateway:
        results.write_text("earlier")
        assert "no unfinished batch" in await run(gateway, str(source), "--cancel", status=1)
        assert results.read_text() == "earlier"
        assert (await gateway.client.get("/v1/batches")).json()["data"] == []


async def test_results_that_could_not_be_written_are_refused_before_a_line_is_asked(
    serve: Start, tmp_path: Path
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(content := jsonl(chat_line("a")))
    one, missing = str(tmp_path / "one"), str(tmp_path / "missing" / "x")
    async with serve() as gateway:
        for arguments, told, status in (
            (("--output", missing), "cannot be written", 1),
            (("--errors", missing), "cannot be written", 1),
            (("--output", one, "--errors", one), "are the same file", 2),
            (("--output", str(source)), "would overwrite", 2),
            (("--errors", str(source)), "would overwrite", 2),
        ):
            assert told in " ".join((await run(gateway, str(source), *arguments, status=status)).split())
        assert (await gateway.client.get("/v1/files")).json()["data"] == []
        assert source.read_bytes() == content


async def test_errors_of_an_earlier_run_do_not_stay_beside_a_run_without_any(serve: Start, tmp_path: Path) -> None:
    source, errors = tmp_path / "in.jsonl", tmp_path / "in.errors.jsonl"
    source.write_bytes(BOM_UTF8 + jsonl({**chat_line("a"), "url": "/chat/completions"}))
    errors.write_text("earlier")
    async with serve() as gateway:
        await run(gateway, str(source))
        assert not errors.exists()
        assert ids(tmp_path / "in.results.jsonl") == ["a"]


async def test_a_file_that_is_no_input_is_told_in_a_line(serve: Start, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    async with serve() as gateway:
        assert "cannot be read" in await run(gateway, str(source), status=1)
        source.write_text("hello\n")
        assert "one JSON object a line" in await run(gateway, str(source), status=1)
        source.write_bytes(jsonl(chat_line("a"), chat_line("a")))
        told = await run(gateway, str(source), status=1)
        assert "line 2: An earlier line has the same 'custom_id'." in told


async def test_a_file_with_lines_of_several_urls_is_refused_once_and_nothing_is_sent(
    serve: Start, tmp_path: Path
) -> None:
    source = tmp_path / "in.jsonl"
    other = {**chat_line("x"), "url": "/v1/embeddings"}
    source.write_bytes(jsonl(chat_line("a"), *[other] * 20, {**chat_line("b"), "url": "/chat/completions"}))
    async with serve() as gateway:
        told = " ".join((await run(gateway, str(source), status=1)).split())
        assert told.count("A batch has one URL") == 1
        assert "20 ask /v1/embeddings" in told
        assert (await gateway.client.get("/v1/files")).json()["data"] == []
