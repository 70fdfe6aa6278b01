"""Tokenises texts with a Hugging Face ``tokenizer.json``. A text over the limit is an error, not cut silently."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from backends.workers.engines.common.batching import Tokens
from catalog.errors import ContextLengthExceeded, InvalidRequest, ModelUnavailable

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer


class TextTokenizer:
    """A tokenizer with the limit of its model: ``max_tokens`` per text, including special tokens."""

    def __init__(self, path: Path, *, model: str, max_tokens: int) -> None:
        from tokenizers import Tokenizer

        if not path.is_file():
            raise ModelUnavailable(f"The model '{model}' has no {path.name} in its folder. Pull it again.")
        self._model = model
        self.max_tokens = max_tokens
        text = path.read_text(encoding="utf-8")
        self._whole: Tokenizer = Tokenizer.from_str(text)
        self._whole.no_padding()
        self._whole.no_truncation()
        self._cut: Tokenizer = Tokenizer.from_str(text)
        self._cut.no_padding()
        self._cut.enable_truncation(max_tokens)
        self._prefix, self._suffix = self._frame()
        self.round_trips = _is_exact(json.loads(text))

    @cached_property
    def _literal(self) -> Tokenizer:
        """A tokenizer to which names of special tokens are text; the setting would hold for all threads."""
        from tokenizers import Tokenizer

        literal = Tokenizer.from_str(self._whole.to_str())
        literal.encode_special_tokens = True
        return literal

    @property
    def pad_id(self) -> int:
        """The id that pads a batch; the attention mask hides it."""
        for name in ("[PAD]", "<pad>", "<|endoftext|>"):
            found = self._whole.token_to_id(name)
            if found is not None:
                return int(found)
        return 0

    def texts(self, texts: Sequence[str], *, truncate: bool, param: str) -> tuple[list[Tokens], list[int]]:
        """Tokenise texts; return the tokens of each and the indices of truncated texts (only with ``truncate``).

        Raises ContextLengthExceeded for a text over the limit.
        """
        return self._fit(self._whole.encode_batch_fast(list(texts)), texts, truncate=truncate, param=param)

    def pairs(
        self, pairs: Sequence[tuple[str, str]], *, truncate: bool, param: str
    ) -> tuple[list[Tokens], list[int]]:
        """As :meth:`texts`, for the pairs of a cross-encoder."""
        return self._fit(self._whole.encode_batch_fast(list(pairs)), pairs, truncate=truncate, param=param)

    def framed(self, lists: Sequence[Sequence[int]], *, truncate: bool) -> tuple[list[Tokens], list[int]]:
        """As :meth:`texts`, for token ids from ``/tokenize``; the model's special tokens are added around them.

        Raises InvalidRequest for an id outside the vocabulary.
        """
        size = self._whole.get_vocab_size()
        room = self.max_tokens - len(self._prefix) - len(self._suffix)
        found: list[Tokens] = []
        cut: list[int] = []
        for i, given in enumerate(lists):
            if max(given) >= size:
                raise InvalidRequest(f"Token {max(given)} is not one of this model's {size}.", param="input")
            inner = list(given)
            framed = inner[: len(self._prefix)] == self._prefix and inner[-len(self._suffix) :] == self._suffix
            if framed and self._prefix and self._suffix:
                inner = inner[len(self._prefix) : -len(self._suffix)]
            if len(inner) > room:
                if not truncate:
                    raise self._too_long(len(inner) + self.max_tokens - room, "input")
                inner = inner[:room]
                cut.append(i)
            found.append(Tokens([*self._prefix, *inner, *self._suffix]))
        return found, cut

    def split(self, text: str, *, size: int) -> list[str]:
        """Split ``text`` between tokens into pieces of at most ``size`` tokens."""
        offsets = self._whole.encode(text, add_special_tokens=False).offsets
        starts = [offsets[k][0] for k in range(0, len(offsets), size)] or [0]
        return [text[a:b] for a, b in zip([0, *starts[1:]], [*starts[1:], len(text)], strict=True)]

    def count(self, text: str) -> int:
        """Count the tokens of ``text``, without special tokens."""
        return len(self._whole.encode(text, add_special_tokens=False).ids)

    @property
    def pair_overhead(self) -> int:
        """The number of special tokens in a pair."""
        return int(self._whole.num_special_tokens_to_add(True))

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[tuple[int, str]]:
        """Return the id and text of each token. Without ``parse_special``, names of special tokens are text."""
        tokenizer = self._whole if parse_special else self._literal
        encoding = tokenizer.encode(text, add_special_tokens=add_special)
        pieces = [text[a:b] for a, b in encoding.offsets]
        tokens = zip(encoding.ids, pieces, encoding.tokens, encoding.special_tokens_mask, strict=True)
        return [(i, token if special else piece) for i, piece, token, special in tokens]

    def detokenize(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``: exactly if ``round_trips``, else as the tokenizer normalised it.

        Raises InvalidRequest for an id outside the vocabulary.
        """
        size = self._whole.get_vocab_size()
        if ids and max(ids) >= size:
            raise InvalidRequest(f"Token {max(ids)} is not one of this model's {size}.", param="tokens")
        return str(self._whole.decode(list(ids), skip_special_tokens=False))

    def _fit(
        self,
        encodings: Sequence[Encoding],
        inputs: Sequence[str] | Sequence[tuple[str, str]],
        *,
        truncate: bool,
        param: str,
    ) -> tuple[list[Tokens], list[int]]:
        found: list[Tokens] = []
        cut: list[int] = []
        for i, (encoding, text) in enumerate(zip(encodings, inputs, strict=True)):
            fitting = encoding
            if len(encoding.ids) > self.max_tokens:
                if not truncate:
                    raise self._too_long(len(encoding.ids), param)
                fitting = self._cut.encode(*text) if isinstance(text, tuple) else self._cut.encode(text)
                cut.append(i)
            found.append(Tokens(fitting.ids, fitting.type_ids if isinstance(text, tuple) else None))
        return found, cut

    def _too_long(self, requested: int, param: str) -> ContextLengthExceeded:
        return ContextLengthExceeded(model=self._model, limit=self.max_tokens, requested=requested, param=param)

    def _frame(self) -> tuple[list[int], list[int]]:
        """Return the special tokens before and after a text."""
        bare = self._whole.encode("a", add_special_tokens=False).ids
        full = self._whole.encode("a").ids
        for at in range(len(full) - len(bare) + 1):
            if full[at : at + len(bare)] == bare:
                return full[:at], full[at + len(bare) :]
        return [], []


def _is_exact(tokenizer: dict[str, object]) -> bool:
    """Whether decoding restores the encoded text exactly: a byte-level tokenizer without a normaliser."""
    decoder = tokenizer.get("decoder")
    before = tokenizer.get("pre_tokenizer")
    return (
        tokenizer.get("normalizer") is None
        and isinstance(decoder, dict)
        and decoder.get("type") == "ByteLevel"
        and isinstance(before, dict)
        and before.get("type") in {"ByteLevel", "Sequence"}
        and '"add_prefix_space": true' not in json.dumps(before)
    )
