"""Makes the catalogue row of a model on disk from its own files: GGUF header or ``config.json``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from catalog.errors import PullError
from catalog.files.gguf import GgufHeader, read_header
from catalog.files.projectors import senses
from catalog.model import FREE, Capability, Geometry, HubSource, Limits, Model, PathSource, Size
from catalog.selection import Kind, RemoteFile, Selection, select

_POOLING = {0: "none", 1: "mean", 2: "cls", 3: "last", 4: "rank"}
"""``enum llama_pooling_type`` of llama.h."""

_VIDEO = ("Wan", "LTX", "Hunyuan", "CogVideoX", "Mochi")
"""Beginnings of the names of diffusers' pipelines that make videos."""

_ENCODERS = frozenset(
    {"bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert",
     "eurobert", "gemma-embedding", "t5encoder"}
)  # fmt: skip
"""GGUF architectures that are encoders: they embed and do not generate."""

_ENGINES = {
    Kind.GGUF: "llamacpp", Kind.ONNX: "onnx", Kind.WHISPER: "whisper", Kind.TRANSFORMERS: "vllm",
    Kind.DIFFUSERS: "diffusion",
}  # fmt: skip


def row_of(source: HubSource, selection: Selection, folder: Path, model_id: str | None = None) -> Model:
    """Make the row of ``selection``, whose files are in ``folder``.

    The default id is the GGUF file's name in lower case (``qwen3-0.6b-q4_k_m``), or the repository's for a folder.
    The repository's full name is an alias.
    """
    if selection.kind is Kind.GGUF:
        facts = gguf_facts(folder / selection.entry)
        default = default_id(selection.entry)
    else:
        facts = _folder_facts(selection.kind, folder)
        default = source.repository.split("/")[1].lower()
    options = dict(facts.pop("options", {}))
    if selection.projector is not None:
        projector = (folder / selection.projector).absolute()
        facts["capabilities"] = facts["capabilities"] | senses(projector)
        options["mmproj"] = str(projector)
    size = facts.pop("size", Size())
    return Model(
        id=model_id or default,
        aliases=(source.repository,) if (model_id or default) != source.repository else (),
        engine=facts.pop("engine", _ENGINES.get(selection.kind)),
        source=source,
        price=FREE,
        origin="pulled",
        options=options,
        size=size.model_copy(update={"disk": selection.size, "quantization": selection.quantization}),
        **facts,
    )


def default_id(file_name: str) -> str:
    """Make an id of a GGUF file's name: without folder, extension and part number."""
    stem = file_name.rsplit("/", 1)[-1].lower().removesuffix(".gguf")
    head, _, tail = stem.rpartition("-of-")
    if head and tail.isdigit():
        stem = head.rsplit("-", 1)[0]
    return "".join(c if c.isalnum() or c in "._@+-" else "-" for c in stem).lstrip("._@+-") or "model"


def gguf_facts(path: Path) -> dict[str, Any]:
    """Return the fields of a row that a GGUF header gives. Raises NotGguf."""
    header = read_header(path)
    capabilities, options = _abilities(header)
    languages = header.arrays.get("general.languages", ())
    limits = {
        "context_window": header.integer("context_length"),
        "dimensions": header.integer("embedding_length") if Capability.EMBED in capabilities else None,
        "max_input_tokens": header.integer("context_length") if Capability.EMBED in capabilities else None,
    }
    return {
        "name": header.text("general.name"),
        "family": header.architecture or None,
        "license": header.text("general.license"),
        "capabilities": frozenset(capabilities),
        "languages": tuple(str(language) for language in languages),
        "limits": Limits(**{key: value for key, value in limits.items() if value}),
        "size": Size(parameters=_parameters(header)),
        "geometry": geometry_of(header),
        "options": options,
    }


