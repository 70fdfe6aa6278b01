"""Recommended models, one per capability, and better ones than those that are here."""

from __future__ import annotations

from catalog.curated.advice import CAPABILITIES, advise, better, entry_of, licensed, score, with_memory
from catalog.curated.choosing import EVERY_ENGINE, Wanted
from catalog.curated.collection import Curated, curated
from catalog.hardware import Device
from catalog.model import Capability, HubSource, Model, PathSource
from tests.catalog.curated.test_choosing import GB, machine
from tests.catalog.curated.test_collection import entry

CPU_ENGINES = frozenset({"llamacpp", "onnx", "whisper", "speech"})


def chosen(memory: float, kind: str = "cpu", bandwidth: float = 0, **wanted: object) -> dict[str, str | None]:
    """The ids of the recommended models of the real catalogue, by capability."""
    keeps = Wanted(engines=CPU_ENGINES if kind == "cpu" else EVERY_ENGINE, **wanted)  # type: ignore[arg-type]
    found = advise(curated(), machine(memory, kind, bandwidth), keeps)
    return {str(advice.capability): advice.choice.entry.id if advice.choice else None for advice in found}


def test_a_laptop_gets_a_model_for_every_capability_that_has_an_engine() -> None:
    found = chosen(16, bandwidth=60)
    assert set(found) == {str(name) for name in CAPABILITIES}
    assert {name for name, model in found.items() if model is None} == {"image"}, "diffusion is not installed"


def test_more_memory_and_bandwidth_give_better_models() -> None:
    sizes = []
    for memory, bandwidth in ((4, 30), (8, 60), (16, 60), (64, 400), (192, 800)):
        advice = advise(curated(), machine(memory, "mps", bandwidth), capabilities=[Capability.CHAT])
        assert advice[0].choice is not None, memory
        sizes.append(score(advice[0].choice.entry))
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_the_fastest_enough_wins_over_a_better_one_that_is_slower_than_reading() -> None:
    collection = Curated(
        [entry(id="large", parameters=30.0, score=50.0), entry(id="small", parameters=3.0, score=20.0)]
    )
    slow, fast = machine(64, bandwidth=40), machine(64, bandwidth=800)
    wanted = Wanted(8192, 1)
    at_forty = advise(collection, slow, wanted, capabilities=[Capability.CHAT])[0].choice
    at_eight_hundred = advise(collection, fast, wanted, capabilities=[Capability.CHAT])[0].choice
    assert at_forty is not None
    assert at_eight_hundred is not None
    assert (at_forty.entry.id, at_eight_hundred.entry.id) == ("small", "large")


def test_a_processor_gets_embeddings_and_speech_that_it_runs_in_time() -> None:
    on_a_processor, on_a_card = chosen(64, bandwidth=60), chosen(64, "cuda", 1000)
    for capability, limit in ((Capability.EMBED, 1.0), (Capability.RERANK, 1.0), (Capability.TRANSCRIBE, 0.5)):
        small, large = (curated().get(found[capability] or "") for found in (on_a_processor, on_a_card))
        assert small is not None
        assert large is not None
        assert small.parameters <= limit, capability
        assert large.parameters > small.parameters, capability


def test_a_licence_is_a_condition() -> None:
    free = advise(curated(), machine(64), capabilities=[Capability.CHAT], licenses=["MIT"])[0].choice
    assert free is not None
    assert free.entry.license == "MIT"
    permissive = advise(curated(), machine(64), licenses=["permissive"])
    assert {advice.choice.entry.license for advice in permissive if advice.choice} <= {"Apache-2.0", "MIT"}
    assert advise(curated(), machine(64), capabilities=[Capability.CHAT], licenses=["none-such"])[0].choice is None
    assert licensed(entry(license="Apache-2.0"), ["apache-2.0"])
    assert not licensed(entry(license="Gemma"), ["permissive"])


def test_models_of_mlx_are_recommended_to_see() -> None:
    seeing = entry(mlx={"repository": "a/b", "bits": 4.5}, gguf=None, capabilities=["chat", "vision"])
    found = advise(Curated([seeing]), machine(64, "mps"), capabilities=[Capability.CHAT, Capability.VISION])
    assert [advice.choice is None for advice in found] == [False, False]


def test_newer_and_larger_models_are_believed_better_where_no_figure_is_known() -> None:
    assert score(entry(released="2026-01")) > score(entry(released="2024-01"))
    assert score(entry(parameters=30.0)) > score(entry(parameters=8.0))
    assert score(entry(parameters=30.0, active=3.0)) < score(entry(parameters=30.0))


def test_the_estimate_is_near_the_published_index() -> None:
    # Qwen3.6 27B, Gemma 4 26B A4B and Llama 3.3 70B have 38, 26 and 9.
    for name in ("qwen3.6-27b", "gemma-4-26b-a4b", "llama-3.3-70b", "gpt-oss-120b", "qwen3.5-122b-a10b"):
        known = curated().get(name)
        assert known is not None
        assert known.score is not None
        assert abs(score(known.model_copy(update={"score": None})) - known.score) < 12, name


def installed(name: str, **fields: object) -> Model:
    return Model.model_validate(
        {"id": name, "capabilities": ["chat"], "source": PathSource(path="/x"), "engine": "llamacpp", **fields}
    )


def test_an_installed_model_has_the_last_successor_that_fits() -> None:
    collection = Curated(
        [
            entry(id="toy-1", successor="toy-2"),
            entry(id="toy-2", successor="toy-3"),
            entry(id="toy-3", parameters=400.0),
        ]
    )
    found = better([installed("toy-1")], collection, machine(32))
    assert {name: choice.entry.id for name, choice in found.items()} == {"toy-1": "toy-2"}
    assert better([installed("toy-1"), installed("toy-2")], collection, machine(32)) == {}
    assert better([installed("toy-1")], collection, machine(2)) == {}
    assert better([installed("toy-3"), installed("other")], collection, machine(900)) == {}


def test_a_model_that_was_pulled_by_its_address_has_one_too() -> None:
    collection = Curated(
        [
            entry(id="toy-1", successor="toy-2"),
            entry(id="toy-2", gguf={"repository": "a/c", "quantizations": ["Q4_K_M"]}),
        ]
    )
    row = installed("mine", source=HubSource(repository="acme/Toy-8B-GGUF"))
    found = better([row], collection, machine(32))
    assert {name: choice.entry.id for name, choice in found.items()} == {"mine": "toy-2"}
    assert entry_of(row, collection) == collection.get("toy-1")


def test_another_memory_stands_for_the_fastest_device() -> None:
    other = with_memory(machine(80, "cuda"), 24 * GB)
    assert other.devices == (Device("cuda:0", "cuda", "", 24 * GB),)
