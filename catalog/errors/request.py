"""Errors of a request, which sending it again does not help."""

from __future__ import annotations

from typing import Any, ClassVar

from catalog.errors.base import RoundhouseError
from catalog.installing import install_command


class InvalidRequest(RoundhouseError):
    """The request is invalid; sending it again will not help.

    ``lacks``, if an upstream said that the model cannot do this, names the capabilities and parameters that it
    lacks; empty if it named none. Another model may answer, and this one is not asked for them again for a while.
    ``inner`` is the provider's own account of the refusal (Azure's ``innererror``), and ``code`` may be its code.
    """

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"
    lacks: frozenset[str] | None = None
    inner: dict[str, Any] | None = None

    def to_body(self) -> dict[str, Any]:
        body = super().to_body()
        if self.inner is not None:
            body["error"]["innererror"] = self.inner
        return body


class ContextLengthExceeded(InvalidRequest):
    """The prompt does not fit the model's context window."""

    code = "context_length_exceeded"

    def __init__(self, *, model: str, limit: int | None, requested: int | None, param: str = "messages") -> None:
        super().__init__("", param=param)
        self.model = model
        self.limit = limit
        self.requested = requested
        self._say()

    @classmethod
    def told(cls, message: str) -> ContextLengthExceeded:
        """Make the error of several models from a message with their numbers."""
        error = cls(model="auto", limit=None, requested=None)
        error.message = message
        error.args = (message,)
        return error

    def complete(self, *, limit: int | None, estimate: int) -> None:
        """Fill in the row's limit and the estimated tokens: if the server gave no number, and they explain it."""
        if self.limit is None and self.requested is None and limit is not None and estimate > limit:
            self.limit, self.requested = limit, estimate
            self._say("about ")

    def add_advice(self) -> None:
        """Add how the operator sets the window of a model that runs on this machine."""
        self.message += (
            " The operator sets that length, as far as the model was trained for it: limits.context_window of its "
            "row, or workers.context."
        )
        self.args = (self.message,)

    def _say(self, about: str = "") -> None:
        bound = f"is {self.limit} tokens, but" if self.limit is not None else "is exceeded:"
        needs = f"{about}{self.requested} tokens" if self.requested is not None else "more than that"
        self.message = (
            f"This model's maximum context length {bound} the request needs {needs} ('{self.model}'). "
            "Shorten the prompt or choose a model with a larger context window."
        )
        self.args = (self.message,)


class UnsupportedParameter(InvalidRequest):
    """The model or endpoint does not support a parameter, which is refused rather than ignored."""

    code = "unsupported_parameter"


class UnsupportedValue(UnsupportedParameter):
    """The model cannot give one value of a parameter, such as a voice, a language, a size or a format.

    That is the request's fault, and is never remembered as a lack of the model: the next value may be given.
    """

    code = "unsupported_value"


class CapabilityMismatch(InvalidRequest):
    """The named model lacks the requested capability; the message lists models that have it."""

    code = "model_capability_mismatch"


class PathMissing(CapabilityMismatch):
    """An upstream answered 404 or 405, not about the model: it lacks the path, or its proxy is at fault."""

    upstream_status: int | None = None


class UndecodableMedia(InvalidRequest):
    """The data cannot be decoded as the audio or image that it is declared to be."""

    code = "undecodable_media"


class PayloadTooLarge(InvalidRequest):
    """The body, or a file in it, exceeds its size limit."""

    status = 413
    code = "payload_too_large"


class MethodNotAllowed(InvalidRequest):
    """The path exists, but not for this method."""

    status = 405
    code = "method_not_allowed"


class RequestTimeout(InvalidRequest):
    """The client did not send its body in time."""

    status = 408
    code = "request_timeout"


class UnsupportedMediaType(InvalidRequest):
    """The body has a content type or encoding that this endpoint does not accept."""

    status = 415
    code = "unsupported_media_type"


class HeadersTooLarge(InvalidRequest):
    """The request's headers exceed the limits of number or length."""

    status = 431
    code = "headers_too_large"


class PriceUnknown(InvalidRequest):
    """A limit on cost applies, and the model's price is unknown; another candidate may have one."""

    code = "price_unknown"
    retryable = True
    reason: ClassVar[str] = (
        "its price is unknown, and a limit on cost applies. Give its row a price, "
        "or set spend.unknown_price to 'allow'"
    )


class NoCandidate(InvalidRequest):
    """The router excluded every model, for reasons that do not pass by themselves; the message gives them."""

    code = "no_candidate"


class NotAuthenticated(RoundhouseError):
    """The API key is missing or unknown."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"

    def headers(self) -> dict[str, str]:
        return {**super().headers(), "WWW-Authenticate": "Bearer"}


class NotPermitted(RoundhouseError):
    """The API key is valid but lacks the permission."""

    status = 403
    type = "permission_error"
    code = "permission_denied"

    @classmethod
    def of_model(cls, model: str) -> NotPermitted:
        """Make the error of a key that is bound to other models."""
        return cls(f"This key may not use the model '{model}'.")


class NotFound(RoundhouseError):
    """The path or object does not exist."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class ModelNotFound(NotFound):
    """No model has this id, name or alias."""

    code = "model_not_found"
    where: ClassVar[str] = "GET /v1/models lists the models."

    def __init__(self, name: str, *, nearest: tuple[str, ...] = ()) -> None:
        hint = f" Did you mean {', '.join(repr(n) for n in nearest)}?" if nearest else ""
        super().__init__(f"The model {name[:200]!r} does not exist.{hint} {self.where}", param="model")
        self.name = name
        self.nearest = nearest

    @classmethod
    def of_pullable(cls, name: str, command: str) -> ModelNotFound:
        """Make the error of a model that is known and not on this machine."""
        error = cls(name)
        error.message = f"The model {name[:200]!r} is not on this machine. Pull it with: {command}"
        error.args = (error.message,)
        return error

    @classmethod
    def of_stand_in(cls, asked: str, target: str) -> ModelNotFound:
        """Make the error of a name for which the settings let a model stand in that does not exist."""
        error = cls(target)
        error.name = asked
        error.message = f"'{asked[:200]}' stands for '{target}' here (routing.stand_ins). {error.message}"
        error.args = (error.message,)
        return error


class ModelUnavailable(NotFound):
    """The model is known, but is not pulled, has no key, or exceeds the device's memory: waiting does not help."""

    code = "model_unavailable"
    retryable = True


class ModelTooLarge(ModelUnavailable):
    """The model needs more memory, with the options of its worker, than workers may use on any device."""


class EngineMissing(ModelUnavailable):
    """The engine's package is not installed, or no engine has this name."""

    code = "engine_missing"

    def __init__(self, engine: str, *, extra: str, package: str | None = None, python: str | None = None) -> None:
        missing = f" ({package} is missing)" if package else ""
        command = install_command(extra, python=python)
        super().__init__(f"The engine '{engine}' is not installed{missing}. Install it with: {command}")
        self.engine = engine
        self.extra = extra

    @classmethod
    def told(cls, message: str, *, engine: str = "") -> EngineMissing:
        """Make the error from a message that was composed earlier."""
        error = cls(engine, extra="")
        error.message = message
        error.args = (message,)
        error.param = "model"
        return error
