"""A conversation: its messages and system prompt, saved to a file and read back."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from catalog.errors import ConfigurationError
from catalog.store.file_checks import read_regular
from catalog.types import Json

_MOST = 64 * 2**20
"""Bytes of a saved conversation: pictures are in it."""
_NAMES = {"system": "System", "user": "You", "assistant": "Model"}


@dataclass
class ChatConversation:
    """The messages so far; ``parameters`` go with each request, such as ``temperature``."""

    model: str = "auto"
    system: str | None = None
    messages: list[Json] = field(default_factory=list)
    parameters: Json = field(default_factory=dict)

    def body(self, content: str | list[Json]) -> Json:
        """The request that asks ``content`` after what was said so far."""
        before = [] if not self.system else [{"role": "system", "content": self.system}]
        said = [*before, *self.messages, {"role": "user", "content": content}]
        return {**self.parameters, "model": self.model, "messages": said}

    def add(self, content: str | list[Json], answer: str) -> None:
        """Remember a question and its answer."""
        self.messages += [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]

    def undo(self) -> str | list[Json] | None:
        """Forget the last question and its answer; returns the question, if there was one."""
        if len(self.messages) < 2:
            return None
        question: str | list[Json] = self.messages[-2]["content"]
        del self.messages[-2:]
        return question

    def save(self, path: Path, *, replace: bool = False) -> None:
        """Write the conversation: as JSON to ``*.json``, which :meth:`load` reads, else as Markdown.

        Raises ConfigurationError if it cannot be written, or the file is there and not to be replaced.
        """
        try:
            with path.expanduser().open("w" if replace else "x", encoding="utf-8") as file:
                file.write(self._json() if path.suffix == ".json" else self._markdown())
        except FileExistsError:
            raise ConfigurationError(f"{path} is there already. Replace it with: /save! {path}") from None
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be written: {error.strerror}.") from None

    @classmethod
    def load(cls, path: Path) -> ChatConversation:
        """Read a conversation that was saved as JSON. Raises ConfigurationError for anything else."""
        try:
            document: Any = json.loads(read_regular(path.expanduser(), limit=_MOST, timeout=10).decode("utf-8"))
            messages = document["messages"]
            if not all(isinstance(one["role"], str) and "content" in one for one in messages):
                raise ValueError("messages")
            system = document.get("system")
            return cls(str(document["model"]), system, list(messages), dict(document.get("parameters") or {}))
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from None
        except (ValueError, KeyError, TypeError):
            raise ConfigurationError(f"{path} is no conversation that /save has written as JSON.") from None

    def _json(self) -> str:
        document = {
            "model": self.model,
            "system": self.system,
            "parameters": self.parameters,
            "messages": self.messages,
        }
        return json.dumps(document, indent=1, ensure_ascii=False) + "\n"

    def _markdown(self) -> str:
        first = [{"role": "system", "content": self.system}] if self.system else []
        return "\n".join(
            f"**{_NAMES.get(one['role'], one['role'])}**\n\n{_text(one['content'])}\n"
            for one in (*first, *self.messages)
        )


def _text(content: str | list[Json]) -> str:
    if isinstance(content, str):
        return content
    return "\n\n".join(part.get("text") or f"({part['type'].removeprefix('input_')})" for part in content)
