"""Compares the built-in rows with the models that the providers' SDKs list: ``make models``.

Prints the models without a row, the rows whose end is wrong or near, and exits with 1 if there are any that
:data:`LEFT_OUT` does not name with a reason. The SDKs are development dependencies.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

from catalog.catalog import Catalog
from catalog.index import LAST_DAYS
from catalog.model import Model

LEFT_OUT = {
    # OpenAI
    "gpt-5.1-mini": "no model: the SDK keeps the name for compatibility",
    "gpt-daybreak-*": "for organisations in a programme",
    "gpt-*-cyber": "for organisations in a programme",
    "gpt-rosalind-*": "for organisations in a programme",
    "gpt-*-rosalind": "for organisations in a programme",
    "gpt-*-astra-law": "for organisations in a programme",
    "gpt-5-codex": "shut down",
    "gpt-5-pro": "ends on 2026-12-11",
    "gpt-5.1-codex-max": "shut down",
    "o1-pro": "shut down",
    "o3-pro": "ends on 2026-12-11",
    "o3-deep-research": "research of many minutes for dollars, which no request should get unasked",
    "o4-mini-deep-research": "research of many minutes for dollars, which no request should get unasked",
    "computer-use-preview": "a preview for one tool",
    "text-embedding-ada-002": "an older embedding, dearer than text-embedding-3-small",
    "chatgpt-image-latest": "ends on 2026-12-01",
    "omni-moderation-*": "the row omni-moderation-latest by its date",
    "text-moderation-*": "older moderation, of texts alone",
    "sora-*": "shut down",
    # Anthropic
    "claude-mythos-*": "for organisations in a programme; the same model as Claude Fable",
    # Google
    "*-latest": "an alias that moves: a row has one price",
    "gemma-*": "open weights; the API serves them without a price",
    "gemini-3-flash-preview": "a preview, replaced by gemini-3.5-flash",
    "gemini-3.1-pro-preview-customtools": "the row of gemini-3.1-pro-preview with another prompt",
    "gemini-2.5-flash-image": "shut down",
    "gemini-3.1-flash-image": "shut down; its successor is gemini-nano-banana-2.1",
    "nano-banana-pro-preview": "a preview of gemini-3-pro-image",
    "gemini-*-tts*": "speech in answers of a chat; POST /v1/audio/speech does not reach it",
    "gemini-*-transcribe": "transcripts in answers of a chat; POST /v1/audio/transcriptions does not reach it",
    "gemini-robotics-*": "a preview for robots",
    "gemini-omni-flash-preview": "a preview, replaced by gemini-omni-1.2-flash",
    "lyria-*": "makes music",
    # ElevenLabs
    "eleven_turbo_*": "replaced by eleven_flash_v2_5",
    "eleven_flash_v2": "replaced by eleven_flash_v2_5",
    "*_conversational": "for its own agents",
    "scribe_v2_medical": "for medical speech, behind an agreement",
}
"""Models that have no row, as names or patterns, each with the reason."""

_DATED = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8}|\d{4}(-preview)?)$")
_SHUTDOWN = re.compile(r"- ((?:\"[^\"]+\"(?:,\s+)?)+):\s+Announced\s+shutdown\s+date:\s+(\d{4}-\d{2}-\d{2})")


def listed() -> dict[str, set[str]]:
    """The models that each provider's SDK lists, by provider."""
    from anthropic.types.model import Model as ClaudeModel
    from elevenlabs.types.tts_conversational_model import TtsConversationalModel
    from openai.types.audio.speech_model import SpeechModel
    from openai.types.audio_model import AudioModel
    from openai.types.embedding_model import EmbeddingModel
    from openai.types.image_model import ImageModel
    from openai.types.moderation_model import ModerationModel
    from openai.types.shared.all_models import AllModels
    from openai.types.video_model import VideoModel

    ours = (AllModels, AudioModel, EmbeddingModel, ImageModel, ModerationModel, SpeechModel, VideoModel)
    return {
        "openai": {name for kind in ours for name in _literals(kind)},
        "anthropic": set(_literals(ClaudeModel)),
        "google": set(_strings(_source("google.genai", "_gaos/types/interactions/model.py"), "Model")),
        "elevenlabs": {*_literals(TtsConversationalModel), *_transcribers()},
    }


