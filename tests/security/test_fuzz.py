"""Any body gets an answer or an error in the shape of its API, never a 5xx, and kills no worker.

``ROUNDHOUSE_FUZZ`` sets the number of bodies (``make fuzz``: 100,000).
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from typing import Any

from starlette.types import Message

from backends.workers.pool import WorkerState
from tests.security.conftest import OpenSite, Site
from tests.security.fuzzing import Fuzzer, bodies

COUNT = int(os.environ.get("ROUNDHOUSE_FUZZ", "3000"))
AT_ONCE = 8
NAMES = {
    "/v1/embeddings": "vector",
    "/v1/rerank": "ranker",
    "/v1/classify": "judge",
    "/v1/moderations": "warden",
    "/v1/audio/speech": "mouth",
} | {"/v1/images/generations": "brush", "/api/embed": "vector", "/api/embeddings": "vector"}
PATHS = tuple(
    (path.replace("{model_id}", "near"), model)
    for path, model in bodies().items()
    if not path.endswith("/unload")  # it ends the process whose life the test watches
)


OLLAMAS = "/api/"
USER, ADMIN = "a-user-of-the-door", "an-administrator"
"""Ollama's paths get the user's key: an administrator's ``keep_alive`` of 0 would unload the model."""


async def post(site: Site, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the app's answer, not interpreted by a client library."""
    sent: list[Message] = []
    asked = False
    gone = asyncio.Event()

    async def receive() -> Message:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": body, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    key = USER if path.startswith(OLLAMAS) else ADMIN
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"x-api-key", key.encode())]
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST",
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "scheme": "http",
        "headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    await site.app(scope, receive, send)
    gone.set()
    head = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], head, b"".join(message.get("body", b"") for message in sent[1:])


def complaint(status: int, headers: dict[str, str], answer: bytes) -> str | None:
    """The fault of an answer, or None."""
    if status == 200:
        if b'"code":"answer_invalid"' in answer:  # the form that was asked for came too late to be another model's
            return None
        if b"event: error" in answer or b'data: {"error"' in answer or b'\n{"error"' in b"\n" + answer:
            return "an error within the stream"
        return None
    try:
        error: Any = json.loads(answer)["error"]
    except (ValueError, KeyError, TypeError):
        return f"status {status} without an error object"
    if not 400 <= status < 500:
        return f"status {status}"
    error = {"message": error} if isinstance(error, str) else error
    if not isinstance(error.get("message"), str) or not error["message"] or len(answer) > 4000:
        return "an error without a message, or with too long a one"
    if headers["content-type"] != "application/json" or "x-request-id" not in headers:
        return "wrong headers"
    return None


async def test_any_body_gets_an_answer_or_a_refusal_in_shape(site: OpenSite) -> None:
    statuses: Counter[int] = Counter()
    wrongs: list[tuple[str, str, bytes, bytes]] = []
    async with site(
        log={"access": False, "level": "error", "prompts": True},
        routing={"cold_start": {"explore": 1.0}},
        api_keys=USER,
        admin_keys=ADMIN,
    ) as running:
        running.client.headers["x-api-key"] = ADMIN
        fuzzer = Fuzzer(20_261_122, NAMES)
        await running.client.post("/v1/models/near/load", json={})
        (worker,) = running.runtime.pool.snapshot().workers
        turns = iter(range(COUNT))

        async def ask() -> None:
            for number in turns:
                path, model = PATHS[number % len(PATHS)]
                body = fuzzer.body(path, model)
                status, headers, answer = await post(running, path, body)
                wrong = complaint(status, headers, answer)
                if wrong is not None:
                    wrongs.append((wrong, path, body[:1500], answer[:500]))
                statuses[status] += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(ask())
        assert not wrongs, "\n".join(map(str, wrongs[:20]))
        (after,) = running.runtime.pool.snapshot().workers
        assert (after.pid, after.state, after.restarts) == (worker.pid, WorkerState.READY, 0)
        assert after.busy == after.queued == 0
        assert (await running.client.post("/v1/chat/completions", json={"model": "near", "messages": [
            {"role": "user", "content": "Still there?"}]})).status_code == 200  # fmt: skip
    assert sum(statuses.values()) == COUNT
    assert statuses[200] > COUNT / 20, f"the bodies are too bad to test what is behind the checks: {statuses}"
    assert statuses[400] > COUNT / 20, statuses
    print(dict(statuses))
