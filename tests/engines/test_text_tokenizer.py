"""Tokenizers with and without exact round trips."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from backends.workers.engines.common.text_tokenizer import TextTokenizer
from catalog.errors import InvalidRequest, ModelUnavailable
from tests.conformance.worker import starter


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    """A byte-level BPE, as in RoBERTa and ModernBERT, trained on one line."""
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog " * 3], trainer)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(path))
    return TextTokenizer(path, model="bpe", max_tokens=64)


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=60))
def test_a_byte_level_tokenizer_gives_every_text_back(exact: TextTokenizer, text: str) -> None:
    ids = [i for i, _ in exact.tokenize(text, add_special=False)]
    assert exact.detokenize(ids) == text


def test_a_tokenizer_that_lowers_case_gives_the_normalised_text_back_and_says_so() -> None:
    _, folder = starter("all-minilm-l6-v2")
    assert folder is not None
    tokenizer = TextTokenizer(folder / "tokenizer.json", model="minilm", max_tokens=256)
    assert not tokenizer.round_trips
    ids = [i for i, _ in tokenizer.tokenize("Héllo  World", add_special=False)]
    assert tokenizer.detokenize(ids) == "hello world"


def test_names_of_special_tokens_are_text_unless_they_are_parsed(exact: TextTokenizer) -> None:
    text = "a <|endoftext|> b"
    parsed = exact.tokenize(text, add_special=False)
    literal = exact.tokenize(text, add_special=False, parse_special=False)
    assert len(literal) > len(parsed)
    assert exact.detokenize([i for i, _ in literal]) == text


def test_an_unknown_token_is_refused(exact: TextTokenizer) -> None:
    with pytest.raises(InvalidRequest, match="100000"):
        exact.detokenize([100_000])


def test_pieces_of_a_split_are_the_whole_text(exact: TextTokenizer) -> None:
    text = "the quick brown fox jumps over the lazy dog"
    pieces = exact.split(text, size=3)
    assert "".join(pieces) == text
    assert all(exact.count(piece) <= 4 for piece in pieces)
    assert exact.split("", size=3) == [""]


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="Pull"):
        TextTokenizer(tmp_path / "tokenizer.json", model="none", max_tokens=8)
