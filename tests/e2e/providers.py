"""Runs fake providers in a thread beside a real server, so that a test can use a blocking client."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from tests.fakes.openai import FakeOpenAI


class Startable(Protocol):
    """A server of a test."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


@contextmanager
def providers(*fakes: Startable) -> Iterator[None]:
    """Serve these fakes until the block ends."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(fake: Startable, *, up: bool) -> None:
        asyncio.run_coroutine_threadsafe(fake.start() if up else fake.stop(), loop).result(10)

    try:
        for fake in fakes:
            run(fake, up=True)
        yield
    finally:
        for fake in fakes:
            run(fake, up=False)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def endpoint(name: str, fake: FakeOpenAI, **fields: object) -> str:
    """A row of ``[[endpoint]]`` for a fake."""
    return _table("endpoint", id=name, base_url=fake.base_url, **fields)


def model(model_id: str, name: str, *, at: str, **fields: object) -> str:
    """A row of ``[[model]]``: the model ``name`` of the endpoint ``at``."""
    row = {"provider": at, "capabilities": ["chat", "completion", "json_schema", "tools"], **fields}
    return (
        _table("model", id=model_id, **row)
        + f'source = {{kind = "upstream", endpoint = "{at}", model = "{name}"}}\n'
    )


def _table(kind: str, **fields: object) -> str:
    return f"[[{kind}]]\n" + "".join(f"{name} = {toml_value(value)}\n" for name, value in fields.items())


def toml_value(value: object) -> str:
    """A value in TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {toml_value(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)
