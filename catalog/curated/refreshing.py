"""Checks the curated catalogue against the hub's API, and writes the sizes that it tells: ``make hub``.

Prints each repository, quantisation, licence, context window and shape that differs, and exits with 1 if any does.
With ``--write`` it puts the sizes of GGUF files and the day of the check into the files; the rest is for a person
to decide. It needs a network; a token (``HF_TOKEN``) opens gated repositories.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from catalog.curated.collection import read_entries
from catalog.curated.entries import ENGINES, Entry, Gguf, WeightFiles
from catalog.errors import PullError
from catalog.files.quantization import quantization_of
from catalog.selection import RemoteFile, select
from catalog.store.hub import Hub
from catalog.store.transfer import transport_errors

FOLDER = Path(__file__).parents[1] / "builtin" / "hub"
_NEAR = 0.15
"""Share by which an estimated size may differ from the hub's."""


@dataclass
class HubFinding:
    """The hub's facts of one entry: the sizes of its quantisations, and the differences from the file.

    ``resized`` are the sizes that differ, which can be written; ``differences`` is the rest, for a person.
    """

    sizes: dict[str, int] = field(default_factory=dict)
    resized: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)


def look_up(entry: Entry, hub: Hub, token: str | None = None) -> HubFinding:
    """Compare an entry with its repositories. A repository that is not there, or refuses, is a difference.

    Raises PullError if the hub cannot be reached.
    """
    finding = HubFinding()
    for form in (*ENGINES, "weights"):
        given: Gguf | WeightFiles | None = getattr(entry, form)
        if given is None:
            continue
        try:
            card = hub.describe(given.repository, token=token)
        except PullError as error:
            if isinstance(error.__cause__, transport_errors()):
                raise
            finding.differences.append(f"{form}: {error.message}")
            continue
        finding.differences += [f"{form}: {text}" for text in _of_card(entry, card.license, card.gated)]
        if isinstance(given, Gguf):
            finding.differences += _of_gguf(entry, given, card.files, finding)
        else:
            finding.differences += [f"{form}: {text}" for text in _of_weights(entry, given, card.files)]
        if form == "vllm" and any(file.name == "config.json" for file in card.files):
            config = hub.read(given.repository, card, "config.json", token=token)
            finding.differences += [f"config.json: {text}" for text in _of_config(entry, json.loads(config))]
    return finding


def _of_card(entry: Entry, terms: str | None, gated: bool) -> Iterator[str]:
    own = entry.license.casefold()
    if terms not in (None, "other") and own not in (terms or "") and (terms or "") not in own:
        yield f"the licence is {terms}, and here {entry.license}"
    if gated and not entry.gated:
        yield "it is gated, and here it is not"


def _of_gguf(entry: Entry, form: Gguf, files: Sequence[RemoteFile], finding: HubFinding) -> Iterator[str]:
    there: dict[str, int] = {}
    for file in files:
        name = quantization_of(file.name)
        if file.name.endswith(".gguf") and name is not None and "mmproj" not in file.name.lower():
            there[name] = there.get(name, 0) + file.size
    for name, size, exact in entry.gguf_sizes():
        if name not in there:
            yield f"gguf: there is no {name}; there are: {', '.join(sorted(there)) or 'none'}"
            continue
        finding.sizes[name] = there[name]
        if abs(there[name] - size) > (0 if exact else _NEAR * there[name]):
            told = f"gguf: {name} has {there[name]} bytes, and here {'' if exact else 'about '}{size}"
            finding.resized.append(told)
        if form.file is not None:
            wanted = form.file.replace("{}", name)
            if not any(file.name == wanted for file in files):
                yield f"gguf: there is no file {wanted}"
    seeing = any("mmproj" in file.name.lower() for file in files)
    if seeing != bool(form.projector):
        yield f"gguf: it has {'a' if seeing else 'no'} projector"


