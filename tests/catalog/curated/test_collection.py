"""The curated catalogue: what its files must keep, and the names under which its models are found."""

from __future__ import annotations

import sys
import tomllib
from collections import Counter

import pytest

from catalog.catalog import Catalog
from catalog.curated.collection import curated, read_entries
from catalog.curated.entries import ENGINES, Entry, canonical
from catalog.errors import ConfigurationError
from catalog.model import Capability
from tests.test_structure import ROOT

FACTS = {*ENGINES, "weights", "parameters", "context", "license", "cache", "parsers", "score", "published"}


def entry(**fields: object) -> Entry:
    """A chat model of 8 billion weights, with these fields instead of its own."""
    given: dict[str, object] = {
        "id": "toy-8b",
        "name": "Toy 8B",
        "family": "toy",
        "released": "2026-01",
        "license": "MIT",
        "capabilities": ["chat"],
        "parameters": 8.0,
        "limits": {"context_window": 32768},
        "cache": [[32, 8, 128]],
        "gguf": {"repository": "acme/Toy-8B-GGUF", "quantizations": ["Q4_K_M", "Q6_K", "Q8_0"]},
    }
    return Entry.model_validate({**given, **fields})


def test_there_are_models_for_every_capability() -> None:
    assert len(curated()) >= 60
    counts = Counter(capability for each in curated() for capability in each.capabilities)
    wanted = {
        Capability.CHAT: 40, Capability.CODE: 10, Capability.VISION: 10, Capability.REASONING: 10,
        Capability.EMBED: 8, Capability.RERANK: 3, Capability.TRANSCRIBE: 5, Capability.SPEAK: 1,
        Capability.IMAGE: 8, Capability.VIDEO: 2,
    }  # fmt: skip
    assert {name: counts[name] for name, least in wanted.items() if counts[name] < least} == {}
    chat = [each.parameters for each in curated() if Capability.CHAT in each.capabilities]
    assert min(chat) < 1
    assert max(chat) > 200


def test_a_name_means_one_model() -> None:
    owners: dict[str, set[str]] = {}
    for each in curated():
        for name in each.called():
            owners.setdefault(canonical(name), set()).add(each.id)
    assert {name: ids for name, ids in owners.items() if len(ids) > 1} == {}


def test_only_the_same_model_may_come_before_an_entry_of_its_name() -> None:
    builtin = Catalog.builtin()
    names = {name: each for each in curated() for name in (each.id, *each.names) if builtin.knows(name)}
    hidden = {name for name, each in names.items() if builtin.resolve(name).id != each.id}
    assert not hidden


def test_successors_exist_and_lead_to_an_end() -> None:
    for each in curated():
        seen, current = {each.id}, each
        while current.successor is not None:
            following = curated().get(current.successor)
            assert following is not None, f"{current.id}: there is no {current.successor}"
            assert following.id not in seen, f"{each.id}: its successors run in a circle"
            assert each.capabilities & following.capabilities, f"{each.id}: {following.id} does other work"
            seen.add(following.id)
            current = following


def test_what_was_looked_up_names_a_known_source_and_a_fact_of_the_entry() -> None:
    for each in curated():
        assert set(each.verified) <= FACTS, each.id
        assert set(each.verified.values()) <= set(curated().sources), each.id
        forms = {name for name in each.verified if name in (*ENGINES, "weights")}
        assert all(getattr(each, form) is not None for form in forms), f"{each.id}: {forms}"


def test_a_models_of_the_same_name_in_its_row_has_valid_options_and_engines() -> None:
    from backends.workers.engines.registry import builtin_engines

    engines = builtin_engines()
    for each in curated():
        for engine, options in each.options.items():
            form = next(form for form, name in ENGINES.items() if name == engine)
            assert getattr(each, form) is not None, f"{each.id}: options of {engine}, which has no form"
            from catalog.model import Model, PathSource

            row = Model(
                id=each.id,
                capabilities=each.capabilities,
                source=PathSource(path="/x"),
                engine=engine,
                options=options,
            )
            engines.options_of(row)


