"""The differences between OpenAI's batches and Anthropic's: the lines of the input and of the results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import orjson

from backends.wire.common import WireModel
from catalog.errors import InvalidRequest, RoundhouseError
from catalog.types import Json
from routing.state.records import Record
from server.batches.journal import Tokens
from server.batches.lines import Door, Doors, line_type
from server.edge.errors import anthropic_error
from server.edge.json_body import parse

Unfinished = Literal["cancelled", "expired", "failed"]
"""Why a line has no result."""


@dataclass(frozen=True, slots=True)
class Request:
    """A line of the input, read: its id, the endpoint that it asks, and the body."""

    custom_id: str
    door: Door
    body: Any


class Dialect(Protocol):
    """The lines of one API's batches. ``kind`` names their records."""

    kind: str
    one_file: bool
    """Answers and errors are in one file of results, which is no file of the caller's."""

    def read(self, batch: Record) -> Callable[[bytes], Request]:
        """A reader of the batch's lines, which raises InvalidRequest."""
        ...

    def custom_id(self, line: bytes) -> str:
        """The id of a line."""
        ...

    def answered(self, batch: Record, number: int, custom_id: str, trace: str, answer: Any) -> Json:
        """The result of a line that was answered."""
        ...

    def refused(self, batch: Record, number: int, custom_id: str, error: RoundhouseError) -> Json:
        """The result of a line that ended in an error."""
        ...

    def unfinished(self, batch: Record, number: int, custom_id: str, why: Unfinished) -> Json:
        """The result of a line that was not asked in the end."""
        ...


class OpenAIDialect:
    """Lines of OpenAI's Batch API."""

    kind = "batch"
    one_file = False

    def __init__(self, doors: Doors) -> None:
        self.doors = doors
        self._types: dict[str, type[WireModel]] = {}

    def type_of(self, endpoint: str) -> type[WireModel]:
        """The type of the lines of a batch at this endpoint."""
        if endpoint not in self._types:
            self._types[endpoint] = line_type(endpoint, self.doors[endpoint])
        return self._types[endpoint]

    def read(self, batch: Record) -> Callable[[bytes], Request]:
        endpoint = batch.body["endpoint"]
        kind, door = self.type_of(endpoint), self.doors[endpoint]

        def read(line: bytes) -> Request:
            request: Any = parse(kind, line)
            return Request(request.custom_id, door, request.body)

        return read

    def custom_id(self, line: bytes) -> str:
        return _custom_id(line)

    def answered(self, batch: Record, number: int, custom_id: str, trace: str, answer: Any) -> Json:
        response = {"status_code": 200, "request_id": trace, "body": answer}
        return {"id": _line_id(batch, number), "custom_id": custom_id, "response": response, "error": None}

    def refused(self, batch: Record, number: int, custom_id: str, error: RoundhouseError) -> Json:
        name = _line_id(batch, number)
        response = {"status_code": error.status, "request_id": name, "body": error.to_body()}
        return {"id": name, "custom_id": custom_id, "response": response, "error": None}

    def unfinished(self, batch: Record, number: int, custom_id: str, why: Unfinished) -> Json:
        error = {"code": f"batch_{why}", "message": _SAYS[why]}
        return {"id": _line_id(batch, number), "custom_id": custom_id, "response": None, "error": error}


_SAYS: Mapping[Unfinished, str] = {
    "cancelled": "The batch was cancelled before this request was answered.",
    "expired": "The batch's completion window ended before this request was answered.",
    "failed": "The batch failed before this request was answered.",
}


class AnthropicDialect:
    """Lines of Anthropic's Message Batches API."""

    kind = "message_batch"
    one_file = True

    def __init__(self, door: Door) -> None:
        self._door = door

    def read(self, batch: Record) -> Callable[[bytes], Request]:
        del batch

        def read(line: bytes) -> Request:
            sent = orjson.loads(line)
            params = sent["params"]
            if params.get("stream"):
                raise InvalidRequest("A request of a batch is not streamed: leave 'stream' out.", param="stream")
            return Request(sent["custom_id"], self._door, parse(self._door.reads, orjson.dumps(params)))

        return read

    def custom_id(self, line: bytes) -> str:
        return _custom_id(line)

    def answered(self, batch: Record, number: int, custom_id: str, trace: str, answer: Any) -> Json:
        del batch, number, trace
        return {"custom_id": custom_id, "result": {"type": "succeeded", "message": answer}}

    def refused(self, batch: Record, number: int, custom_id: str, error: RoundhouseError) -> Json:
        name = _line_id(batch, number)
        told = anthropic_error(error, request_id=name)
        return {"custom_id": custom_id, "result": {"type": "errored", "error": told}}

    def unfinished(self, batch: Record, number: int, custom_id: str, why: Unfinished) -> Json:
        if why == "failed":
            return self.refused(batch, number, custom_id, RoundhouseError(_SAYS[why]))
        kind = "canceled" if why == "cancelled" else "expired"
        return {"custom_id": custom_id, "result": {"type": kind}}


def tokens_of(result: Json) -> Tokens:
    """The tokens of a line's answer, which OpenAI's batches sum up."""
    body = (result.get("response") or {}).get("body")
    usage = (body.get("usage") if isinstance(body, dict) else None) or {}
    inputs = usage.get("input_tokens_details") or usage.get("prompt_tokens_details") or {}
    outputs = usage.get("output_tokens_details") or usage.get("completion_tokens_details") or {}
    return (
        usage.get("input_tokens") or usage.get("prompt_tokens") or 0,
        usage.get("output_tokens") or usage.get("completion_tokens") or 0,
        inputs.get("cached_tokens") or 0,
        outputs.get("reasoning_tokens") or 0,
    )


def _custom_id(line: bytes) -> str:
    try:
        name: str = orjson.loads(line)["custom_id"]
    except (ValueError, KeyError, TypeError):
        return ""
    return name


def _line_id(batch: Record, number: int) -> str:
    return f"batch_req_{batch.id.rpartition('_')[2]}{number:07d}"
