"""Logs: their format and fields, and that they contain no key or prompt."""

from __future__ import annotations

import io
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO, cast

import orjson
import pytest
import structlog

from backends.workers.logs import WorkerLog
from backends.workers.observer import NoObserver
from backends.workers.process import WorkerProcess
from backends.workers.settings import WorkerSettings
from backends.workers.worker import Launch, Worker
from catalog.errors import ModelUnavailable, WorkerFailed
from catalog.model import Capability
from routing.facts import Facts
from routing.outcomes import Outcome, Result
from server.observability.events import AttemptLog, WorkerEvents
from server.observability.logging import BatchedStream, Console, configure_logging, configure_structlog
from server.observability.settings import LogSettings
from tests.server.api.test_chat import BODY, PATH
from tests.server.conftest import Start
from tests.server.fakes import CHAT, chunk

KEY = "planted-key-Zx81"
PROMPT = "planted-prompt-Qy92"


class FullDisk(io.StringIO):
    """A stream that refuses what it is given while it is full."""

    full = True

    def write(self, text: str) -> int:
        if self.full:
            raise OSError("No space left on device")
        return super().write(text)


def test_lines_that_cannot_be_written_raise_nothing_and_are_counted_once_writing_works_again() -> None:
    sink = FullDisk()
    settings = LogSettings(format="json")
    configure_structlog(settings, cast("TextIO", BatchedStream(sink, settings)))
    for _ in range(3):
        structlog.get_logger().info("lost")
    sink.full = False
    structlog.get_logger().info("written")
    lines = [orjson.loads(line) for line in sink.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["written", "lines of the log were lost"]
    assert lines[1]["lines"] == 3


@pytest.mark.parametrize("colors", [False, True])
def test_a_console_line_is_one_line_whatever_its_values(colors: bool) -> None:
    entry = {
        "timestamp": "2026-11-22T05:37:01Z",
        "level": "info",
        "event": "request",
        "status": 200,
        "path": "/v1/a b\n\x1b[2Jlevel=error",
        "key": "anonymous",
    }
    line = Console(colors=colors)(None, "info", dict(entry))
    plain = re.sub(r"\x1b\[\d+m", "", line)
    assert plain.split() == [
        "2026-11-22T05:37:01Z",
        "[info",
        "]",
        "request",
        "key=anonymous",
        "path='/v1/a",
        "b\\n\\x1b[2Jlevel=error'",
        "status=200",
    ]
    assert (line != plain) is colors
    below = Console(colors=colors)(None, "error", {**entry, "exception": "Traceback\nValueError"})
    assert below == f"{line}\nTraceback\nValueError"


@pytest.fixture
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


async def test_a_key_and_a_prompt_appear_nowhere(start: Start, logs: io.StringIO) -> None:
    body = {**BODY, "messages": [{"role": "user", "content": PROMPT}]}
    seen = []

    class Broken:
        def __iter__(self) -> Iterator[object]:
            raise RuntimeError(f"{PROMPT} {KEY}")

    async with start(api_keys=KEY, log={"access": True}) as gateway:
        headers = {"authorization": f"Bearer {KEY}"}
        for script in (
            gateway.backend.script,
            (WorkerFailed("It died."),),
            (chunk("a"), WorkerFailed("x")),
            Broken(),
        ):
            gateway.backend.script = script  # type: ignore[assignment]
            for stream in (False, True):
                answer = await gateway.client.post(PATH, json={**body, "stream": stream}, headers=headers)
                seen.append(answer.text)
        seen.append((await gateway.client.post(PATH, json={**body, "temperature": PROMPT}, headers=headers)).text)
        seen.append((await gateway.client.post(PATH, json=body, headers={"x-api-key": KEY + "x"})).text)
        seen.append((await gateway.client.get("/metrics", headers=headers)).text)
        trace = (await gateway.client.post(PATH, json=body, headers=headers)).headers.get("x-roundhouse-trace", "")
        seen.append((await gateway.client.get(f"/v1/traces/{trace}", headers=headers)).text)
    everything = logs.getvalue() + "".join(seen)
    assert "request failed" in everything
    assert "RuntimeError" in everything
    assert KEY not in everything
    assert PROMPT not in everything


async def test_a_request_is_one_line_with_its_ids(start: Start, logs: io.StringIO) -> None:
    async with start(log={"access": True}) as gateway:
        answer = await gateway.client.post(PATH, json=BODY, headers={"x-request-id": "mine"})
    lines = [orjson.loads(line) for line in logs.getvalue().splitlines()]
    (line,) = [line for line in lines if line["event"] == "request"]
    assert line["request_id"] == "mine"
    assert line["trace"] == answer.headers["x-roundhouse-trace"]
    assert (line["method"], line["path"], line["status"], line["key"]) == ("POST", PATH, 200, "anonymous")


def test_values_that_look_like_secrets_are_hidden(logs: io.StringIO) -> None:
    log = structlog.get_logger()
    log.info("calling", authorization="abc", note="Bearer abcdefghijkl", other="sk-abcdefghijkl used")
    assert "abc" not in logs.getvalue().replace("[hidden]", "")


def test_exception_messages_are_logged_when_prompts_are() -> None:
    stream = io.StringIO()
    configure_structlog(LogSettings(format="json", prompts=True), stream)
    try:
        raise ValueError("the message")
    except ValueError:
        structlog.get_logger().error("failed", exc_info=True)
    assert "the message" in stream.getvalue()


@pytest.mark.usefixtures("_restored")
def test_libraries_log_in_the_same_format_and_never_prompts_or_answers() -> None:
    stream = io.StringIO()
    configure_logging(LogSettings(format="json", level="debug"), stream)
    logging.getLogger("sse_starlette.sse").debug("chunk: %s", PROMPT)
    logging.getLogger("some.library").warning("told %s", "you")
    try:
        raise ValueError(PROMPT)
    except ValueError:
        logging.getLogger("asyncio").exception("failed")
    lines = [orjson.loads(line) for line in stream.getvalue().splitlines()]
    assert lines[0]["event"] == "told you"
    assert lines[0]["logger"] == "some.library"
    assert "ValueError" in lines[1]["exception"]
    assert PROMPT not in stream.getvalue()


async def test_every_line_of_a_request_has_its_ids_also_those_of_its_stream(
    start: Start, logs: io.StringIO
) -> None:
    async with start(log={"access": True}) as gateway:
        gateway.backend.script = (chunk("a"), WorkerFailed("It died."))
        headers = {"x-request-id": "mine"}
        answer = await gateway.client.post(PATH, json={**BODY, "stream": True}, headers=headers)
        metrics = (await gateway.client.get("/metrics")).text
    assert 'roundhouse_errors_total{code="worker_failed"} 1.0' in metrics
    lines = [orjson.loads(line) for line in logs.getvalue().splitlines() if "/metrics" not in line]
    assert {line["event"] for line in lines} >= {"answer broken off", "request"}
    for line in lines:
        assert (line["request_id"], line["trace"]) == ("mine", answer.headers["x-roundhouse-trace"]), line


def test_a_failed_attempt_is_a_warning_and_a_good_one_is_not(logs: io.StringIO) -> None:
    log = AttemptLog()
    facts = Facts(capability=Capability.CHAT)
    for number, result in enumerate((Result.FAILED, Result.SUCCESS), start=1):
        log.record(Outcome("t", number, "parrot", "cloud", facts, result, at=0.0, error="upstream_error"))
    failed, answered = (orjson.loads(line) for line in logs.getvalue().splitlines())
    assert (failed["level"], failed["model"], failed["code"], failed["trace"]) == (
        "warning",
        "parrot",
        "upstream_error",
        "t",
    )
    assert answered["level"] == "debug"


def test_events_of_a_worker_are_logged_with_the_command_for_its_log(logs: io.StringIO) -> None:
    events = WorkerEvents(NoObserver())
    events.loaded("parrot", 1.5)
    events.died("parrot", "killed by SIGKILL")
    events.load_failed("parrot", "it does not fit")
    events.unloaded("parrot", evicted=True)
    lines = [orjson.loads(line) for line in logs.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["worker ready", "worker died", "worker failed", "worker stopped"]
    assert lines[1]["reason"] == "killed by SIGKILL"
    assert lines[1]["its_log"] == lines[2]["its_log"] == "roundhouse logs parrot"


async def test_a_workers_lines_do_not_carry_the_ids_of_the_request_that_started_it(logs: io.StringIO) -> None:
    class Host:
        async def prepare(self, worker: Worker) -> Launch:
            raise ModelUnavailable("it is not there")

        async def spawn(self, launch: Launch, log: WorkerLog) -> WorkerProcess:
            raise AssertionError

        async def overrun(self, worker: Worker) -> str:
            raise AssertionError

        def changed(self) -> None: ...

    with structlog.contextvars.bound_contextvars(request_id="first"):
        log = WorkerLog(Path("/nonexistent"), "parrot", limit=1)
        worker = Worker(
            CHAT, Host(), WorkerSettings(), log=log, clock=time.monotonic, observer=WorkerEvents(NoObserver())
        )
        with pytest.raises(ModelUnavailable):
            await worker.ready()
    await worker.close()
    (line,) = [orjson.loads(line) for line in logs.getvalue().splitlines()]
    assert line["event"] == "worker failed"
    assert "request_id" not in line
