"""``/openapi.json``, made from the contracts of the endpoints when it is first asked for."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core.core_schema import WithDefaultSchema
from typing_extensions import TypedDict

from catalog import errors
from catalog.errors import RoundhouseError
from catalog.types import Json
from routing.calling.answer import CHOICE_HEADERS
from routing.reading.intent import IntentBody
from server.edge.contracts import JSON_LINES, Contract, ContractRoute
from server.edge.errors import ANTHROPIC_PATHS, OLLAMA_PATHS

ANY_REQUEST = (
    errors.InvalidRequest,
    errors.HeadersTooLarge,
    errors.NotAuthenticated,
    errors.NotPermitted,
    RoundhouseError,
    errors.Unavailable,
)
"""The errors of every request: a Host that is not served, headers, keys, faults, and a server that starts."""
WITH_BODY = (
    errors.RequestTimeout,
    errors.PayloadTooLarge,
    errors.UnsupportedMediaType,
    errors.RateLimited,
    errors.Draining,
)
"""Further errors of requests with a body, which are admitted before it is read."""
OF_A_CALL = (
    errors.ContextLengthExceeded,
    errors.UnsupportedParameter,
    errors.CapabilityMismatch,
    errors.UndecodableMedia,
    errors.ModelNotFound,
    errors.QueueFull,
    errors.BudgetExceeded,
    errors.EngineMissing,
    errors.ModelUnavailable,
    errors.ModelTemporarilyUnavailable,
    errors.PriceUnknown,
    errors.NoCandidate,
    errors.WorkerFailed,
    errors.UpstreamError,
    errors.UpstreamUnreachable,
    errors.UpstreamProtocolError,
    errors.UpstreamRejectedKey,
    errors.UpstreamForbidden,
    errors.UpstreamQuotaExceeded,
    errors.UpstreamRateLimited,
    errors.UpstreamOverloaded,
    errors.StreamBroken,
    errors.UpstreamTimeout,
    errors.ConnectTimeout,
    errors.FirstByteTimeout,
    errors.IdleTimeout,
    errors.TotalTimeout,
)
"""Further errors of requests that a model answers."""
EVENT_SCHEMA = "x-event-schema"
"""The schema of each event's data, or of each line of JSON lines. A media type's own schema describes the whole
body, and generated clients read by it; OpenAPI has ``itemSchema`` for the parts of a stream only from 3.2 on."""
WIRES = "backends.wire."
"""The package of the requests whose unknown fields are kept, so that ``routing`` is one of theirs."""
_REFERENCE = "#/components/schemas/{model}"


class ErrorObject(TypedDict):
    """``message`` says what is wrong and what to do; ``param`` names the parameter at fault."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(TypedDict):
    """OpenAI's error object."""

    error: ErrorObject


class AnthropicErrorObject(TypedDict):
    type: str
    message: str


class AnthropicError(TypedDict):
    """Anthropic's error object, on the paths of its API."""

    type: str
    error: AnthropicErrorObject
    request_id: str


class OllamaError(TypedDict):
    """Ollama's error object, on the paths of its API."""

    error: str


def describe(app: FastAPI) -> Json:
    """The OpenAPI document of an app."""
    if app.openapi_schema is None:
        app.openapi_schema = _document(app)
    return app.openapi_schema


def _document(app: FastAPI) -> Json:
    routes = [route for route in app.routes if isinstance(route, ContractRoute) and route.include_in_schema]
    routes = [_without_head(route) for route in routes]
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=routes)
    schemas = _Schemas(route.contract for route in routes)
    for route in routes:
        for method in route.methods or ():
            operation = document["paths"][route.path_format][method.lower()]
            _complete(operation, route, schemas)
    components = document.setdefault("components", {})
    components["schemas"] = schemas.definitions
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }
    return document


def _without_head(route: ContractRoute) -> ContractRoute:
    """The route as the document has it: HEAD wherever there is GET goes without saying."""
    told = copy(route)
    told.methods = (route.methods or set()) - {"HEAD"}
    return told