def geometry_of(header: GgufHeader) -> Geometry | None:
    """Layers, key-value heads and width of a head; ``None`` if the header lacks one of them."""
    heads = header.integer("attention.head_count")
    embedding = header.integer("embedding_length")
    layers = header.integer("block_count")
    kv_heads = header.integer("attention.head_count_kv") or heads
    width = header.integer("attention.key_length") or (embedding // heads if embedding and heads else None)
    if not layers or not kv_heads or not width:
        return None
    return Geometry(layers=layers, kv_heads=kv_heads, head_dim=width)


def _abilities(header: GgufHeader) -> tuple[set[Capability], dict[str, Any]]:
    pooling = header.integer("pooling_type")
    options: dict[str, Any] = {}
    if pooling == 4:
        return {Capability.RERANK}, {"pooling": "rank"}
    if pooling in (1, 2, 3) or header.architecture in _ENCODERS:
        options["pooling"] = _POOLING.get(pooling if pooling is not None else 1, "mean")
        return {Capability.EMBED}, options
    capabilities = {Capability.COMPLETION, Capability.JSON_SCHEMA}
    template = header.text("tokenizer.chat_template")
    if template:
        capabilities |= {Capability.CHAT, Capability.CLASSIFY, Capability.MODERATE}
        if "tools" in template:
            capabilities |= {Capability.TOOLS}
        if "<think>" in template or "enable_thinking" in template or "reasoning_content" in template:
            capabilities.add(Capability.REASONING)
    return capabilities, options


def _parameters(header: GgufHeader) -> int | None:
    count = header.values.get("general.parameter_count")
    if isinstance(count, int):
        return count
    label = header.text("general.size_label") or ""
    units = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
    try:
        return round(float(label[:-1]) * units[label[-1].upper()])
    except (IndexError, KeyError, ValueError):
        return None


def folder_row(folder: Path) -> Model:
    """Make the row of a local folder with a model that is no GGUF.

    Raises PullError if no engine can run what is in it, and ValidationError for a name that no row can have.
    """
    files = [RemoteFile(each.name, each.stat().st_size) for each in sorted(folder.iterdir()) if each.is_file()]
    selection = select(files)
    if selection.kind is Kind.GGUF:
        raise PullError(f"It is a folder with GGUF files: name one of them, such as {selection.entry}.")
    facts = _folder_facts(selection.kind, folder)
    size = Size(disk=selection.size)
    return Model(
        id=default_id(folder.name),
        engine=facts.pop("engine", _ENGINES[selection.kind]),
        source=PathSource(path=str(folder)),
        price=FREE,
        **{"size": size, **facts},
    )


def _folder_facts(kind: Kind, folder: Path) -> dict[str, Any]:
    if kind is Kind.FILES:
        return {"capabilities": frozenset()}
    if kind is Kind.DIFFUSERS:
        index = _json(folder / "model_index.json")
        pipeline = str(index.get("_class_name", ""))
        family = pipeline.removesuffix("Pipeline").lower() or None
        if "Video" in pipeline or pipeline.startswith(_VIDEO):
            return {"family": family, "engine": "diffusion-video", "capabilities": _of_videos(pipeline, index)}
        return {"family": family, "capabilities": frozenset({Capability.IMAGE})}
    config = _json(folder / "config.json")
    if kind is Kind.WHISPER:
        multilingual = len(config.get("lang_ids") or ()) > 1
        capabilities = {Capability.TRANSCRIBE} | ({Capability.TRANSLATE} if multilingual else set())
        return {
            "family": "whisper",
            "capabilities": frozenset(capabilities),
            "languages": () if multilingual else ("en",),
        }
    text = config.get("text_config")
    context = config.get("max_position_embeddings") or (text if isinstance(text, dict) else {}).get(
        "max_position_embeddings"
    )
    limits: dict[str, Any] = {"context_window": context} if isinstance(context, int) else {}
    family = config.get("model_type")
    architectures = " ".join(map(str, config.get("architectures") or ()))
    if "SequenceClassification" in architectures:
        named = config.get("id2label")
        names = list(named.values()) if isinstance(named, dict) else []
        if (
            kind is Kind.ONNX
            and len(names) > 1
            and not all(re.fullmatch(r"LABEL_\d+", str(name)) for name in names)
        ):
            return {
                "family": family,
                "capabilities": frozenset({Capability.CLASSIFY}),
                "limits": Limits(**limits),
                "options": {"kind": "classifier"},
            }
        return {"family": family, "capabilities": frozenset({Capability.RERANK}), "limits": Limits(**limits)}
    if kind is Kind.ONNX:
        hidden = config.get("hidden_size")
        if isinstance(hidden, int):
            limits["dimensions"] = hidden
        if isinstance(context, int):
            limits["max_input_tokens"] = context
        return {"family": family, "capabilities": frozenset({Capability.EMBED}), "limits": Limits(**limits)}
    chat = (
        _json(folder / "tokenizer_config.json").get("chat_template") or (folder / "chat_template.jinja").exists()
    )
    capabilities = {Capability.COMPLETION, Capability.JSON_SCHEMA} | ({Capability.CHAT} if chat else set())
    if chat:
        capabilities |= {sense for sense, keys in _SENSES.items() if not keys.isdisjoint(config)}
    return {"family": family, "capabilities": frozenset(capabilities), "limits": Limits(**limits)}


_SENSES = {
    Capability.VISION: frozenset({"vision_config", "vision_tower", "image_token_id", "image_token_index"}),
    Capability.VIDEO_INPUT: frozenset({"video_token_id", "video_token_index"}),
    Capability.AUDIO_INPUT: frozenset({"audio_config", "audio_token_id", "audio_token_index"}),
}
"""The inputs of a chat model beside text, by keys of ``config.json`` that transformers writes for such models."""


def _of_videos(pipeline: str, index: dict[str, Any]) -> frozenset[Capability]:
    """The inputs of a video pipeline's weights beside text: a first frame (vision), or another video.

    Wan's for text take a first frame only if they hold noise per frame. Source: diffusers' pages on each family.
    """
    found = {Capability.VIDEO}
    still = "ImageToVideo" in pipeline
    if (
        still
        or pipeline.startswith("LTX")
        or (pipeline.startswith("Wan") and index.get("expand_timesteps") is True)
    ):
        found.add(Capability.VISION)
    takes_videos = pipeline.startswith(("Wan", "LTX", "CogVideoX")) and not pipeline.startswith("LTX2")
    if takes_videos and not still and index.get("expand_timesteps") is not True:
        found.add(Capability.VIDEO_INPUT)
    return frozenset(found)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
