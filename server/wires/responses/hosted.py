"""Output items of tools that a provider runs itself, and their events. Source: OpenAI's API reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from backends.wire.media import is_data_url
from catalog.types import Json
from server.wires.responses.output import OutputItem

_STEPS = {
    "web_search_call": ("in_progress", "searching", "completed"),
    "file_search_call": ("in_progress", "searching", "completed"),
    "code_interpreter_call": ("in_progress", "code", "interpreting", "completed"),
    "image_generation_call": ("in_progress", "generating", "completed"),
    "mcp_call": ("in_progress", "arguments", "completed"),
}
"""The events of an item between its first and its last, by its type; items of other types have none."""

_GIVEN = {"code": "code_interpreter_call_code", "arguments": "mcp_call_arguments"}
"""The events of what a tool is given, by its field."""

_RESULTS = ("result", "outputs", "output", "results")


@dataclass(frozen=True, slots=True)
class ItemStep:
    """A step of a tool that the gateway runs: the new ``status`` and ``fields`` of the item ``id``.

    ``event`` names the event after the item's type ``kind``, if it is not the status, and ``details`` are its
    fields.
    """

    id: str
    kind: str
    status: str
    event: str | None = None
    details: Json = field(default_factory=dict)
    fields: Json = field(default_factory=dict)


@dataclass(slots=True)
class HostedItem(OutputItem):
    """The call of such a tool, with its result. ``body`` is the whole item."""

    body: Json = field(kw_only=True)

    def to_json(self) -> Json:
        return {**self.body, "id": self.id, "status": self.status}

    def events(self) -> Iterator[Json]:
        """All events of the item, which came whole."""
        kind, status = str(self.body.get("type")), str(self.body.get("status") or "completed")
        begun = {name: value for name, value in self.body.items() if name not in _RESULTS}
        empty: Json = {name: None for name in _RESULTS if name in self.body}
        yield {**self.added(), "item": {**begun, **empty, "id": self.id, "status": "in_progress"}}
        for step in _STEPS.get(kind, ()):
            if step in _GIVEN:
                given = self.body.get(step) or ""
                yield self._event(f"{_GIVEN[step]}.delta", delta=given)
                yield self._event(f"{_GIVEN[step]}.done", **{step: given})
            elif step != "completed" or status == "completed":
                yield self._event(f"{kind}.{step}")
            elif kind == "mcp_call":
                yield self._event("mcp_call.failed")
        yield self._done(status)

    def step(self, step: ItemStep) -> Iterator[Json]:
        """The events of one step of an item that comes in steps."""
        self.body |= step.fields
        self.status = step.status
        if step.status != "failed":
            yield self._event(f"{step.kind}.{step.event or step.status}", **step.details)
        if step.status in ("completed", "failed"):
            yield self._done(step.status)


def drawn(image: Json) -> Json | None:
    """The item of a picture that the model made; None for one that is not in the answer itself."""
    url = image["image_url"]["url"]
    if not is_data_url(url):
        return None
    head, _, data = url.partition(",")
    kind = head.removeprefix("data:").partition(";")[0].removeprefix("image/")
    made = {"type": "image_generation_call", "status": "completed", "result": data, "output_format": kind}
    return {**made, "extra_content": image["extra_content"]} if image.get("extra_content") else made
