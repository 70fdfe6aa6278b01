"""Addresses of the hub as people write and paste them."""

from __future__ import annotations

import pytest

from catalog.errors import PullError
from catalog.names.addresses import Address, address_of, is_explicit
from catalog.store.store import parse_address

HOME = "unsloth/Qwen3-8B-GGUF"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HOME, Address(HOME)),
        (f"{HOME}:Q4_K_M", Address(HOME, "Q4_K_M")),
        (f"{HOME}:latest", Address(HOME)),
        (f"{HOME}/Qwen3-8B-Q4_K_M.gguf", Address(HOME, "Qwen3-8B-Q4_K_M.gguf")),
        (f"hub:{HOME}:*Q8_0*", Address(HOME, "*Q8_0*")),
        (f"hf.co/{HOME}:Q4_K_M", Address(HOME, "Q4_K_M")),
        (f"HF.co/{HOME}", Address(HOME)),
        (f"hf://{HOME}/Qwen3-8B-Q6_K.gguf", Address(HOME, "Qwen3-8B-Q6_K.gguf")),
        (f"hf://{HOME}/Q6_K/Qwen3-8B.gguf", Address(HOME, "Q6_K/Qwen3-8B.gguf")),
        (f"https://huggingface.co/{HOME}", Address(HOME)),
        (f"  https://huggingface.co/{HOME}/?library=llama-cpp ", Address(HOME)),
        (f"https://huggingface.co/{HOME}/tree/main", Address(HOME, None, "main")),
        (f"https://huggingface.co/{HOME}/tree/main/Q4_K_M", Address(HOME, "Q4_K_M", "main")),
        (f"https://huggingface.co/{HOME}/blob/main/a%20b.gguf", Address(HOME, "a b.gguf", "main")),
        (f"huggingface.co/{HOME}/resolve/abc/x.gguf?download=true", Address(HOME, "x.gguf", "abc")),
    ],
)
def test_an_address_in_any_form_names_its_repository(text: str, expected: Address) -> None:
    assert address_of(text) == expected


@pytest.mark.parametrize(
    "text",
    ["qwen3:8b", "qwen3-8b", "", "https://example.com/a/b", "ftp://huggingface.co/a/b", "hf.co/alone", "a b/c",
     "../etc", "/etc/passwd", "a/b/c", "a/../b", "hub:", "https://huggingface.co/"],
)  # fmt: skip
def test_anything_else_is_no_address(text: str) -> None:
    assert address_of(text) is None


def test_only_an_address_that_names_the_hub_cannot_be_an_id() -> None:
    assert is_explicit(f"hf.co/{HOME}")
    assert is_explicit(f"hub:{HOME}")
    assert not is_explicit(HOME)
    assert not is_explicit("qwen3:8b")
    assert not is_explicit("https://example.com/a/b")


def test_the_revision_of_a_pasted_link_is_fetched() -> None:
    assert parse_address(f"https://huggingface.co/{HOME}/tree/v2", "main").revision == "v2"
    assert parse_address(HOME, "v1").revision == "v1"
    with pytest.raises(PullError, match="owner/repository"):
        parse_address("https://example.com/a/b")
