"""Models pulled by name from a fake hub: which files come, and what their rows know."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from catalog.catalog import Catalog
from catalog.curated.choosing import EVERY_ENGINE, Wanted
from catalog.curated.collection import Curated, Named, curated
from catalog.curated.pulling import pull_named, source_of, why_not
from catalog.errors import ModelNotFound, PullError
from catalog.model import Capability
from catalog.store.hub import Hub
from catalog.store.store import Store
from server.library import pull_into
from tests.catalog.curated.test_choosing import machine
from tests.catalog.curated.test_collection import entry
from tests.fakes.gguf import chat_model, gguf_bytes
from tests.fakes.hub import FakeHub, Repository, serve

TEMPLATE = "{% if tools %}{{ tools }}{% endif %}<think>{{ messages }}"
QWEN = "unsloth/Qwen3-8B-GGUF"
HERE = machine(16)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    tiny = chat_model(name="Qwen3 8B", template=TEMPLATE)
    files = {f"Qwen3-8B-{name}.gguf": tiny for name in ("Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "BF16")}
    with serve(FakeHub({QWEN: Repository(files)})) as running:
        yield running


@pytest.fixture
def store(tmp_path: Path, hub: FakeHub) -> Store:
    return Store(tmp_path / "models", hub=Hub(endpoint=hub.address))


def named(name: str) -> Named:
    found = curated().find(name)
    assert found is not None
    return found


def test_a_short_name_pulls_the_form_for_this_machine(store: Store, hub: FakeHub) -> None:
    row = pull_named(store, named("qwen3:8b"), HERE, wanted=Wanted(8192, 1))
    assert (row.id, row.engine, row.size.quantization) == ("qwen3-8b", "llamacpp", "Q8_0")
    assert row.capabilities >= {Capability.CHAT, Capability.TOOLS, Capability.REASONING}
    assert (row.license, row.successor, row.family) == ("Apache-2.0", "qwen3.5-9b", "qwen3")
    assert [path for method, path, _ in hub.requests if method == "GET" and "/resolve/" in path] == [
        f"/{QWEN}/resolve/{hub.repositories[QWEN].commit}/Qwen3-8B-Q8_0.gguf"
    ]
    catalog = Catalog.load(pulled=Store(store.root).rows())
    for name in ("qwen3:8b", "qwen3-8b", "Qwen3-8B", "qwen3", QWEN, f"hf.co/{QWEN}:Q8_0"):
        assert catalog.resolve(name).id == "qwen3-8b", name
    assert store.path(catalog.resolve("qwen3:8b")).name == "Qwen3-8B-Q8_0.gguf"


def test_a_quantisation_in_the_name_is_another_model_beside_it(store: Store) -> None:
    pull_named(store, named("qwen3:8b"), HERE, wanted=Wanted(8192, 1))
    row = pull_named(store, named("qwen3:8b-q4_K_M"), HERE)
    assert (row.id, row.size.quantization) == ("qwen3-8b-q4_k_m", "Q4_K_M")
    catalog = Catalog.load(pulled=store.rows())
    assert catalog.resolve("qwen3:8b-q4_K_M").id == "qwen3-8b-q4_k_m"
    assert [row.id for row in catalog.replicas("qwen3:8b")] == ["qwen3-8b"]


def test_a_model_that_does_not_fit_is_refused_with_its_need(store: Store, hub: FakeHub) -> None:
    with pytest.raises(
        PullError, match=r"needs about \d+\.\d GB of memory .* has 12\.0 GB .*roundhouse recommend"
    ):
        pull_named(store, named("qwen3.5:397b"), HERE)
    assert not hub.requests, "the hub is not asked"


def test_a_missing_engine_is_named_with_its_installation() -> None:
    with pytest.raises(PullError, match=r"needs the engine 'diffusion'\. Install it: .*\[images\]"):
        source_of(named("sd-turbo"), HERE, Wanted(engines=frozenset({"llamacpp"})))


def test_what_no_engine_runs_says_so() -> None:
    odd = entry(gguf=None, weights={"repository": "acme/Toy"}, note="it speaks a wire of its own")
    assert "it speaks a wire of its own. Its weights are acme/Toy" in why_not(odd, HERE)


def test_a_quantisation_that_the_repository_lacks_is_told_with_those_that_it_has(store: Store) -> None:
    with pytest.raises(PullError, match=r"matches 'IQ4_XS'.*Q4_K_M"):
        pull_named(store, named("qwen3:8b-iq4_xs"), HERE)


def test_a_pasted_address_is_the_repository_that_it_says(store: Store) -> None:
    catalog = Catalog.load(builtin=False)
    address = f"https://huggingface.co/{QWEN}/blob/main/Qwen3-8B-Q5_K_M.gguf"
    assert pull_into(store, catalog, address, lambda _: None) == ("qwen3-8b-q5_k_m",)
    row = store.rows()[0]
    assert row.license == "Apache-2.0", "the catalogue completes it"
    assert QWEN in row.aliases or row.aliases == ("qwen3:8b-q5_k_m",)


def test_the_maker_s_repository_gives_the_form_that_runs_here(store: Store) -> None:
    catalog = Catalog.load(builtin=False)
    assert pull_into(store, catalog, "Qwen/Qwen3-8B", lambda _: None, wanted=lambda: Wanted(512, 1)) == (
        "qwen3-8b",
    )


def test_an_unknown_name_is_told_the_nearest_of_all_catalogues(store: Store) -> None:
    with pytest.raises(ModelNotFound) as caught:
        pull_into(store, Catalog.builtin(), "qwn3:8b", lambda _: None)
    assert "qwen3-8b" in caught.value.nearest


def test_embeddings_know_their_prompts_and_files_are_taken_as_named(tmp_path: Path) -> None:
    bert = gguf_bytes({"general.architecture": "qwen3", "qwen3.pooling_type": 3, "qwen3.context_length": 32768})
    voice = {"kokoro-v1.0.onnx": b"onnx", "voices-v1.0.bin": b"styles", "README.md": b"#"}
    repositories = {
        "Qwen/Qwen3-Embedding-0.6B-GGUF": Repository({"Qwen3-Embedding-0.6B-Q8_0.gguf": bert}),
        "fastrtc/kokoro-onnx": Repository(voice),
    }
    with serve(FakeHub(repositories)) as running:
        store = Store(tmp_path, hub=Hub(endpoint=running.address))
        row = pull_named(store, named("qwen3-embedding:0.6b"), HERE)
        assert row.capabilities == {Capability.EMBED}
        assert row.options["prompts"]["query"] == "Instruct: {instruction}\nQuery:"
        assert row.limits.dimensions == 1024
        spoken = pull_named(store, named("kokoro-82m"), HERE)
        assert (spoken.engine, spoken.options["styles"]) == ("speech", "voices-v1.0.bin")
        assert sorted(path.name for path in store.path(spoken).iterdir()) == [
            "kokoro-v1.0.onnx",
            "voices-v1.0.bin",
        ]


def test_pictures_and_speech_come_in_the_folders_that_their_engines_open(tmp_path: Path) -> None:
    pipeline = {
        "model_index.json": b'{"_class_name": "StableDiffusionPipeline"}',
        "unet/config.json": b"{}",
        "unet/diffusion_pytorch_model.safetensors": b"x" * 10,
        "unet/diffusion_pytorch_model.fp16.safetensors": b"x" * 5,
        "sd_turbo.safetensors": b"x" * 20,
    }
    whisper = {"model.bin": b"x" * 10, "config.json": b"{}", "vocabulary.txt": b"a", "tokenizer.json": b"{}"}
    repositories = {
        "stabilityai/sd-turbo": Repository(pipeline),
        "Systran/faster-whisper-small": Repository(whisper),
    }
    with serve(FakeHub(repositories)) as running:
        store = Store(tmp_path, hub=Hub(endpoint=running.address))
        without_torch = Wanted(engines=EVERY_ENGINE - {"diffusion"})
        single = pull_named(store, named("sd-turbo"), HERE, wanted=without_torch, model_id="single")
        assert [path.name for path in store.path(single).iterdir()] == ["sd_turbo.safetensors"]
        drawing = pull_named(store, named("sd-turbo"), HERE)
        hearing = pull_named(store, named("whisper-small"), HERE)
    assert (drawing.engine, drawing.capabilities) == ("diffusion", frozenset({Capability.IMAGE}))
    assert drawing.options["steps"] == 2
    assert (single.engine, single.options["guidance_scale"]) == ("stable-diffusion-cpp", 1.0)
    folder = store.path(drawing)
    assert (folder / "model_index.json").is_file()
    assert [path.name for path in (folder / "unet").glob("*.safetensors")] == [
        "diffusion_pytorch_model.safetensors"
    ]
    assert (hearing.engine, hearing.capabilities) == (
        "whisper",
        frozenset({Capability.TRANSCRIBE, Capability.TRANSLATE}),
    )
    assert Store(store.root).ready(hearing)


@pytest.mark.parametrize(
    ("name", "repository", "index", "takes"),
    [
        ("wan2.1", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", {"_class_name": "WanPipeline"}, {Capability.VIDEO_INPUT}),
        (
            "wan2.2",
            "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
            {"_class_name": "WanPipeline", "expand_timesteps": True},
            {Capability.VISION},
        ),
        (
            "ltx-video",
            "Lightricks/LTX-Video",
            {"_class_name": "LTXPipeline"},
            {Capability.VISION, Capability.VIDEO_INPUT},
        ),
    ],
)
def test_a_pipeline_of_videos_is_pulled_for_its_engine_with_what_it_makes_them_from(
    tmp_path: Path, name: str, repository: str, index: dict[str, Any], takes: set[Capability]
) -> None:
    files = {
        "model_index.json": json.dumps(index).encode(),
        "transformer/config.json": b"{}",
        "transformer/diffusion_pytorch_model.safetensors": b"x" * 10,
        "ltxv-2b-in-one-file.safetensors": b"x" * 50,
    }
    with serve(FakeHub({repository: Repository(files)})) as running:
        store = Store(tmp_path, hub=Hub(endpoint=running.address))
        row = pull_named(store, named(name), machine(80, "cuda"))
    assert (row.engine, row.capabilities) == ("diffusion-video", frozenset({Capability.VIDEO, *takes}))
    assert row.options["steps"] >= 40
    folder = store.path(row)
    assert [path.name for path in folder.rglob("*.safetensors")] == ["diffusion_pytorch_model.safetensors"]


def test_a_form_for_vllm_has_its_parsers(tmp_path: Path) -> None:
    files = {"model.safetensors": b"x" * 10, "config.json": b'{"model_type": "qwen3"}', "tokenizer.json": b"{}"}
    with serve(FakeHub({"acme/Toy-8B": Repository(files)})) as running:
        store = Store(tmp_path, hub=Hub(endpoint=running.address))
        toy = entry(vllm={"repository": "acme/Toy-8B"}, tool_parser="hermes", reasoning_parser="qwen3")
        row = pull_named(store, Named(toy), machine(80, "cuda"))
    assert row.engine == "vllm"
    assert row.options == {"tool_call_parser": "hermes", "reasoning_parser": "qwen3"}
    assert row.capabilities == toy.capabilities


def test_every_entry_finds_its_form_on_a_large_machine_or_says_why() -> None:
    collection: Curated = curated()
    for each in collection:
        if each.weights is None:
            assert source_of(Named(each), machine(2000, "cuda" if each.gguf is None else "cpu"))[0].repository
