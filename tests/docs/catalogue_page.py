"""The reference of the models that are known by name, from the curated catalogue."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from catalog.curated.collection import curated
from catalog.curated.entries import ENGINES, Entry
from catalog.model import Capability
from tests.docs.markdown import table

HEAD = """# Models by name

`roundhouse pull NAME` takes each of these by its id, in the spellings that people use (`qwen3:8b`, `Qwen3-8B`),
and with a quantisation at its end (`qwen3-8b-q8_0`). `roundhouse show NAME` tells what is known of one, and
from where; `roundhouse recommend` tells what fits this machine. Sizes with ~ are computed from the count of
weights; where a model reads a part of its weights for a token, the second figure counts these. For a gated
model the hub wants a token whose owner accepted the licence.

Any other repository of the hub is pulled by its address: `roundhouse pull hf.co/OWNER/REPOSITORY:Q4_K_M`.

`make reference` writes this page from the catalogue.
"""
GROUPS: Sequence[tuple[str, Capability]] = (
    ("Text that is searched", Capability.EMBED),
    ("Order of search results", Capability.RERANK),
    ("Speech to text", Capability.TRANSCRIBE),
    ("Speakers of a recording", Capability.DIARIZE),
    ("Text to speech", Capability.SPEAK),
    ("Pictures", Capability.IMAGE),
    ("Video", Capability.VIDEO),
    ("Chat with pictures in the prompt", Capability.VISION),
    ("Code", Capability.CODE),
    ("Chat", Capability.CHAT),
)
"""Titles of the page, each with the capability of its models; a model is under the first that it has."""
_SHOWN_FIRST = ("Chat", "Chat with pictures in the prompt", "Code")
_FEATURES = {Capability.TOOLS: "tools", Capability.REASONING: "reasoning", Capability.AUDIO_INPUT: "hears"}


def page() -> str:
    """The page as Markdown."""
    groups: dict[str, list[Entry]] = {title: [] for title, _ in GROUPS}
    for entry in curated():
        groups[next(title for title, has in GROUPS if has in entry.capabilities)].append(entry)
    titles = [*_SHOWN_FIRST, *(title for title in groups if title not in _SHOWN_FIRST)]
    return "\n".join([HEAD, *(_group(title, groups[title]) for title in titles if groups[title])])


def _group(title: str, entries: list[Entry]) -> str:
    head = ("model", "weights", "to fetch", "context", "features", "engines", "licence", "successor")
    rows = (
        (
            f"`{entry.id}`{' (gated)' if entry.gated else ''}",
            _weights(entry.parameters) + (f", {_weights(entry.active)}" if entry.active else ""),
            _sizes(entry),
            f"{entry.limits.context_window:,}" if entry.limits.context_window else "",
            ", ".join(words for feature, words in _FEATURES.items() if feature in entry.capabilities),
            ", ".join(engine for form, engine in ENGINES.items() if getattr(entry, form) is not None)
            or "none yet",
            entry.license,
            f"`{entry.successor}`" if entry.successor else "",
        )
        for entry in sorted(entries, key=lambda entry: (entry.parameters, entry.id))
    )
    return f"## {title}\n\n{table(head, rows)}"


def _weights(billions: float) -> str:
    return f"{billions:g}B" if billions >= 1 else f"{billions * 1000:g}M"


def _sizes(entry: Entry) -> str:
    """The smallest and the largest form: GGUF where there is one, else the first of the others."""
    sizes = [(name, size, known) for name, size, known in entry.gguf_sizes()] or list(_whole(entry))
    ends = [sizes[0]] if len(sizes) == 1 else [min(sizes, key=_bytes), max(sizes, key=_bytes)]
    return " to ".join(
        f"{'' if known else '~'}{_gigabytes(size)}{f' ({name})' if name else ''}" for name, size, known in ends
    )


def _bytes(form: tuple[str, int, bool]) -> int:
    return form[1]


def _whole(entry: Entry) -> Iterator[tuple[str, int, bool]]:
    for form in (*ENGINES, "weights"):
        found = getattr(entry, form)
        if found is not None and form != "gguf":
            yield found.quantization or "", found.size or entry.estimated(found.bits), found.size is not None
            return


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
