"""The state of each released version is read by this one, with nothing lost."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import openai
import pytest

from routing.state.sqlite import VERSION
from server.settings import STATE_FILE
from tests.docs.pages import examples
from tests.e2e.released import ADMIN, FILES, RELEASED, command, observed, restore, serving

VERSIONS = sorted(path.name for path in RELEASED.glob("*"))


class Upgraded(NamedTuple):
    """A server of this version on a released state, what that state holds, its folder, and what it learned."""

    url: str
    facts: Any
    folder: Path
    learned: Any = None

    def admin(self, path: str, **query: str) -> Any:
        """An answer to the administrator."""
        answer = httpx.get(self.url + path, params=query, headers={"Authorization": f"Bearer {ADMIN}"})
        return answer.raise_for_status().json()


@pytest.fixture(scope="module", params=VERSIONS)
def upgraded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upgraded]:
    folder = tmp_path_factory.mktemp("upgraded")
    facts = restore(request.param, folder)
    with serving(folder) as server:
        upgraded = Upgraded(server.url, facts, folder)
        yield upgraded._replace(learned=observed(upgraded.admin("/v1/admin/priors")))


@pytest.fixture
def sdk(upgraded: Upgraded) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{upgraded.url}/v1", api_key=upgraded.facts["key"], max_retries=0) as client:
        yield client


def test_there_is_a_released_state() -> None:
    assert VERSIONS


def test_usage_and_spend_are_where_they_were(upgraded: Upgraded) -> None:
    days = {"start": upgraded.facts["day"], "end": upgraded.facts["day"], "by": "model"}
    found = upgraded.admin("/v1/usage", **days)["data"]
    for row in upgraded.facts["usage"]:
        now = next(each for each in found if each["model"] == row["model"])
        assert all(float(now[name]) >= float(row[name]) for name in ("calls", "input_tokens", "cost"))


def test_a_key_is_valid_with_its_limits_and_no_other_is(upgraded: Upgraded, sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model="chats", messages=[{"role": "user", "content": "Still there?"}])
    assert answer.choices[0].message.content
    with pytest.raises(openai.AuthenticationError):
        sdk.with_options(api_key="another").models.list()
    assert "alice" in command(upgraded.folder, "keys", "list")


def test_stored_answers_and_conversations_can_be_read_and_continued(
    upgraded: Upgraded, sdk: openai.OpenAI
) -> None:
    facts = upgraded.facts
    assert sdk.responses.retrieve(facts["response"]).output_text == facts["said"]
    assert sdk.responses.create(model="chats", input="Go on.", previous_response_id=facts["response"]).output_text
    items = sdk.conversations.items.list(facts["conversation"]).data
    assert len(items) == 1
    assert sdk.chat.completions.retrieve(facts["chat"]).choices


def test_batches_and_files_are_there(upgraded: Upgraded, sdk: openai.OpenAI) -> None:
    batch = sdk.batches.retrieve(upgraded.facts["batch"])
    assert batch.status == "completed"
    assert batch.output_file_id == upgraded.facts["output"]
    assert b'"custom_id":"one"' in sdk.files.content(upgraded.facts["output"]).content
    assert sdk.files.retrieve(upgraded.facts["file"]).filename == "lines.jsonl"


def test_what_was_learned_traces_and_pins_are_there(upgraded: Upgraded, sdk: openai.OpenAI) -> None:
    assert upgraded.learned == upgraded.facts["learned"]
    trace: Any = sdk.get(f"/traces/{upgraded.facts['trace']}", cast_to=object)
    assert trace["attempts"]
    assert upgraded.admin("/v1/admin/pins")["pins"] == upgraded.facts["pins"]


def test_a_backup_made_while_the_server_runs_is_restored_as_the_page_says(
    upgraded: Upgraded, sdk: openai.OpenAI, tmp_path: Path
) -> None:
    data, new = upgraded.folder / "data", tmp_path / "data"
    made = sdk.responses.create(model="chats", input="Keep this.")
    (backup,) = (example for example in examples("bash") if "source.backup" in example.code)
    environment = {**os.environ, "ROUNDHOUSE_DATA_DIR": str(data)}
    done = subprocess.run(
        ["bash", "-c", backup.code], cwd=tmp_path, env=environment, capture_output=True, check=True
    )
    assert done.stdout == b"ok\n"
    new.mkdir(mode=0o700)
    shutil.copy(tmp_path / "state-backup.sqlite3", new / STATE_FILE)
    shutil.copytree(data / FILES, new / FILES)
    with serving(tmp_path) as server:
        restored = sdk.with_options(base_url=f"{server.url}/v1")
        assert restored.responses.retrieve(made.id).output_text == made.output_text
        assert restored.files.content(upgraded.facts["output"]).content


def test_the_file_has_the_present_layout(upgraded: Upgraded) -> None:
    with closing(sqlite3.connect(upgraded.folder / "data" / STATE_FILE)) as state:
        (layout,) = state.execute("PRAGMA user_version").fetchone()
    assert layout == VERSION
