"""Rows for models that are found, not configured: those of running servers and of files on disk; and upgrades.

A backend that lists a server's models makes their rows with :func:`discovered_rows` or :func:`discovered_row`. A
provider lists snapshots (``claude-haiku-4-5-20251001``, ``gpt-4o-2024-08-06``) of what a row names without a date,
and callers name either.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeGuard
from urllib.parse import urlsplit

from pydantic import ValidationError

from catalog.errors import PullError, RoundhouseError
from catalog.file_rows import default_id, folder_row, gguf_facts
from catalog.files.projectors import is_projector, projector_of, senses
from catalog.files.quantization import quantization_of
from catalog.model import (
    ENDPOINTS,
    FREE,
    LOCAL_ENDPOINT,
    Capability,
    Endpoint,
    Limits,
    Model,
    PathSource,
    Price,
    Size,
    UpstreamSource,
)
from catalog.store.damage import gguf_damage
from catalog.types import Json

MAX_LISTED = 2000
"""Models of one source that become rows. The largest public lists have several hundred."""

_ID = re.compile(r"^[\w][\w./:@+-]*$")
_PART = re.compile(r"-(\d{5})-of-\d{5}\.gguf$", re.IGNORECASE)

_BY_NAME: tuple[tuple[re.Pattern[str], frozenset[Capability]], ...] = (
    (re.compile(r"(^|[/_-])realtime([-_]|$)", re.IGNORECASE), frozenset({Capability.REALTIME})),
    (re.compile(r"rerank", re.IGNORECASE), frozenset({Capability.RERANK})),
    (re.compile(r"embed|minilm|(^|[/_-])(bge|e5|gte)[-_]", re.IGNORECASE), frozenset({Capability.EMBED})),
    (re.compile(r"whisper|transcribe|parakeet|scribe", re.IGNORECASE), frozenset({Capability.TRANSCRIBE})),
    (re.compile(r"(^|[/_-])tts([-_]|$)|kokoro|piper|orpheus", re.IGNORECASE), frozenset({Capability.SPEAK})),
    (
        re.compile(r"gpt-image|(?:image|flux|kontext).*(?:edit|kontext)|kontext", re.IGNORECASE),
        frozenset({Capability.IMAGE, Capability.IMAGE_EDIT}),
    ),
    (re.compile(r"dall-e|stable-diffusion|flux|sdxl", re.IGNORECASE), frozenset({Capability.IMAGE})),
    (
        re.compile(r"(^|[/_-])(sora|veo|wan[-_]?2|ltx|kling|seedance|hunyuan-?video|cogvideo)", re.IGNORECASE),
        frozenset({Capability.VIDEO, Capability.VISION}),
    ),
)
"""Capabilities guessed from a name, as a server's list gives nothing else; without a match, a chat model."""


# ---- servers


def discovered_row(
    endpoint: Endpoint, name: object, *, context: object = None, kind: str = "", **fields: Any
) -> Model | None:
    """Make the row of one model that a server lists; ``None`` for a name that no row can have.

    The id is ``endpoint/name``, with the bare name as alias. ``context`` is the context window as the server gives
    it, ignored unless it is a positive integer. ``fields`` are further fields of :class:`Model`. Without
    ``capabilities`` among them, these are guessed from the name and from ``kind``, such as a family. A name that
    begins with ``local/`` is no alias, as it would mean a model of this machine.
    """
    if not isinstance(name, str) or len(name) > 150 or _ID.match(name) is None:
        return None
    fields["capabilities"] = fields.get("capabilities") or guess_capabilities(f"{name} {kind}" if kind else name)
    limits: Limits = fields.pop("limits", Limits())
    try:
        return Model(
            id=f"{endpoint.id}/{name}",
            aliases=() if name.casefold().split("/")[0] == LOCAL_ENDPOINT else (name,),
            provider=endpoint.id,
            source=UpstreamSource(endpoint=endpoint.id, model=name),
            price=FREE if endpoint.private else Price(),
            tags=endpoint.tags | {"discovered"},
            origin="discovered",
            limits=limits.model_copy(update={"context_window": context}) if is_positive(context) else limits,
            **fields,
        )
    except ValidationError:
        return None


