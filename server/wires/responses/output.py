"""The output items of a response in progress, and their events. Source: OpenAI's API reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from catalog.types import Json
from server.wires.responses.client_tools import ClientTool
from server.wires.responses.reasoning import sealed


@dataclass(slots=True)
class OutputItem:
    """One item of a response in progress."""

    id: str
    index: int
    status: str = field(default="in_progress", kw_only=True)

    def to_json(self) -> Json:
        raise NotImplementedError

    def added(self) -> Json:
        return {"type": "response.output_item.added", "output_index": self.index, "item": self.to_json()}

    def _done(self, status: str) -> Json:
        self.status = status
        return {"type": "response.output_item.done", "output_index": self.index, "item": self.to_json()}

    def _event(self, kind: str, **fields: Any) -> Json:
        return {"type": f"response.{kind}", "item_id": self.id, "output_index": self.index, **fields}


@dataclass(slots=True)
class _Part:
    kind: str
    start: int = 0
    pieces: list[str] = field(default_factory=list)
    logprobs: list[Json] = field(default_factory=list)
    annotations: list[Json] = field(default_factory=list)
    grounding: list[Json] = field(default_factory=list)

    def to_json(self) -> Json:
        text = "".join(self.pieces)
        if self.kind == "refusal":
            return {"type": "refusal", "refusal": text}
        whole = {"type": "output_text", "text": text, "annotations": self.annotations, "logprobs": self.logprobs}
        return {**whole, "grounding": self.grounding} if self.grounding else whole


_PLACES = ("start_index", "end_index", "index")


@dataclass(slots=True)
class MessageItem(OutputItem):
    """A message, whose parts are texts and refusals. ``extra_content`` is a provider's signature."""

    extra_content: Json | None = field(default=None, kw_only=True)
    parts: list[_Part] = field(default_factory=list)

    @property
    def refused(self) -> bool:
        return any(part.kind == "refusal" for part in self.parts)

    def to_json(self) -> Json:
        content = [part.to_json() for part in self.parts]
        item = {"id": self.id, "type": "message", "role": "assistant", "status": self.status, "content": content}
        return item | _more(None, self.extra_content)

    def add_text(self, text: str, logprobs: list[Json], start: int) -> Iterator[Json]:
        """``start`` counts the characters of the answer before this text."""
        yield from self._part("output_text", start)
        self.parts[-1].pieces.append(text)
        self.parts[-1].logprobs += logprobs
        yield self._event("output_text.delta", content_index=self._part_index, delta=text, logprobs=logprobs)

    def add_refusal(self, text: str) -> Iterator[Json]:
        yield from self._part("refusal")
        self.parts[-1].pieces.append(text)
        yield self._event("refusal.delta", content_index=self._part_index, delta=text)

    def ground(self, places: list[Json]) -> None:
        """Keep the places in pictures that the text names."""
        for part in self.parts[-1:]:
            part.grounding += places

    def annotate(self, annotation: Json, at: int) -> Iterator[Json] | None:
        """Annotate the part with the character ``at`` of the answer; None if another item has it."""
        for index in reversed(range(len(self.parts))):
            part = self.parts[index]
            if part.kind == "output_text" and part.start <= at:
                return self._annotated(part, index, annotation)
        return None

    def _annotated(self, part: _Part, index: int, annotation: Json) -> Iterator[Json]:
        moved = {name: annotation[name] - part.start for name in _PLACES if type(annotation.get(name)) is int}
        made = {**annotation, **{name: max(0, value) for name, value in moved.items()}}
        place = {"content_index": index, "annotation_index": len(part.annotations)}
        part.annotations.append(made)
        yield self._event("output_text.annotation.added", **place, annotation=made)

    def done(self, status: str) -> Iterator[Json]:
        yield from self._part_done()
        yield self._done(status)

    @property
    def _part_index(self) -> int:
        return len(self.parts) - 1

    def _part(self, kind: str, start: int = 0) -> Iterator[Json]:
        if self.parts and self.parts[-1].kind == kind:
            return
        yield from self._part_done()
        self.parts.append(_Part(kind, start))
        yield self._event("content_part.added", content_index=self._part_index, part=self.parts[-1].to_json())

    def _part_done(self) -> Iterator[Json]:
        if not self.parts:
            return
        part = self.parts[-1]
        whole = part.to_json()
        if part.kind == "refusal":
            yield self._event("refusal.done", content_index=self._part_index, refusal=whole["refusal"])
        else:
            yield self._event(
                "output_text.done", content_index=self._part_index, text=whole["text"], logprobs=part.logprobs
            )
        yield self._event("content_part.done", content_index=self._part_index, part=whole)


