"""Questions between gateways that share a Redis server.

A question is published on ``{prefix}:ask``; each other gateway answers with JSON, ``null`` if it does not know,
on a list that the asking one reads and that expires soon. Nothing is stored for later, and no request pays for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import structlog

from routing.state.protocol import decode, encode
from routing.state.redis_clients import redis_client

if TYPE_CHECKING:
    from redis.asyncio import Redis

Answer = Callable[[Any], Awaitable[Any]]

ANSWER_WITHIN = 2.0
"""Seconds that the others have to answer."""
RETRY_DELAY = 1.0
"""Seconds between two attempts to listen, while Redis is unreachable."""


class RedisPeers:
    """Asks the other gateways and answers theirs, between :meth:`start` and :meth:`close`."""

    def __init__(self, url: str, *, prefix: str = "rh", password_file: Path | None = None) -> None:
        self._url = url
        self._prefix = prefix
        self._password_file = password_file
        self._name = "{" + prefix + "}:"
        self._id = token_hex(8)
        self._client: Redis | None = None
        self._errors: tuple[type[Exception], ...] = (OSError,)
        self._listening: asyncio.Task[None] | None = None
        self._answering: set[asyncio.Task[None]] = set()
        self._subscribed = asyncio.Event()
        self._log = structlog.get_logger("roundhouse.state")

    async def start(self, answer: Answer) -> None:
        """Listen to questions. ``answer`` returns a JSON value, or ``None`` if this gateway does not know."""
        from redis.exceptions import RedisError

        self._errors = (RedisError, OSError)
        self._client = redis_client(
            self._url, prefix=self._prefix, password_file=self._password_file, socket_connect_timeout=2.0
        )
        self._listening = asyncio.create_task(self._listen(self._client, answer), name="redis-peers")

    async def close(self) -> None:
        """Stop listening. Questions that are being answered are dropped."""
        tasks = [task for task in (self._listening, *self._answering) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    async def ask(self, question: Any) -> Any:
        """The first answer of another gateway that knows, or ``None``: also when Redis or they do not answer."""
        async with aclosing(self._answers(question)) as answers:
            async for known in answers:
                return known
        return None

    async def ask_all(self, question: Any) -> list[Any]:
        """The answers of all other gateways that know, as many as come in time."""
        return [known async for known in self._answers(question)]

    async def _answers(self, question: Any) -> AsyncGenerator[Any]:
        assert self._client is not None, "the peers were not started"
        reply = f"{self._name}answers:{token_hex(16)}"
        body = encode({"from": self._id, "reply": reply, "question": question})
        ends = asyncio.get_running_loop().time() + ANSWER_WITHIN
        try:
            async with asyncio.timeout_at(ends):
                await self._subscribed.wait()
                others = await self._client.publish(f"{self._name}ask", body) - 1
            for _ in range(others):
                async with asyncio.timeout_at(ends):
                    popped = await self._client.blpop([reply], timeout=ANSWER_WITHIN)
                if popped is not None and (known := decode(popped[1])) is not None:
                    yield known
        except self._errors:  # TimeoutError is an OSError
            return

    async def _listen(self, client: Redis, answer: Answer) -> None:
        while True:
            try:
                async with client.pubsub() as subscription:
                    await subscription.subscribe(f"{self._name}ask")
                    self._subscribed.set()
                    async for message in subscription.listen():
                        if message["type"] == "message":
                            task = asyncio.create_task(self._answer(client, message["data"], answer))
                            self._answering.add(task)
                            task.add_done_callback(self._answering.discard)
            except self._errors as error:
                self._log.warning("peers.not_reached", error=type(error).__name__, will="try again")
                await asyncio.sleep(RETRY_DELAY)

    async def _answer(self, client: Redis, body: bytes, answer: Answer) -> None:
        try:
            asked = decode(body)
            if asked["from"] == self._id:
                return
            known = await answer(asked["question"])
            async with client.pipeline(transaction=True) as pipe:
                pipe.rpush(asked["reply"], encode(known))
                pipe.expire(asked["reply"], int(ANSWER_WITHIN * 5))
                await pipe.execute()
        except self._errors as error:
            self._log.warning("peers.not_answered", error=type(error).__name__)
        except (ValueError, KeyError, TypeError) as error:  # another version's question
            self._log.warning("peers.not_understood", error=type(error).__name__)