def announced() -> dict[str, date]:
    """The ends that the SDKs tell, by model."""
    from anthropic._data import DEPRECATED_MODELS

    ends = {}
    for path in ("shared/chat_model.py", "audio_model.py", "audio/speech_model.py"):
        for names, day in _SHUTDOWN.findall(_source("openai", f"types/{path}")):
            ends.update(dict.fromkeys(re.findall(r'"([^"]+)"', names), date.fromisoformat(day)))
    for name, day in DEPRECATED_MODELS.items():
        plain = re.sub(r"(\d)(st|nd|rd|th),", r"\1,", day)
        ends[name] = datetime.strptime(plain, "%B %d, %Y").replace(tzinfo=UTC).date()
    for names, day in re.findall(r'- ("[^:]+):[^:]*?(?:shut down|retired) on (\w+ \d+,\s+\d{4})', _images()):
        on = datetime.strptime(" ".join(day.split()), "%B %d, %Y").replace(tzinfo=UTC).date()
        ends.update(dict.fromkeys(re.findall(r'"([^"]+)"', names), on))
    return ends


def missing(rows: Sequence[Model], today: date) -> dict[str, str]:
    """The models without a row, with their provider. Dated names have that of the name without a date."""
    ends = announced()
    known = {row.source.model for row in rows if row.source.kind == "upstream"}
    return {
        name: provider
        for provider, names in listed().items()
        for name in sorted(names)
        if name not in known
        and _DATED.sub("", name) not in known
        and not (name in ends and ends[name] <= today)
        and not any(fnmatchcase(alias, pattern) for pattern in LEFT_OUT for alias in (name, _DATED.sub("", name)))
    }


def wrong_ends(rows: Sequence[Model]) -> dict[str, tuple[date | None, date]]:
    """The rows whose end is another than the SDK tells: theirs, and the right one."""
    ends = announced()
    upstreams = {row.id: row.source.model for row in rows if row.source.kind == "upstream"}
    told = {row.id: (row.ends, ends[upstreams[row.id]]) for row in rows if upstreams.get(row.id) in ends}
    return {name: days for name, days in told.items() if days[0] != days[1]}


def ended(rows: Sequence[Model], today: date) -> dict[str, date]:
    """The rows whose model has been shut down."""
    return {row.id: row.ends for row in rows if row.ends is not None and row.ends <= today}


def main() -> int:
    """Print the report; returns the exit status."""
    rows = Catalog.builtin().models()
    today = datetime.now(UTC).date()
    absent, wrong, gone = missing(rows, today), wrong_ends(rows), ended(rows, today)
    for name, provider in absent.items():
        print(f"{provider}: {name} has no row in catalog/builtin/{provider}.toml, and no reason in LEFT_OUT")
    for name, (ours, theirs) in wrong.items():
        print(f"{name}: ends = {ours} in its row, {theirs} in the SDK")
    for name, day in gone.items():
        print(f"{name}: ended on {day}; remove its row")
    for row in sorted((row for row in rows if row.ends is not None), key=lambda row: str(row.ends)):
        if row.ends is not None and row.ends > today:
            days = (row.ends - today).days
            print(f"{row.id}: ends on {row.ends}, in {days} days{'; auto left it' if days <= LAST_DAYS else ''}")
    return 1 if absent or wrong or gone else 0


def _literals(kind: Any) -> Iterator[str]:
    for part in get_args(kind):
        if isinstance(part, str):
            yield part
        else:
            yield from _literals(part)


def _source(package: str, path: str) -> str:
    # Read, not imported: google-genai's private module would import its whole client.
    found = find_spec(package)
    assert found is not None
    assert found.submodule_search_locations is not None
    return (Path(found.submodule_search_locations[0]) / path).read_text("utf-8")


def _strings(source: str, variable: str) -> Iterator[str]:
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and any(getattr(at, "id", None) == variable for at in node.targets):
            literal = (part for part in ast.walk(node.value) if isinstance(part, ast.Constant))
            yield from (str(part.value) for part in literal)


def _transcribers() -> Iterator[str]:
    # Only the descriptions of parameters name them.
    yield from re.findall(r"\bscribe_v\d\w*", _source("elevenlabs", "speech_to_text/client.py"))


def _images() -> str:
    return " ".join(_source("openai", "types/image_model.py").split())


if __name__ == "__main__":
    sys.exit(main())
