"""Labelled prompts and conversations that the recogniser is measured on; nothing was trained on them.

``LANGUAGE.tsv``: task, complexity and text of a prompt, with ``\\n`` for a newline. ``conversations.jsonl``: chats
with system prompts and several turns. They were written for this by a language model that saw none of the training
prompts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from backends.wire.chat import ChatRequest
from routing.facts import Facts
from routing.reading.requests import read_chat

FOLDER = Path(__file__).parent


class Labelled(NamedTuple):
    """Messages of a chat, and what a careful reader says of it."""

    language: str
    task: str
    complexity: str
    messages: list[dict[str, Any]]

    def read(self) -> Facts:
        """The facts of the chat as a request to ``auto``."""
        return read_chat(ChatRequest.model_validate({"model": "auto", "messages": self.messages}))


class Read(NamedTuple):
    """A labelled chat, and what was read."""

    labelled: Labelled
    facts: Facts

    @property
    def task_is_right(self) -> bool:
        return self.facts.task.value == self.labelled.task

    @property
    def complexity_is_right(self) -> bool:
        return self.facts.complexity.value == self.labelled.complexity


@cache
def prompts() -> tuple[Labelled, ...]:
    """The prompts of all languages."""
    found = []
    for path in sorted(FOLDER.glob("*.tsv")):
        for line in path.read_text(encoding="utf-8").splitlines():
            task, complexity, text = line.split("\t")
            content = text.replace("\\n", "\n").replace("\\t", "\t")
            found.append(Labelled(path.stem, task, complexity, [{"role": "user", "content": content}]))
    return tuple(found)


@cache
def conversations() -> tuple[Labelled, ...]:
    """The conversations."""
    lines = (FOLDER / "conversations.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return tuple(Labelled(row["lang"], row["task"], row["complexity"], row["messages"]) for row in rows)


def read_all(labelled: Iterable[Labelled]) -> list[Read]:
    """Read them."""
    return [Read(each, each.read()) for each in labelled]


def share(right: Iterable[bool]) -> float:
    """The share of ``True``."""
    told = list(right)
    return sum(told) / len(told)
