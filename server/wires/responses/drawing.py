"""The hosted tool ``image_generation``, served by the gateway's own image models.

Source: OpenAI's API reference and SDK types.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
from pydantic import ValidationError

from backends.wire.images import ImageRequest
from backends.wire.responses import OWN_ID
from catalog.errors import InvalidRequest, ModelNotFound, RoundhouseError, StreamBroken
from catalog.model import Capability, Model
from catalog.types import Json
from catalog.validation import wording
from routing.calling.job import Job
from routing.reading.intent import is_auto
from server.answers.rounds import ServerCall
from server.callers import Caller, Origin
from server.jobs import image_job, open_job
from server.runtime import Runtime
from server.wires.responses.hosted import ItemStep
from server.wires.web_search import is_set_up

DRAW = "image_generation"
"""The type of the tool, and its function's name if that is free."""
_ITEM = "image_generation_call"
_OWN = f"ig_{OWN_ID}"
_OPTIONS = ("model", "size", "quality", "background", "moderation", "output_format", "output_compression")
_TOLD = ("size", "quality", "background", "output_format")
_SIZE = "^[1-9][0-9]{1,3}x[1-9][0-9]{1,3}$"
KNOWN = frozenset({"type", "action", "partial_images", *_OPTIONS})
"""The fields of the tool that are kept; an ``auto`` leaves the choice to the models."""


def can_draw(tool: Json, requested: str, runtime: Runtime, caller: Caller) -> bool:
    """Whether an image model that is set up can serve the tool, for a caller and a chat that calls tools.

    ``requested`` is the chat's model. Edits and formats that only OpenAI has are not served.
    """
    if tool.get("action") == "edit" or tool.get("input_image_mask"):
        return False
    try:
        wanted = runtime.standing(_request(tool, {"prompt": "A"}, partial=tool.get("partial_images")).model)
        rows = runtime.catalog.models() if is_auto(wanted) else runtime.catalog.replicas(wanted)
        able = is_auto(requested) or any(
            Capability.TOOLS in row.capabilities for row in runtime.catalog.replicas(requested)
        )
    except (ValidationError, ModelNotFound):
        return False
    return able and any(_draws(row, runtime, caller) for row in rows)


def _draws(row: Model, runtime: Runtime, caller: Caller) -> bool:
    able = Capability.IMAGE in row.capabilities and caller.allows(row.id, runtime.catalog)
    return able and is_set_up(runtime.unavailable(row))


def function(tool: Json, name: str) -> Json:
    """The function that stands for the tool."""
    properties: Json = {"prompt": {"type": "string", "description": "The picture, described in detail."}}
    if _given(tool, "size") is None:
        about = "Width and height in pixels, such as 1024x1024; leave it out for the usual size."
        properties["size"] = {"type": "string", "pattern": _SIZE, "description": about}
    return {
        "name": name,
        "description": "Draws a picture and shows it to the user.",
        "parameters": {"type": "object", "properties": properties, "required": ["prompt"]},
    }


@dataclass(frozen=True, slots=True)
class ImageTool:
    """Draws for one response; see :class:`server.answers.rounds.ServerTool`.

    ``streamed``: the caller sees the pictures in the making that ``tool`` asks for.
    """

    runtime: Runtime
    caller: Caller
    origin: Origin
    tool: Json
    streamed: bool

    def begin(self, call: ServerCall) -> ItemStep:
        return ItemStep(self._item(call), _ITEM, "in_progress", fields={"result": None})

    def abandon(self, call: ServerCall) -> ItemStep:
        return ItemStep(self._item(call), _ITEM, "failed")

    async def run(self, call: ServerCall, job: Job[Json]) -> AsyncGenerator[Any]:
        name = self._item(call)
        yield ItemStep(name, _ITEM, "generating")
        try:
            body, stand_in = self.runtime.replaced(self._body(call))
            image = image_job(body, replace(self.origin, stand_in=stand_in))
            intent = replace(job.facts.intent, task=None, require=frozenset())
            image = replace(image, facts=replace(image.facts, intent=intent), further=True, spent=job.spent)
            done: Json | None = None
            async with open_job(self.runtime, image, self.caller) as answer:
                async for event in answer:
                    if event.get("type") == "image_generation.partial_image":
                        partial = {
                            "partial_image_b64": event.get("b64_json"),
                            "partial_image_index": event.get("partial_image_index") or 0,
                        }
                        yield ItemStep(name, _ITEM, "generating", event="partial_image", details=partial)
                    elif event.get("type") == "image_generation.completed":
                        done = event
            call.spent = answer.spent
            fields = _drawn(done, body, answer.dropped)
            call.dropped = tuple(f"tools.{DRAW}.{name}" for name in answer.dropped)
        except RoundhouseError as error:
            fields = error.to_body()
        step = ItemStep(name, _ITEM, "failed" if "error" in fields else "completed", fields=fields)
        call.result = result_of({**fields, "id": name})
        yield step

    def _item(self, call: ServerCall) -> str:
        return f"{_OWN}{self.origin.trace}{call.number:02x}"

    def _body(self, call: ServerCall) -> ImageRequest:
        """The request of a call. Raises InvalidRequest for arguments that the function does not have."""
        try:
            given = orjson.loads(call.arguments or "{}")
        except ValueError:
            given = None
        if not isinstance(given, dict):
            raise InvalidRequest("The arguments are not a JSON object.")
        try:
            return _request(self.tool, given, partial=self.tool.get("partial_images") if self.streamed else 0)
        except ValidationError as wrong:
            first = wrong.errors(include_url=False)[0]
            raise InvalidRequest(f"{wording.place(first)}: {wording.describe(first, value=False)}") from None


def is_own(item: Json) -> bool:
    """Whether the gateway drew the picture of an item, or tried to."""
    return str(item.get("id")).startswith(_OWN)


def result_of(item: Json) -> str:
    """The result of a call that the model reads, by the call's item."""
    if item.get("result"):
        return f"The picture is drawn, and the user sees it. Its id is {item['id']}."
    error = item.get("error")
    return f"No picture was drawn: {error.get('message') if isinstance(error, dict) else 'the call was cut off'}"


def _given(tool: Json, name: str) -> Any:
    """An option of the tool, if it has one."""
    return None if tool.get(name) == "auto" else tool.get(name)


def _request(tool: Json, arguments: Json, *, partial: int | None) -> ImageRequest:
    """The picture to draw; options of the tool go before those of the model. Raises ValidationError."""
    chosen = {name: arguments[name] for name in ("prompt", "size") if arguments.get(name) is not None}
    fixed = {name: value for name in _OPTIONS if (value := _given(tool, name)) is not None}
    progress = {"stream": True, "partial_images": partial} if partial else {}
    return ImageRequest.model_validate({**chosen, **fixed, **progress})


def _drawn(done: Json | None, body: ImageRequest, dropped: Sequence[str]) -> Json:
    """The fields of a finished item, but for what the image model left out.

    Raises StreamBroken for an answer without the picture's bytes.
    """
    if done is None or not done.get("b64_json"):
        raise StreamBroken("The image model sent no picture.")
    asked = {name: None if name in dropped else getattr(body, name) for name in _TOLD}
    told = {name: value for name in _TOLD if (value := done.get(name) or asked[name]) is not None}
    prompt = done.get("revised_prompt") or body.prompt
    return {"result": done["b64_json"], "revised_prompt": prompt, "action": "generate", **told}
