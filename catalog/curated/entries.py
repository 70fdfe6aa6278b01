"""Types of the curated catalogue: a model in all the forms in which the hub has it.

A row of the catalogue (:class:`catalog.model.Model`) is made of the form that is pulled. Until then an entry costs
a server nothing: the files in ``catalog/builtin/hub`` are read when an entry is first asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import date
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from catalog.benchmarks import check_published
from catalog.model import Capability, Limits
from catalog.validation.section import Section

BITS: Mapping[str, float] = MappingProxyType(
    {
        "IQ2_M": 2.93, "IQ3_XXS": 3.25, "IQ4_XS": 4.46, "IQ4_NL": 4.68, "Q2_K": 3.16, "Q3_K_S": 3.64,
        "Q3_K_M": 4.0, "Q3_K_L": 4.3, "Q4_0": 4.6, "Q4_1": 5.0, "Q4_K_S": 4.67, "Q4_K_M": 4.89, "Q5_K_S": 5.57,
        "Q5_K_M": 5.7, "Q6_K": 6.56, "Q8_0": 8.5, "MXFP4": 4.25, "MXFP4_MOE": 4.4, "Q2_K_XL": 3.3, "Q3_K_XL": 4.1,
        "Q4_K_XL": 4.95, "Q5_K_XL": 5.75, "Q6_K_XL": 6.9, "BF16": 16.0, "F16": 16.0, "F32": 32.0,
    }
)  # fmt: skip
"""Bits per weight of a whole file, by quantisation. Source: llama.cpp, tools/quantize/README.md (Llama 3.1 8B)."""

_REPOSITORY = r"^\w[\w.-]*/\w[\w.-]*$"
Layers = tuple[int, int, int] | tuple[int, int, int, int]


class Gguf(Section):
    """The GGUF form, for llama.cpp: one repository with several quantisations.

    ``file`` is the name of a quantisation's file, in which ``{}`` stands for the quantisation; without it the
    files are parts in folders. ``sizes`` are bytes as the hub gives them; a quantisation without one is
    estimated from the parameters. ``projector`` counts the bytes of the second file of a model that sees.
    """

    repository: str = Field(pattern=_REPOSITORY)
    file: str | None = None
    quantizations: tuple[str, ...] = Field(min_length=1)
    sizes: dict[str, int] = Field(default={})
    projector: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _known(self) -> Gguf:
        for name in self.quantizations:
            if name not in self.sizes and name.removeprefix("UD-") not in BITS:
                raise ValueError(f"quantizations: the bits of '{name}' are unknown; give its size")
        return self


class WeightFiles(Section):
    """A form that is one repository: MLX, safetensors, ONNX, CTranslate2, diffusers.

    ``size`` in bytes as the hub gives it; else estimated from ``bits`` per weight. ``files`` are globs of the
    files to take, where a repository holds more than the model.
    """

    repository: str = Field(pattern=_REPOSITORY)
    size: int | None = Field(default=None, gt=0)
    bits: float = Field(default=16, gt=0)
    files: tuple[str, ...] = ()
    quantization: str | None = None


ENGINES: Mapping[str, str] = MappingProxyType(
    {
        "gguf": "llamacpp", "mlx": "mlx", "vllm": "vllm", "onnx": "onnx", "whisper": "whisper",
        "asr": "onnx-asr", "speakers": "speakers", "speech": "speech",
        "diffusion": "diffusion", "cpp": "stable-diffusion-cpp", "video": "diffusion-video",
    }
)  # fmt: skip
"""Engines, by the field of an entry that has its form."""


class Entry(Section):
    """A model of the curated catalogue.

    ``parameters`` and ``active`` (per token, of a mixture of experts) are billions of weights. ``cache`` describes
    the KV cache: ``[layers, KV heads, width of a head]`` for layers that keep every token, with a fourth figure
    for those that keep a window of so many; layers without a cache are left out. A chat model has ``tools`` among
    its capabilities if its chat template takes tools, and ``tool_parser`` and ``reasoning_parser`` are vLLM's.

    ``score`` compares models of one capability: for chat the Artificial Analysis Intelligence Index (August 2026),
    for embeddings MTEB (multilingual), for transcription 100 less the word error rate; it orders the rest.
    ``verified`` maps a fact to the source in which it was looked up; a fact that is not there is from memory.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    name: str
    names: tuple[str, ...] = ()
    family: str
    version: str | None = None
    released: str = Field(pattern=r"^20\d\d-(0[1-9]|1[0-2])$")
    license: str
    gated: bool = Field(default=False, description="the hub asks for a token whose owner accepted the licence")
    capabilities: frozenset[Capability]
    languages: tuple[str, ...] = ()
    voices: tuple[str, ...] = ()
    parameters: float = Field(gt=0)
    active: float | None = Field(default=None, gt=0)
    limits: Limits = Limits()
    cache: tuple[Layers, ...] = ()
    gguf: Gguf | None = None
    mlx: WeightFiles | None = None
    vllm: WeightFiles | None = None
    onnx: WeightFiles | None = None
    whisper: WeightFiles | None = None
    asr: WeightFiles | None = None
    speakers: WeightFiles | None = None
    speech: WeightFiles | None = None
    diffusion: WeightFiles | None = None
    cpp: WeightFiles | None = Field(default=None, description="one file, for stable-diffusion.cpp")
    video: WeightFiles | None = None
    weights: WeightFiles | None = Field(default=None, description="a form that no engine here runs")
    tool_parser: str | None = None
    reasoning_parser: str | None = None
    options: dict[str, dict[str, Any]] = Field(default={}, description="options of a row, by engine")
    successor: str | None = None
    score: float | None = None
    published: Annotated[dict[str, float], AfterValidator(check_published)] = Field(default={})
    verified: dict[str, str] = Field(default={})
    checked: date | None = Field(default=None, description="the day when all of it agreed with the hub's own API")
    note: str | None = None

    @model_validator(mode="after")
    def _somewhere(self) -> Entry:
        if not any(True for _ in self.repositories()):
            raise ValueError(f"it has no form: give {', '.join(ENGINES)} or weights")
        return self

    @property
    def working(self) -> float:
        """Billions of weights that are read for a token."""
        return self.active or self.parameters

    def repositories(self) -> Iterator[str]:
        """The repositories of all forms."""
        for form in (*ENGINES, "weights"):
            found: Gguf | WeightFiles | None = getattr(self, form)
            if found is not None:
                yield found.repository

    def called(self) -> Iterator[str]:
        """The names of the model: its id, further names, and its repositories, with and without their owner."""
        yield self.id
        yield self.name
        yield from self.names
        for repository in self.repositories():
            yield repository
            yield repository.partition("/")[2]

    def cache_bytes(self, context: int, *, element: float = 2.0) -> int:
        """Bytes of the KV cache for ``context`` tokens of one request; ``element`` is the bytes of a number.

        Without ``cache`` it is a tenth of the 4-bit weights per 8192 tokens, as for a model of unknown shape.
        """
        if not self.cache:
            return (
                int(self.parameters * 0.5e9 * 0.1 * context / 8192) if Capability.CHAT in self.capabilities else 0
            )
        total = 0
        for layers, heads, width, *window in self.cache:
            total += layers * heads * width * min(context, *window, context)
        return int(2 * total * element)

    def gguf_sizes(self) -> Iterator[tuple[str, int, bool]]:
        """The quantisations with their bytes, without the projector, and whether the hub gave them."""
        form = self.gguf
        for name in () if form is None else form.quantizations:
            assert form is not None
            size = form.sizes.get(name)
            yield name, size or self.estimated(BITS[name.removeprefix("UD-")]), size is not None

    def estimated(self, bits: float) -> int:
        """Bytes of all weights at so many bits each."""
        return round(self.parameters * 1e9 * bits / 8)


_NOISE = frozenset({"gguf", "instruct", "it", "chat", "hf", "latest"})


def canonical(name: str) -> str:
    """One spelling for the many of a name: ``qwen3:8b``, ``Qwen3-8B``, ``qwen_3_8b`` and ``Qwen3-8B-GGUF``."""
    words = re.split(r"[\s:_-]+", name.strip().casefold()[:200])
    return "".join(word for word in words if word and word not in _NOISE)