@dataclass(slots=True)
class ReasoningItem(OutputItem):
    """Reasoning of ``model``: one summary, and the provider's signed blocks."""

    model: str = field(kw_only=True)
    pieces: list[str] = field(default_factory=list)
    blocks: list[Json] = field(default_factory=list)

    def to_json(self) -> Json:
        summary = [{"type": "summary_text", "text": "".join(self.pieces)}] if self.pieces else []
        item: Json = {"id": self.id, "type": "reasoning", "summary": summary, "status": self.status}
        if self.pieces or self.blocks:
            item["encrypted_content"] = sealed(self.blocks, self.model)
        return item

    def add(self, text: str) -> Iterator[Json]:
        if not self.pieces:
            part = {"type": "summary_text", "text": ""}
            yield self._event("reasoning_summary_part.added", summary_index=0, part=part)
        self.pieces.append(text)
        yield self._event("reasoning_summary_text.delta", summary_index=0, delta=text)

    def done(self, status: str) -> Iterator[Json]:
        if self.pieces:
            text = "".join(self.pieces)
            part = {"type": "summary_text", "text": text}
            yield self._event("reasoning_summary_text.done", summary_index=0, text=text)
            yield self._event("reasoning_summary_part.done", summary_index=0, part=part)
        yield self._done(status)


@dataclass(slots=True)
class ToolItem(OutputItem):
    """A function call. ``extra_content`` of a call is a provider's signature, which clients send back with it."""

    call_id: str = field(kw_only=True)
    name: str = field(kw_only=True)
    namespace: str | None = field(default=None, kw_only=True)
    extra_content: Json | None = field(default=None, kw_only=True)
    pieces: list[str] = field(default_factory=list)

    def to_json(self) -> Json:
        item: Json = {
            "id": self.id,
            "type": "function_call",
            "status": self.status,
            "call_id": self.call_id,
            "name": self.name,
            "arguments": "".join(self.pieces),
        }
        return item | _more(self.namespace, self.extra_content)

    def add(self, arguments: str) -> Iterator[Json]:
        self.pieces.append(arguments)
        yield self._event("function_call_arguments.delta", delta=arguments)

    def done(self, status: str) -> Iterator[Json]:
        yield self._event("function_call_arguments.done", name=self.name, arguments="".join(self.pieces))
        yield self._done(status)


@dataclass(slots=True)
class CustomToolItem(OutputItem):
    """A call of a custom tool, whose input is a text."""

    call_id: str = field(kw_only=True)
    name: str = field(kw_only=True)
    namespace: str | None = field(default=None, kw_only=True)
    extra_content: Json | None = field(default=None, kw_only=True)
    pieces: list[str] = field(default_factory=list)

    def to_json(self) -> Json:
        item: Json = {
            "id": self.id,
            "type": "custom_tool_call",
            "status": self.status,
            "call_id": self.call_id,
            "name": self.name,
            "input": "".join(self.pieces),
        }
        return item | _more(self.namespace, self.extra_content)

    def add(self, text: str) -> Iterator[Json]:
        self.pieces.append(text)
        yield self._event("custom_tool_call_input.delta", delta=text)

    def done(self, status: str) -> Iterator[Json]:
        yield self._event("custom_tool_call_input.done", input="".join(self.pieces))
        yield self._done(status)


@dataclass(slots=True)
class ClientToolItem(OutputItem):
    """The call of a tool with items of its own, which come whole: ``tool`` reads the arguments of the function."""

    call_id: str = field(kw_only=True)
    tool: ClientTool = field(kw_only=True)
    extra_content: Json | None = field(default=None, kw_only=True)
    pieces: list[str] = field(default_factory=list)
    arguments: Json | None = None

    def to_json(self) -> Json:
        item: Json = {"id": self.id, "type": self.tool.item, "status": self.status, "call_id": self.call_id}
        given = dict(self.tool.begun) if self.arguments is None else self.arguments
        return item | self.tool.fields(given) | _more(None, self.extra_content)

    def add(self, arguments: str) -> Iterator[Json]:
        self.pieces.append(arguments)
        yield from ()

    def done(self, status: str) -> Iterator[Json]:
        """Raises AnswerInvalid for a finished call whose arguments are not those of the tool."""
        if status == "completed":
            self.arguments = self.tool.read("".join(self.pieces))
        elif self.tool.item == "apply_patch_call":
            status = "in_progress"  # such a call has no other status
        for index, command in enumerate((self.arguments or {}).get("commands") or ()):
            place = {"output_index": self.index, "command_index": index}
            yield {"type": "response.shell_call_command.added", **place, "command": ""}
            yield {"type": "response.shell_call_command.delta", **place, "delta": command}
            yield {"type": "response.shell_call_command.done", **place, "command": command}
        yield self._done(status)


def _more(namespace: str | None, extra_content: Json | None) -> Json:
    more: Json = {"namespace": namespace} if namespace else {}
    return more | {"extra_content": extra_content} if extra_content else more
