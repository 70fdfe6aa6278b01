"""Agents' conversations with a real worker of llama.cpp whose model has a strict chat template.

The model is :mod:`tests.fakes.copier`: it calls the tool that the user's words have, and tells what the tool said.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backends.base import Upstream
from backends.http import HttpClient
from backends.local.backend import LocalWorkerBackend
from backends.queueing import Need
from backends.wire.chat import ChatRequest
from catalog.errors import InvalidRequest
from catalog.model import Capability, Model, PathSource
from catalog.types import Json
from tests.backends.answers import assemble_chat
from tests.backends.workers.engines.test_real import supervisor
from tests.fakes import copier

pytestmark = pytest.mark.engine

CALL = {"name": "shell", "arguments": {"command": "date"}}
ASKED = {"role": "user", "content": f"Tell the day: <|say|><tool_call>\n{json.dumps(CALL)}\n</tool_call>"}
SYSTEM, DEVELOPER = {"role": "system", "content": "Be brief."}, {"role": "developer", "content": "Use tools."}
PARAMETERS = {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}
TOOLS = [{"type": "function", "function": {"name": "shell", "description": "Run it.", "parameters": PARAMETERS}}]
CONVERSATIONS = {
    "of Codex": [DEVELOPER, DEVELOPER, {"role": "user", "content": "Here is a folder."}, ASKED],
    "of Claude Code": [SYSTEM, {"role": "user", "content": "A reminder."}, ASKED, SYSTEM],
    "after an answer": [
        SYSTEM,
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": "Hm?"},
        ASKED,
    ],
}


@pytest.fixture(scope="module")
def row(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("copier") / "copier.gguf"
    copier.write(path)
    able = frozenset({Capability.CHAT, Capability.TOOLS, Capability.JSON_SCHEMA})
    source = PathSource(path=str(path))
    return Model(id="copier", name="Copier", engine="llamacpp", capabilities=able, source=source)


@pytest.fixture
async def worker(row: Model, tmp_path: Path) -> AsyncIterator[tuple[LocalWorkerBackend, Upstream]]:
    async with supervisor(tmp_path, slots=1) as pool, pool.lease(row, Need()) as upstream, HttpClient() as http:
        yield LocalWorkerBackend(http), upstream


async def answered(worker: tuple[LocalWorkerBackend, Upstream], messages: list[Json]) -> Json:
    backend, upstream = worker
    body = {"model": "copier", "messages": messages, "tools": TOOLS, "max_tokens": 80}
    request = ChatRequest.model_validate(body)
    answer = await assemble_chat(backend.chat(upstream, request))
    message: Json = answer["choices"][0]["message"]
    return message


@pytest.mark.parametrize("kind", CONVERSATIONS)
async def test_an_agent_of_any_habit_has_its_tool_called_and_its_result_told(
    kind: str, worker: tuple[LocalWorkerBackend, Upstream]
) -> None:
    conversation: list[Json] = list(CONVERSATIONS[kind])
    asks = await answered(worker, conversation)
    (call,) = asks["tool_calls"]
    assert call["function"]["name"] == "shell"
    assert json.loads(call["function"]["arguments"]) == CALL["arguments"]
    result = {"role": "tool", "tool_call_id": call["id"], "content": "It is the 30th of November."}
    tells = await answered(worker, [*conversation, asks, result])
    assert tells["content"] == "It is the 30th of November."
    assert not tells.get("tool_calls")


async def test_what_no_template_of_turns_can_render_is_refused_in_the_templates_words(
    worker: tuple[LocalWorkerBackend, Upstream],
) -> None:
    result = {"role": "tool", "tool_call_id": "x", "content": "Nobody asked for this."}
    with pytest.raises(InvalidRequest, match="result needs its call"):
        await answered(worker, [ASKED, {"role": "assistant", "content": "No."}, result])
