"""The form of a model for a machine: memory with the KV cache, device, engine, speed."""

from __future__ import annotations

import pytest

from catalog.curated.choosing import ENOUGH, Wanted, best, smallest
from catalog.hardware import Device, Machine
from tests.catalog.curated.test_collection import entry

GB = 10**9


def machine(memory: float, kind: str = "cpu", bandwidth: float = 0) -> Machine:
    name = "cpu" if kind == "cpu" else "mps" if kind == "mps" else f"{kind}:0"
    main = Device("cpu", "cpu", "", int(4 * GB))
    device = Device(name, kind, "", int(memory * GB), int(bandwidth * GB))
    return Machine("Linux", "x86_64", 8, int(memory * GB), (device,) if kind == "cpu" else (main, device))


MLX = {"repository": "acme/Toy-8B-4bit", "bits": 4.5}
VLLM = {"repository": "acme/Toy-8B"}


def test_the_largest_quantisation_that_fits_with_the_cache_of_all_requests_is_taken() -> None:
    # Weights of 4.9, 6.6 and 8.5 GB; the cache takes 1.07 GB for 8192 tokens. Models get 3/4 of main memory.
    model = entry()
    taken = {size: best(model, machine(size), Wanted(8192, 1)) for size in (7, 9, 12, 16)}
    assert taken[7] is None
    assert [choice and choice.quantization for choice in taken.values()] == [None, "Q4_K_M", "Q6_K", "Q8_0"]
    four = best(model, machine(16), Wanted(8192, 4))
    assert four is not None
    assert four.quantization == "Q6_K"
    assert four.memory == pytest.approx(6.56 * GB + 4 * 1.0737 * GB, rel=0.03)


def test_more_context_needs_a_smaller_quantisation() -> None:
    wide = best(entry(), machine(16), Wanted(32768, 1))
    assert wide is not None
    assert (wide.quantization, wide.context) == ("Q6_K", 32768)
    assert best(entry(), machine(16), Wanted(1_000_000, 1)) == wide, (
        "more than the model's window is never asked for"
    )


def test_a_quantisation_slower_than_reading_is_taken_only_if_none_is_faster() -> None:
    model = entry(cache=[[1, 1, 64]])
    quick = best(model, machine(64, bandwidth=60), Wanted(8192, 1))
    assert quick is not None
    assert quick.quantization == "Q4_K_M"
    assert quick.tokens_per_second == pytest.approx(60 * 0.6 / 4.89, rel=0.02)
    slow = best(model, machine(64, bandwidth=10), Wanted(8192, 1))
    assert slow is not None
    assert (slow.quantization, slow.enough) == ("Q4_K_M", False)
    assert slow.tokens_per_second is not None
    assert slow.tokens_per_second < ENOUGH


def test_a_mixture_of_experts_reads_its_active_weights_only() -> None:
    dense = best(entry(), machine(64, bandwidth=60), Wanted(8192, 1))
    sparse = best(entry(active=1.0), machine(64, bandwidth=60), Wanted(8192, 1))
    assert dense is not None
    assert sparse is not None
    assert sparse.quantization == "Q8_0"
    assert (sparse.tokens_per_second or 0) > 3 * (dense.tokens_per_second or 0)


def test_an_accelerator_comes_before_the_processor_and_its_own_engine_first() -> None:
    model = entry(mlx=MLX, vllm=VLLM)
    metal = best(model, machine(32, "mps"))
    assert metal is not None
    assert (metal.device, metal.engine, metal.source.repository) == ("mps", "mlx", "acme/Toy-8B-4bit")
    cuda = best(model, machine(80, "cuda"))
    assert cuda is not None
    assert (cuda.device, cuda.engine, cuda.source.pattern) == ("cuda:0", "vllm", None)
    small = best(model, machine(16, "cuda"))
    assert small is not None
    assert (small.device, small.engine) == ("cuda:0", "llamacpp"), "16-bit weights do not fit, quantised ones do"


def test_only_engines_that_are_here_are_chosen() -> None:
    model = entry(mlx=MLX, vllm=VLLM)
    metal = best(model, machine(32, "mps"), Wanted(engines=frozenset({"llamacpp"})))
    assert metal is not None
    assert metal.engine == "llamacpp"
    assert best(model, machine(32, "mps"), Wanted(engines=frozenset({"onnx"}))) is None


def test_a_form_that_no_engine_runs_is_never_chosen() -> None:
    assert best(entry(gguf=None, weights={"repository": "a/b"}), machine(500)) is None


def test_a_size_that_the_hub_gave_is_exact_and_an_estimate_says_that_it_is_one() -> None:
    known = {"repository": "a/b", "quantizations": ["Q4_K_M"], "sizes": {"Q4_K_M": 5_000_000_000}}
    choice = best(entry(gguf=known), machine(16), Wanted(8192, 1))
    assert choice is not None
    assert (choice.size, choice.exact) == (5_000_000_000, True)
    estimate = best(entry(), machine(9), Wanted(8192, 1))
    assert estimate is not None
    assert (estimate.size, estimate.exact) == (int(8.0 * 1e9 * 4.89 / 8), False)


def test_the_projector_is_fetched_and_held_too() -> None:
    seeing = {"repository": "a/b", "quantizations": ["Q4_K_M"], "projector": GB}
    with_eyes, without = best(entry(gguf=seeing), machine(16)), best(entry(), machine(16))
    assert with_eyes is not None
    assert without is not None
    assert with_eyes.size == int(8.0 * 1e9 * 4.89 / 8) + GB


def test_the_least_memory_is_that_of_the_smallest_form() -> None:
    assert smallest(entry(), Wanted(8192, 1)) == pytest.approx(4.89 * GB + 1.07 * GB, rel=0.05)
