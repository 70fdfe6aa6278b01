"""Recognises refusals that mean "this model cannot do that", by the codes and messages of known servers.

A refused *value* (one temperature, one type of image) is another thing: another model may take it, but the model
that refused it lacks nothing.

Few servers have a code for it, so their messages stand in one table. Each pattern matches from the message's first
character: a message may quote the request, and no request may make a model look as if it lacked something.
Sources: the error references and the code of the servers named in ``tests/backends/http/test_mismatch.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from functools import cache
from typing import Literal

from catalog.errors import CapabilityMismatch, InvalidRequest, UnsupportedParameter
from catalog.model import Capability

_QUOTE = "[`'\"]?"
_NAME = rf"(?:(?:the|this|your|requested) )*(?:model\b:? ?)?(?:{_QUOTE}[\w./:@+-]{{1,150}}{_QUOTE} ?)?(?:model )?"
_CANNOT = (
    r"(?:(?:does not|doesn't|do not|don't|cannot|can't) (?:currently |yet )?(?:support|handle|accept|process))"
)
_IS_NOT = r"(?:is|are) (?:currently )?not (?:yet )?(?:supported|enabled|available|allowed)\b"
_REST = r"(?:choice|use|calls?|calling|urls?|inputs?|content|modality|effort|outputs?|formats?)"
_BY_VALUE = (
    rf"(?:[ _]?(?:{_REST} ?)?"
    r"(?:[`'\"]?[:=(]? ?[`'\"]?(?:\d|[\w-]+/[\w.+-]+)|[:=]|[`'\"]\w"
    r"|(?:of|with) (?:the )?(?:type|size|format|mime|kind|value)|type\b|value\b"
    r"|(?:none|minimal|low|medium|high|xhigh|max|auto|required)\b"
    r"|larger|smaller|bigger|longer|above|over|under|below|more than|exceeding))"
)
"""Narrows a subject to a value of it."""
_PLACE = r"(?: (?:with|by|in|for|on|at) [^'\"]*)?\.?(?:$| )"
_REQUESTED = "(?:the |any |parameter |use of |parallel |native )*"

_SUBJECTS: Mapping[Capability, str] = {
    Capability.TOOLS: r"(?:tools?(?: (?:use|calling|calls?|choice))?|tool[_-](?:use|calls?|choice)"
    r"|functions?(?:[ _-](?:calling|calls?|tools))?)",
    Capability.VISION: r"(?:images?(?:[ _](?:urls?|inputs?|content|field))?(?: modality)?|vision(?: inputs?)?"
    r"|multimodal (?:inputs?|content|messages))",
    Capability.AUDIO_INPUT: r"(?:input_audio|audio(?: inputs?)?(?: modality)?)",
    Capability.VIDEO_INPUT: r"(?:video(?: inputs?)?(?: modality)?)",
    Capability.DOCUMENTS: r"(?:files?(?: inputs?)?|pdfs?|documents?)",
    Capability.JSON_SCHEMA: r"(?:response[ _]formats?(?: (?:of type )?[`'\"]?json_(?:schema|object)[`'\"]?)?"
    r"|json[ _](?:mode|schema|object)|structured[ _]outputs?)",
    Capability.REASONING: r"(?:(?:extended |adaptive )?thinking|reasoning(?:[ _]effort)?)",
}
_OTHERS: tuple[tuple[str, Capability], ...] = (
    # OpenAI
    (r"invalid content type\. image_url is only supported by certain models", Capability.VISION),
    (r"invalid content type\. input_audio is only supported by certain models", Capability.AUDIO_INPUT),
    (r"function tools with reasoning_effort are not supported for ", Capability.TOOLS),
    (r"invalid parameter: 'response_format' of type 'json_schema' is not supported with ", Capability.JSON_SCHEMA),
    # OpenRouter
    (r"no endpoints found that support (?:tool use|tools)", Capability.TOOLS),
    (r"no endpoints found that support (?:image|vision)", Capability.VISION),
    (r"no endpoints found that support (?:audio)", Capability.AUDIO_INPUT),
    (r"no endpoints found that support (?:file|pdf)", Capability.DOCUMENTS),
    # vLLM
    (r"\"auto\" tool choice requires --enable-auto-tool-choice", Capability.TOOLS),
    (r"[\w./:@+-]{1,150} is not a multimodal model", Capability.VISION),
    (r"at most 0 image", Capability.VISION),
    (r"at most 0 audio", Capability.AUDIO_INPUT),
    (r"at most 0 video", Capability.VIDEO_INPUT),
    (r"unknown part type: file\b", Capability.DOCUMENTS),
    # llama.cpp, Ollama, LM Studio
    (r"tools param requires --jinja", Capability.TOOLS),
    (r"this model is missing data required for image input", Capability.VISION),
    (r"vision add-on is not loaded", Capability.VISION),
    (r"unsupported content\[\]\.type", Capability.DOCUMENTS),  # of known types: text, image_url, input_audio
    # DeepSeek
    (r"this response_format type is unavailable now", Capability.JSON_SCHEMA),
    (r"failed to deserialize the json body into the target type: messages\[\d{1,4}\](?:\.content)?: unknown "
     r"variant `image_url`", Capability.VISION),
)  # fmt: skip


# Compiled at the first refusal: the patterns are large, and would take a fiftieth second of every start.


@cache
def _features() -> tuple[tuple[re.Pattern[str], Capability], ...]:
    return tuple(
        (re.compile(pattern, re.IGNORECASE), lack)
        for pattern, lack in (
            *_OTHERS,
            *(
                (
                    rf"{_NAME}{_CANNOT} {_REQUESTED}{_QUOTE}{subject}{_QUOTE}(?: parameter| field)?"
                    rf"(?!{_BY_VALUE}){_PLACE}|{_REQUESTED}{_QUOTE}{subject}{_QUOTE} {_IS_NOT}{_PLACE}",
                    lack,
                )
                for lack, subject in _SUBJECTS.items()
            ),
        )
    )


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE | re.DOTALL)


_PARAMETER = (
    rf"(?:unsupported|unknown) parameter: '(?P<a>\w{{1,40}})'"  # OpenAI
    rf"|unrecognized request arguments? supplied: (?P<e>\w{{1,40}}(?:, \w{{1,40}}){{0,9}})"
    rf"|(?P<f>\w{{1,40}}): extra (?:inputs|fields) (?:are )?not permitted"  # FastAPI, Anthropic
    rf"|argument not supported on this model: (?P<b>\w{{1,40}})"  # xAI
    rf"|{_NAME}{_CANNOT} (?:the )?parameter {_QUOTE}(?P<c>\w{{1,40}}\b){_QUOTE}(?!{_BY_VALUE})"
    rf"|{_QUOTE}(?P<d>\w{{1,40}}){_QUOTE} (?:is deprecated for|is not supported (?:by|on|with|for)) "
    rf"(?:this|the) model"  # Anthropic, Groq
)
_VALUE = (
    rf"unsupported value\b|unknown parameter: '\w+[.\[]|[\w.\[\]]+: extra (?:inputs|fields) (?:are )?not permitted"
    rf"|{_NAME}{_CANNOT} {_REQUESTED}(?:[`'\"]|\d|[\w-]+/[\w.+-]+"
    rf"|{_QUOTE}(?:{'|'.join(_SUBJECTS.values())}|\w{{1,40}}){_QUOTE}{_BY_VALUE})"
    rf"|{_REQUESTED}(?:{'|'.join(_SUBJECTS.values())}) (?:of type )?{_QUOTE}[\w/.+-]+{_QUOTE} {_IS_NOT}"
)
_VALUED = frozenset(
    {
        *("dimensions", "encoding_format", "format", "grammar", "input", "instructions", "language", "languages"),
        *(
            "messages",
            "model",
            "n",
            "output_format",
            "quality",
            "response_format",
            "sample_rate",
            "seconds",
            "size",
        ),
        *("speed", "style", "timestamp_granularities", "tool_choice", "voice"),
    }
)
"""Parameters that are refused for one of their values. A server that lacks one says so (:data:`_PARAMETER`)."""
_ENDPOINT = (
    rf"{_NAME}{_CANNOT} (?:the )?(?:chat|completions?|embeddings?|rerank|score|transcriptions?|translations?)\b"
    r"|this is not a chat model|the \w{1,40} operation does not work with the specified model"
    r"|this server does not support (?:chat|completions?|embeddings?|reranking|infill)"
)
_PATH = r"invalid url\b|unknown (?:request )?(?:url|endpoint)\b|unrecognized request url\b|unexpected endpoint\b"


def lacks(code: str, param: str | None, message: str) -> frozenset[str] | None:
    """The lacks of a model that refused: capabilities or parameters, empty if it lacks the kind of request.

    None for any other refusal, which concerns the request.
    """
    if code == "unsupported_value":
        return None
    for pattern, lack in _features():
        if pattern.match(message):
            return frozenset({lack})
    if found := _compiled(_PARAMETER).match(message):
        return frozenset(map(_snake, next(name for name in found.groups() if name).split(", ")))
    if code == "unsupported_parameter" and param and not _compiled(_VALUE).match(message):
        return None if _root_of(param) in _VALUED else frozenset({_root_of(param)})
    if _compiled(_ENDPOINT).match(message) or code in ("model_capability_mismatch", "OperationNotSupported"):
        return frozenset()
    return None


def refuses_value(code: str, message: str) -> bool:
    """Whether a model refused one value, so that another model may take it. Ask :func:`lacks` first."""
    return code == "unsupported_value" or _compiled(_VALUE).match(message) is not None


def refuses_form(param: str | None, message: str) -> Literal["stream_options", "stream"] | None:
    """The field by which an answer was asked for as a stream (or not), if the refusal is of that field.

    Looser than :func:`lacks`: the request is only repeated in another form, and what was wrong in it is refused
    again.
    """
    field = _root_of(param or "")
    if field == "stream_options" or _compiled(_STREAM_OPTIONS).search(message[:_FORM_WITHIN]):
        return "stream_options"
    if field == "stream" or _compiled(_STREAM).search(message[:_FORM_WITHIN]):
        return "stream"
    return None


_FORM_WITHIN = 300
"""Characters of a message in which the name of a field is looked for."""
_REFUSING = (
    r"(?:not\b|n't\b|unsupported|unknown|unrecogni[sz]ed|unexpected|invalid|extra|additional|disabled|only"
    r"|must be|required?|enable)"
)
_STREAM_OPTIONS = (
    rf"\b(?:stream_options|streamoptions|include_usage)\b.{{0,80}}{_REFUSING}"
    rf"|{_REFUSING}.{{0,80}}\b(?:stream_options|streamoptions|include_usage)\b"
)
_STREAM = rf"\bstream(?:ing|ed)?\b.{{0,60}}{_REFUSING}|{_REFUSING}.{{0,60}}\bstream(?:ing|ed)?\b"


def refuses_late_system(message: str) -> bool:
    """Whether a chat template takes no system message but the first."""
    return _LATE_SYSTEM.search(message[:_FORM_WITHIN]) is not None


_LATE_SYSTEM = re.compile(
    r"\bsystem (?:message|prompt|role)s?\b.{0,40}\b(?:beginning|start|first)\b"
    r"|\b(?:first|initial)\b.{0,40}\bsystem (?:message|prompt|role)\b",
    re.IGNORECASE,
)


def refuses_developer(message: str) -> bool:
    """Whether a server refuses the role ``developer``, or a role that it does not name."""
    return _DEVELOPER.search(message[:_FORM_WITHIN]) is not None


_DEVELOPER = re.compile(
    r"\bdeveloper\b|\b(?:unexpected|unknown|invalid|unsupported|unrecogni[sz]ed) (?:message )?roles?\b"
    r"|\broles?\b.{0,60}\b(?:should be|must be|one of|expected)\b",
    re.IGNORECASE | re.DOTALL,
)


def refused_among(names: Iterable[str], lacked: Set[str], message: str) -> frozenset[str]:
    """The parameters among ``names`` that a server does not know, by its message and what :func:`lacks` found.

    In the message only names of several words are looked for. One whose value is too long is known.
    """
    said = message[:_FORM_WITHIN]
    if _TOO_LONG.search(said):
        return frozenset()
    return frozenset(name for name in names if name in lacked or ("_" in name and re.search(rf"\b{name}\b", said)))


_TOO_LONG = re.compile(r"\b(?:too long|length|characters|at most)\b", re.IGNORECASE)


def named_field(message: str) -> str | None:
    """The field whose value a message refuses, if it says so: "'seconds' must be one of '4', '8', '12'."."""
    found = _MUST_BE.search(message[:_FIELD_WITHIN])
    return None if found is None else found[1]


_FIELD_WITHIN = 200
"""Characters of a message in which the name of a field is looked for."""
_MUST_BE = re.compile(r"(?:^|[:.] )[`'\"](\w{1,40})[`'\"] must be\b")


def of_lack(error: type[InvalidRequest], text: str, param: str | None, missing: frozenset[str]) -> InvalidRequest:
    """The refusal of what a model lacks, which names a parameter that is among it."""
    if error is InvalidRequest:
        error = CapabilityMismatch
    parameters = sorted(name for name in missing if not isinstance(name, Capability))
    refused = error(text, param=param or (parameters or ["model"])[0])
    refused.lacks = missing
    if parameters:  # the class lets another model be asked
        refused.code = UnsupportedParameter.code
    return refused


def lacks_path(code: str, message: str) -> bool:
    """Whether an error object says that the server has no such path, which no repetition will change."""
    return code == "unknown_url" or _compiled(_PATH).match(message) is not None


def _root_of(param: str) -> str:
    """The parameter of a path into it: ``tools`` of ``tools[0].type``."""
    return re.split(r"[.\[]", param, maxsplit=1)[0]


def _snake(name: str) -> str:
    """``presence_penalty`` of ``presencePenalty``."""
    return re.sub(r"(?<=[a-z])([A-Z])", lambda found: f"_{found[1].lower()}", name)