def _complete(operation: Json, route: ContractRoute, schemas: _Schemas) -> None:
    """Write a route's contract into its operation."""
    contract = route.contract
    if not contract.open:
        operation["security"] = [{"bearer": []}, {"api-key": []}, {}]
    if contract.admin:
        operation["description"] = f"{operation['description']}\n\nNeeds an admin key."
    if contract.query is not None:
        operation.setdefault("parameters", []).extend(_query(contract.query))
    if contract.reads is not None:
        media_type = "multipart/form-data" if contract.form else "application/json"
        operation["requestBody"] = {
            "required": not contract.optional,
            "content": {media_type: {"schema": schemas.of(contract.reads)}},
        }
        if contract.json_too is not None:
            operation["requestBody"]["content"]["application/json"] = {"schema": schemas.of(contract.json_too)}
        if contract.calls_model and not contract.form and contract.reads.__module__.startswith(WIRES):
            schemas.add_field(contract.reads, "routing", IntentBody)
    content = {media_type: {"schema": schemas.of(kind)} for media_type, kind in contract.media.items()}
    if contract.answers is not None:
        content = {"application/json": {"schema": schemas.of(contract.answers)}, **content}
    if contract.streams is not None:
        content["text/event-stream"] = {"schema": {"type": "string"}, EVENT_SCHEMA: schemas.of(contract.streams)}
    if contract.lines is not None:
        content[JSON_LINES] = {"schema": {"type": "string"}, EVENT_SCHEMA: schemas.of(contract.lines)}
    answer: Json = {"description": "The answer.", "content": content}
    if contract.calls_model and not contract.admin:
        answer["headers"] = {
            name: {"description": text, "schema": {"type": "string"}} for name, text in CHOICE_HEADERS.items()
        }
    operation["responses"] = {"200": answer, **_errors(route, schemas.of(_error_of(route.path)))}


def _error_of(path: str) -> Any:
    """The type of an error on a path."""
    if path.startswith(ANTHROPIC_PATHS):
        return AnthropicError
    return OllamaError if path.startswith(OLLAMA_PATHS) else Error


def _errors(route: ContractRoute, schema: Json) -> Json:
    contract = route.contract
    kinds: list[type[RoundhouseError]] = [errors.Unavailable, RoundhouseError] if contract.open else [*ANY_REQUEST]
    if "POST" in (route.methods or ()) or contract.reads is not None:
        kinds += WITH_BODY
    if contract.calls_model:
        kinds += OF_A_CALL
    elif "{" in route.path or contract.admin:
        kinds.append(errors.NotFound)
    kinds += contract.raises
    by_status: dict[int, list[str]] = {}
    for kind in kinds:
        by_status.setdefault(kind.status, []).append(kind.code)
    return {
        str(status): {
            "description": f"Codes: {', '.join(dict.fromkeys(codes))}.",
            "content": {"application/json": {"schema": schema}},
        }
        for status, codes in sorted(by_status.items())
    }


def _query(model: type[BaseModel]) -> list[Json]:
    schema = model.model_json_schema(schema_generator=_NoDefaults)
    return [
        {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": its}
        for name, its in schema["properties"].items()
    ]


class _NoDefaults(GenerateJsonSchema):
    """Writes defaults as ``x-default``: generators take a field with ``default`` for one that is always there."""

    def default_schema(self, schema: WithDefaultSchema) -> Json:
        found = super().default_schema(schema)
        default = found.pop("default", None)
        return found if default is None else {**found, "x-default": default}


class _Schemas:
    """The JSON schemas of all types in the contracts, each once."""

    def __init__(self, contracts: Iterable[Contract]) -> None:
        kinds: list[Any] = [Error, AnthropicError, OllamaError, IntentBody]
        for contract in contracts:
            kinds += [contract.reads, contract.json_too, contract.answers, contract.streams, contract.lines]
            kinds += contract.media.values()
        inputs: list[tuple[Any, Literal["validation"], TypeAdapter[Any]]] = [
            (kind, "validation", TypeAdapter(kind)) for kind in dict.fromkeys(kinds) if kind is not None
        ]
        found, schema = TypeAdapter.json_schemas(inputs, ref_template=_REFERENCE, schema_generator=_NoDefaults)
        self._found = {kind: its for (kind, _), its in found.items()}
        self.definitions: Json = schema.get("$defs", {})

    def add_field(self, kind: type[BaseModel], name: str, of: Any) -> None:
        """Describe a field beyond a type's own."""
        reference = self.of(kind).get("$ref", "")
        self.definitions[reference.rpartition("/")[2]]["properties"][name] = self.of(of)

    def of(self, kind: Any) -> Json:
        """The schema of a type: a reference, for those with a name."""
        return {"type": "string", "format": "binary"} if kind is bytes else self._found[kind]