@pytest.mark.parametrize(
    ("name", "expected", "quantization"),
    [
        ("qwen3:8b", "qwen3-8b", None),
        ("qwen3-8b", "qwen3-8b", None),
        ("Qwen3-8B", "qwen3-8b", None),
        ("Qwen3 8B", "qwen3-8b", None),
        ("qwen_3_8b", "qwen3-8b", None),
        ("qwen3:latest", "qwen3-8b", None),
        ("Qwen3-8B-GGUF", "qwen3-8b", None),
        ("Qwen/Qwen3-8B", "qwen3-8b", None),
        ("unsloth/Qwen3-8B-GGUF:Q6_K", "qwen3-8b", "Q6_K"),
        ("qwen3:8b-q4_K_M", "qwen3-8b", "Q4_K_M"),
        ("qwen3-8b-Q8_0", "qwen3-8b", "Q8_0"),
        ("https://ollama.com/library/qwen3:8b", "qwen3-8b", None),
        ("https://huggingface.co/unsloth/Qwen3-8B-GGUF", "qwen3-8b", None),
        ("llama3.1:8b", "llama-3.1-8b", None),
        ("Llama-3.1-8B-Instruct", "llama-3.1-8b", None),
        ("gemma-3-4b-it", "gemma-3-4b", None),
        ("gemma4:e4b", "gemma-4-e4b", None),
        ("gpt-oss:20b", "gpt-oss-20b", None),
        ("mistral-small3.2:24b", "mistral-small-3.2-24b", None),
        ("whisper-turbo", "whisper-large-v3-turbo", None),
        ("nomic-embed-text", "nomic-embed-text-v1.5", None),
        ("bge-m3", "bge-m3", None),
    ],
)
def test_a_model_is_found_by_the_names_that_people_type(
    name: str, expected: str, quantization: str | None
) -> None:
    found = curated().find(name)
    assert found is not None
    assert (found.entry.id, found.quantization) == (expected, quantization)


@pytest.mark.parametrize(
    "name", ["", "qwen", "acme/unknown", "hub:", "../../etc", "Q4_K_M", "x" * 10_000, "qwen3:9000b"]
)
def test_another_name_is_no_model(name: str) -> None:
    assert curated().find(name) is None


def test_files_that_an_address_names_are_not_the_catalogues_choice() -> None:
    assert curated().find("unsloth/Qwen3-8B-GGUF:*Q4*") is None
    assert curated().find("https://huggingface.co/unsloth/Qwen3-8B-GGUF/blob/main/Qwen3-8B-Q4_0.gguf") is None
    assert curated().find("https://huggingface.co/unsloth/Qwen3-8B-GGUF/tree/v2") is None


def test_the_nearest_names_are_suggested() -> None:
    assert curated().nearest("qwn3:8b")[0] == "qwen3-8b"
    assert "gemma-4-12b" in curated().nearest("gema4-12b")


def test_a_wrong_entry_is_told_by_its_file_and_field() -> None:
    document = tomllib.loads('[[model]]\nid = "x"\nname = "X"\nfamily = "x"\nreleased = "soon"\n')
    with pytest.raises(ConfigurationError, match=r"x\.toml, 'x': "):
        read_entries(document, "x.toml")


def test_an_entry_has_a_form_and_only_known_quantisations() -> None:
    with pytest.raises(ValueError, match="no form"):
        entry(gguf=None)
    with pytest.raises(ValueError, match="bits of 'Q9_X'"):
        entry(gguf={"repository": "a/b", "quantizations": ["Q9_X"]})


def test_windows_bound_the_cache_of_their_layers() -> None:
    # gpt-oss-20b: 12 of 24 layers keep 128 tokens; 8 KV heads of 64, two tensors, two bytes.
    model = entry(cache=[[12, 8, 64], [12, 8, 64, 128]])
    assert model.cache_bytes(8192) == 2 * 2 * 12 * 8 * 64 * (8192 + 128)
    assert model.cache_bytes(64) == 2 * 2 * 24 * 8 * 64 * 64


def test_a_start_reads_none_of_it() -> None:
    import subprocess

    code = "import sys, server.assembly, server.app; print([m for m in sys.modules if 'catalog.curated' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