def _of_weights(entry: Entry, form: WeightFiles, files: Sequence[RemoteFile]) -> Iterator[str]:
    try:
        size = select(files, only=form.files).size
    except PullError as error:
        yield error.message
        return
    told = form.size or entry.estimated(form.bits)
    if abs(told - size) > (0 if form.size else _NEAR * size):
        yield f"it has {size} bytes, and here {'' if form.size else 'about '}{told}"


def _of_config(entry: Entry, config: dict[str, Any]) -> Iterator[str]:
    text = {**config, **config.get("text_config", {})}
    window = text.get("max_position_embeddings")
    if isinstance(window, int) and entry.limits.context_window not in (None, window):
        yield f"the context window is {window}, and here {entry.limits.context_window}"
    layers, heads = text.get("num_hidden_layers"), text.get("num_key_value_heads")
    if entry.cache and isinstance(layers, int) and sum(group[0] for group in entry.cache) > layers:
        yield f"it has {layers} layers, and here more keep a cache"
    if entry.cache and isinstance(heads, int) and len(entry.cache) == 1 and entry.cache[0][1] not in (1, heads):
        yield f"it has {heads} KV heads, and here {entry.cache[0][1]}"


def written(text: str, findings: dict[str, HubFinding], today: date) -> str:
    """The text of a file with the sizes that were found, and the day, in the entries' own lines."""
    blocks = re.split(r"(?m)^(?=\[\[model\]\]$)", text)
    return "".join(_block(block, findings, today) for block in blocks)


def _block(block: str, findings: dict[str, HubFinding], today: date) -> str:
    found = re.search(r'(?m)^id = "([^"]+)"$', block)
    finding = findings.get(found[1]) if found else None
    if found is None or finding is None:
        return block
    block = re.sub(r"(?m)^checked = .*\n", "", block)
    if not finding.differences:
        block = block.replace(found[0], f"{found[0]}\nchecked = {today.isoformat()}", 1)
    if finding.sizes:
        sizes = ", ".join(f"{_key(name)} = {size}" for name, size in sorted(finding.sizes.items()))
        line = re.search(r"(?m)^gguf = \{.*\}$", block)
        if line is not None:
            bare = re.sub(r", sizes = \{[^}]*\}", "", line[0])
            bare = re.sub(r"(quantizations = \[[^\]]*\])", rf"\1, sizes = {{ {sizes} }}", bare)
            block = block.replace(line[0], bare, 1)
    return block


def _key(name: str) -> str:
    return name if re.fullmatch(r"[\w-]+", name) else json.dumps(name)


def refresh(
    folder: Path, hub: Hub, *, write: bool = False, token: str | None = None, only: Sequence[str] = ()
) -> int:
    """Check every entry of the files in ``folder``, or those named; returns the number of differences."""
    count = 0
    for file in sorted(folder.glob("*.toml")):
        text = file.read_text("utf-8")
        findings: dict[str, HubFinding] = {}
        for entry in read_entries(tomllib.loads(text), file.name):
            if only and entry.id not in only:
                continue
            findings[entry.id] = look_up(entry, hub, token)
            finding = findings[entry.id]
            for difference in (*finding.resized, *finding.differences):
                print(f"{file.name}: {entry.id}: {difference}")  # noqa: T201 - a report
            count += len(finding.differences) + (0 if write else len(finding.resized))
        if write:
            file.write_text(written(text, findings, datetime.now(UTC).date()), "utf-8")
    return count


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check; exits with 1 if anything differs."""
    from huggingface_hub import get_token

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write sizes and the day into the files")
    parser.add_argument("--endpoint", help="address of a mirror of the hub")
    parser.add_argument("entries", nargs="*", help="ids of entries; all, if none is given")
    given = parser.parse_args(arguments)
    hub = Hub(given.endpoint)
    try:
        return min(1, refresh(FOLDER, hub, write=given.write, token=get_token(), only=given.entries))
    except PullError as error:
        print(error.message)  # noqa: T201 - a report
        return 1


if __name__ == "__main__":
    sys.exit(main())