class FoundRows(list[Model]):
    """The rows of one server's list, :data:`MAX_LISTED` at most.

    ``unusable`` counts the listed models that cannot have a row, ``left_out`` those beyond the limit.
    """

    unusable: int = 0
    left_out: int = 0


def discovered_rows(
    endpoint: Endpoint, entries: list[Json], describe: Callable[[Json], Mapping[str, Any] | None]
) -> FoundRows:
    """Make the rows of a server's list; an entry that cannot have a row spoils only itself.

    ``describe`` gives the arguments of :func:`discovered_row` for an entry, ``None`` for one to skip.
    """
    rows = FoundRows()
    rows.left_out = max(0, len(entries) - MAX_LISTED)
    for entry in entries[:MAX_LISTED]:
        try:
            described = describe(entry)
            row = None if described is None else discovered_row(endpoint, **described)
        except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError):
            described, row = {}, None
        if row is not None:
            rows.append(row)
        elif described is not None:
            rows.unusable += 1
    return rows


def listed_entries(document: Any, key: str) -> list[Json]:
    """Return the objects of the list ``key`` of a server's document; empty for a document of another form."""
    listed = document.get(key) if isinstance(document, dict) else None
    return [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []


def is_positive(value: object) -> TypeGuard[int]:
    """Whether a value of a server's document is a positive integer, and no boolean."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def guess_capabilities(name: str) -> frozenset[Capability]:
    """The capabilities that a name suggests; those of a chat model for a name that suggests none."""
    for pattern, capabilities in _BY_NAME:
        if pattern.search(name):
            return capabilities
    return frozenset({Capability.CHAT, Capability.COMPLETION})


# ---- dated names, and what a listed model inherits


_DATE = re.compile(r"(?P<date>[-@](?:20\d{2}-?[01]\d-?[0-3]\d|latest|default))$", re.IGNORECASE)
"""``-20251001`` (Anthropic), ``@20251001`` (Vertex AI), ``-2024-08-06`` (OpenAI), ``-latest``."""

_INHERITED = (
    *(
        "family",
        "version",
        "license",
        "performance",
        "benchmarks",
        "published",
        "languages",
        "voices",
        "voice_map",
    ),
    *("parameters", "successor"),
)
_OF_ITS_HOST = ("wire", "options", "ends")
"""Fields that hold at the provider's own host: a proxy may lack an API, and outlive a model."""
_KIN: Mapping[str, frozenset[str]] = {
    "azure": frozenset({"openai"}),
    "bedrock": frozenset({"anthropic"}),
    "vertex": frozenset({"anthropic", "google"}),
}
"""Protocols of clouds, and those of the makers whose models they serve."""
_AT_A_CLOUD = re.compile(r"^(?:[a-z]+\.)?anthropic\.|-v\d+(?::\d+)?(?::\w+)?$|^publishers/\w+/models/")
"""Parts of names that a cloud adds: ``us.anthropic.claude-haiku-4-5-20251001-v1:0``."""
_OF_THE_MAKER = frozenset({Capability.WEB_SEARCH})
"""Tools that a maker hosts, and a cloud with its models may not."""


def undated(name: str) -> str:
    """The name without the date of its snapshot."""
    return _DATE.sub("", name)


def by_undated_name(rows: Iterable[Model]) -> dict[str, tuple[Model, ...]]:
    """Rows by their names without a date, in lower case: those without a date first, then the newest."""
    found: dict[str, list[tuple[str, Model]]] = {}
    for row in rows:
        names = {row.id, *row.aliases, *([row.source.model] if isinstance(row.source, UpstreamSource) else ())}
        dates: dict[str, str] = {}
        for name in (name.lower() for name in names):
            base = undated(name)
            date = name[len(base) + 1 :]
            dates[base] = min(dates.get(base, date), date)  # an empty date is the least
        for base, date in dates.items():
            found.setdefault(base, []).append((date, row))
    return {
        base: tuple(row for _, row in sorted(dated, key=lambda pair: _order(pair[0])))
        for base, dated in found.items()
    }


def _order(date: str) -> tuple[bool, int]:
    digits = date.replace("-", "")
    return bool(date), -int(digits) if digits.isdecimal() else 0


def informed(found: Iterable[Model], own: Iterable[Model], endpoints: Mapping[str, Endpoint]) -> tuple[Model, ...]:
    """The rows of a server's list, with what the rows of the same models know: features, limits, prices.

    A listed model that a row of ``own`` already reaches at the same endpoint is left out. Only rows of servers of
    the same protocol are asked, and prices are taken at the same host alone. A private server's model is its own,
    whatever its name.
    """
    own = tuple(row for row in own if isinstance(row.source, UpstreamSource))
    reached = {(row.endpoint_name, _model(row)) for row in own}
    known = by_undated_name(row for row in own if row.origin == "builtin")
    rows = []
    for row in found:
        if (row.endpoint_name, _model(row)) in reached:
            continue
        server = endpoints.get(row.endpoint_name)
        base = None if server is None or server.private else _base(row, server, known, endpoints)
        if base is None or server is None:
            rows.append(row)
        else:
            same_host = _same_host(server, base, endpoints)
            rows.append(_with(row, base, _inherited(server, same_host), same_host))
    return tuple(rows)


def _model(row: Model) -> str:
    return row.source.model.lower() if isinstance(row.source, UpstreamSource) else ""


def _base(
    row: Model, server: Endpoint, known: Mapping[str, tuple[Model, ...]], endpoints: Mapping[str, Endpoint]
) -> Model | None:
    """The row of the same model at a server of the same protocol, or of a maker whose models the server's has."""
    makers = _KIN.get(server.protocol, frozenset())
    name = _AT_A_CLOUD.sub("", _model(row)) if makers else _model(row)
    for candidate in known.get(undated(name), ()):
        home = endpoints.get(candidate.endpoint_name)
        if home is not None and (home.protocol == server.protocol or home.protocol in makers):
            return candidate
    return None


def _same_host(server: Endpoint, base: Model, endpoints: Mapping[str, Endpoint]) -> bool:
    home = endpoints[base.endpoint_name]
    return home.id == server.id or urlsplit(home.base_url).hostname == urlsplit(server.base_url).hostname


def _inherited(server: Endpoint, same_host: bool) -> tuple[str, ...]:
    if same_host:
        return (*_INHERITED, *_OF_ITS_HOST)
    return (*_INHERITED, "wire") if server.protocol == "azure" else _INHERITED


def _with(row: Model, base: Model, names: tuple[str, ...], same_host: bool) -> Model:
    """The row with what it lacks. Capabilities of a list without any are a guess, which the known ones replace."""
    known = {name: getattr(base, name) for name in names if name in base.model_fields_set - row.model_fields_set}
    features = row.capabilities - ENDPOINTS
    theirs_too = base.capabilities if same_host else base.capabilities - _OF_THE_MAKER
    ours, theirs = base.limits.model_dump(exclude_none=True), row.limits.model_dump(exclude_none=True)
    # A known price may hold for a part of the context window only, which the known row's limits then bound.
    limits = {**theirs, **ours} if same_host else {**ours, **theirs}
    return row.model_copy(
        update={
            **known,
            "capabilities": theirs_too | features,
            "limits": Limits(**limits),
            "price": base.price if same_host and row.price == Price() else row.price,
            "tags": row.tags | base.tags,
        }
    )


# ---- disk


def rows_from_folder(folder: Path, broken: Callable[[Path, str], None] = lambda *_: None) -> list[Model]:
    """Make a row for each GGUF file under ``folder``; links are followed, as in the Hugging Face cache.

    A split model is represented by its first part, and a projector belongs to the model beside it. Importance
    matrices and other files are skipped.
    ``broken`` is called with each file that cannot be loaded, and the reason.
    """
    rows: dict[str, Model] = {}
    if not folder.is_dir():
        return []
    found = sorted(folder.rglob("*.gguf"))
    beside: dict[Path, list[Path]] = {}
    for path in found:
        if "imatrix" not in path.name.lower() and path.is_file():
            beside.setdefault(path.parent, []).append(path)
    for path in found:
        part = _PART.search(path.name)
        if is_projector(path.name) or "imatrix" in path.name.lower() or not path.is_file():
            continue
        if part is not None and part[1] != "00001":
            continue
        try:
            reason = gguf_damage(path)
            row = _file_row(path, beside[path.parent]) if reason is None else None
        except ValidationError:
            row, reason = None, "its name cannot be a model's id"
        except (RoundhouseError, OSError) as error:
            row, reason = None, str(error)
        if row is not None:
            rows.setdefault(row.id, row)
        else:
            broken(path, reason or "it describes no model")
    return list(rows.values())


def row_at(path: Path) -> Model:
    """Make the row of the model at ``path``, a GGUF file or a folder, as its own files describe it.

    Raises PullError, ValidationError for a name that no row can have, and OSError.
    """
    if path.is_dir():
        return folder_row(path)
    reason = gguf_damage(path)
    if reason is not None:
        raise PullError(reason)
    return _file_row(path, [each for each in sorted(path.parent.glob("*.gguf")) if each.is_file()])


def hugging_face_cache() -> Path:
    """The folder where ``huggingface_hub`` keeps its snapshots."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _file_row(path: Path, beside: list[Path]) -> Model:
    facts = gguf_facts(path)
    if Capability.CHAT in facts["capabilities"] and any(is_projector(file.name) for file in beside):
        projector = projector_of(path, beside)
        if projector is not None and gguf_damage(projector) is None:
            facts["capabilities"] = facts["capabilities"] | senses(projector)
            facts["options"] = {**facts.get("options", {}), "mmproj": str(projector.absolute())}
    size = path.stat().st_size
    described: Size = facts.pop("size")
    return Model(
        id=default_id(path.name),
        engine="llamacpp",
        source=PathSource(path=str(path)),
        price=FREE,
        tags=frozenset({"discovered"}),
        origin="discovered",
        size=described.model_copy(update={"disk": size, "quantization": quantization_of(path.name)}),
        **facts,
    )


# ---- upgrades


def upgrades(
    installed: Iterable[Model], catalog: Iterable[Model], fits: Callable[[Model], bool]
) -> dict[str, Model]:
    """Map the id of each installed model that has an upgrade to the row of that upgrade.

    An upgrade is the last row in the chain of ``successor`` that fits; without a successor, the newest version of
    the same family with at least the same capabilities and at most twice the parameters. ``fits`` tells whether a
    model fits on this machine.
    """
    rows = {row.id: row for row in catalog}
    found: dict[str, Model] = {}
    for model in installed:
        better = _successor(model, rows, fits) or _newer(model, rows.values(), fits)
        if better is not None:
            found[model.id] = better
    return found


def _successor(model: Model, rows: dict[str, Model], fits: Callable[[Model], bool]) -> Model | None:
    best: Model | None = None
    seen = {model.id}
    current = model
    while current.successor and current.successor not in seen and current.successor in rows:
        current = rows[current.successor]
        seen.add(current.id)
        if fits(current):
            best = current
    return best


def _newer(model: Model, rows: Iterable[Model], fits: Callable[[Model], bool]) -> Model | None:
    if model.family is None or model.version is None or not model.local:
        return None
    weights = model.size.parameters

    def comparable(other: Model) -> bool:
        if weights is None or other.size.parameters is None:
            return False
        return other.size.parameters <= 2 * weights

    newer = [
        other
        for other in rows
        if other.local
        and other.family == model.family
        and other.version is not None
        and _numbers(other.version) > _numbers(model.version)
        and model.capabilities <= other.capabilities
        and comparable(other)
        and fits(other)
    ]
    return max(newer, key=lambda other: (_numbers(other.version or ""), other.size.parameters or 0), default=None)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))
