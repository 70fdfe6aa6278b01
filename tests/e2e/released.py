"""The state that a released Roundhouse left behind, for the tests of upgrades.

``python -m tests.e2e.released`` makes that of the present version with a real server, before a release:
``tests/data/released/VERSION`` then has the SQLite file as text, the files of callers, and what both hold.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai

from server.settings import STATE_FILE
from tests.e2e.providers import endpoint, model, providers
from tests.e2e.serving import Served, served
from tests.fakes.openai import FakeOpenAI

ROOT = Path(__file__).parents[2]
RELEASED = ROOT / "tests" / "data" / "released"
DUMP, FACTS, FILES = "state.sql", "facts.json", "files"
ADMIN = "an-admin-key-of-the-tests"
PRICE = {"input": 1000, "output": 1000}
LONG = 900_000_000
"""Seconds: what is kept for so long is still there when a later version is tested."""


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    """A server on the data folder ``folder/data`` before a fake provider."""
    upstream = FakeOpenAI()
    with providers(upstream):
        rows = endpoint("far", upstream)
        rows += model("chats", "fake-chat", at="far", capabilities=["chat"], price=PRICE)
        rows += model("vectors", "fake-embed", at="far", capabilities=["embed"], price=PRICE)
        kept = f"[storage]\nkeep = {LONG}\n[persistence]\nkeep_outcomes = {LONG}\n"
        kept += f"[traces]\npersist = true\npersist_seconds = {LONG}\n"
        (folder / "roundhouse.toml").write_text(rows + kept)
        environment = {"ROUNDHOUSE_DATA_DIR": str(folder / "data"), "ROUNDHOUSE_ADMIN_KEYS": ADMIN}
        with served(folder, environment=environment) as running:
            yield running


def command(folder: Path, *words: str) -> str:
    """The output of a command of the terminal, on that data folder."""
    done = subprocess.run(
        [sys.executable, "-m", "server.cli", *words],
        cwd=folder,
        env={**os.environ, "ROUNDHOUSE_DATA_DIR": str(folder / "data"), "ROUNDHOUSE_KEY": ADMIN},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.strip()


def restore(version: str, folder: Path) -> Any:
    """Put a released state into ``folder/data``; returns its facts."""
    released, data = RELEASED / version, folder / "data"
    data.mkdir(mode=0o700)
    with closing(sqlite3.connect(data / STATE_FILE)) as state:
        state.executescript((released / DUMP).read_text(encoding="utf-8"))
    if (released / FILES).exists():
        shutil.copytree(released / FILES, data / FILES)
    return json.loads((released / FACTS).read_text(encoding="utf-8"))


def make(version: str) -> None:
    """Fill a state with a real server, and write it down."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "data").mkdir(mode=0o700)
        key = command(folder, "keys", "create", "alice", "--requests-per-day", "1000", "--spend-per-day", "50")
        facts = {"key": key}
        with serving(folder) as server:
            facts |= _fill(server, key)
        write(folder / "data", RELEASED / version, facts)


def _fill(server: Served, key: str) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    with openai.OpenAI(base_url=server.v1, api_key=key, max_retries=0) as sdk:
        for number in range(3):
            chat = sdk.chat.completions.with_raw_response.create(
                model="auto", messages=[{"role": "user", "content": f"Question {number}"}], store=True
            )
            facts["chat"], facts["trace"] = chat.parse().id, chat.headers["x-roundhouse-trace"]
        sdk.post("/outcomes", body={"trace": facts["trace"], "score": 0.25}, cast_to=object)
        sdk.embeddings.create(model="auto", input="a cat")
        response = sdk.responses.create(model="chats", input="My name is Ada.")
        facts["response"], facts["said"] = response.id, response.output_text
        conversation = sdk.conversations.create(
            items=[{"type": "message", "role": "user", "content": "Remember me."}]
        )
        facts["conversation"] = conversation.id
        line = {
            "custom_id": "one",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "chats", "messages": [{"role": "user", "content": "In a batch"}]},
        }
        uploaded = sdk.files.create(file=("lines.jsonl", json.dumps(line).encode()), purpose="batch")
        batch = sdk.batches.create(
            input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        end = time.monotonic() + 60
        while (batch := sdk.batches.retrieve(batch.id)).status != "completed":
            assert time.monotonic() < end, batch
            time.sleep(0.05)
        facts["batch"], facts["file"], facts["output"] = batch.id, uploaded.id, batch.output_file_id
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {ADMIN}"}) as admin:
        admin.post("/v1/admin/pins", json={"alias": "auto:fast", "model": "vectors"}).raise_for_status()
        time.sleep(2.5)  # the next exchange of what was learned with the state (persistence.interval)
        facts["usage"] = admin.get("/v1/usage", params={"by": "model"}).json()["data"]
        facts["day"] = admin.get("/v1/usage", params={"by": "day"}).json()["data"][0]["day"]
        facts["pins"] = admin.get("/v1/admin/pins").json()["pins"]
        facts["learned"] = observed(admin.get("/v1/admin/priors").json())
    return facts


def observed(profile: Any) -> dict[str, Any]:
    """The observations of quality in an exported profile, by model; its priors may differ between versions."""
    return {name: model["quality"]["cells"] for name, model in profile["models"].items()}


def write(data: Path, released: Path, facts: dict[str, Any]) -> None:
    """Write a data folder down as text."""
    released.mkdir(parents=True)
    with closing(sqlite3.connect(data / STATE_FILE)) as state:
        (layout,) = state.execute("PRAGMA user_version").fetchone()
        lines = [*state.iterdump(), f"PRAGMA user_version = {layout};"]
    (released / DUMP).write_text("\n".join(lines) + "\n", encoding="utf-8")
    (released / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    shutil.copytree(data / FILES, released / FILES)


def version() -> str:
    """The version of this tree."""
    project: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project["version"]


if __name__ == "__main__":
    make(version())
