"""A language model whose weights are written by hand: it copies what the conversation tells it to say.

llama.cpp loads and runs it as any GGUF file of the architecture ``llama``: the real tokenizer, chat template,
prefill, sampling and parser of tool calls are at work, and only the knowledge is missing. It stands in for a local
model that is good enough to be an agent, which no package has.

- At the opening of an answer (:data:`ANSWER`) it says what follows :data:`SAY` in the prompt; once there is the
  output of a tool (:data:`OUTPUT`), it says that.
- It copies word for word, up to :data:`CALLED`, the end of the output (:data:`OUTPUT_END`) or of the message.
- Without either it says nothing.

It is an induction head (Olsson et al. 2022, https://arxiv.org/abs/2209.11895): three layers gather for each token
the seven before it, by attention to what is one, two and four tokens back; the fourth attends to the place whose
seven tokens before it are the newest ones, and says the token there. Tokens are random unit vectors, which are
nearly orthogonal. Rotary embeddings with a huge base turn the first dimensions of a head, by which a place knows
how far back another is, and leave the others alone.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.fakes.gguf import Tensor, Value, gguf_bytes

START, END, ANSWER, SAY = "<|im_start|>", "<|im_end|>", "<|answer|>", "<|say|>"
CALL, CALLED, OUTPUT, OUTPUT_END = "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"
SPECIAL = ("<|begin|>", START, END, ANSWER, SAY, CALL, CALLED, OUTPUT, OUTPUT_END)
VOCABULARY = 8192
CONTEXT = 65536

_CODE, _VALUE, _BACK = 29, 64, 7
"""Dimensions of the code by which a token is found, of that by which it is said, and tokens that are compared."""
_IS, _WANTS, _ANY = slice(0, 2), slice(2, 4), slice(4, _CODE)
"""Parts of a code: whether the token is SAY or OUTPUT, how much it looks for these two, and a random vector."""
_HEAD, _FAST, _SLOW = 256, 24, 25
"""Dimensions of a head, and pairs of them that turn, and from which on they hardly do in a whole context."""
_BASE = 1e30
_NORM = 20.0
"""Length of every token's vector. What layers add to it is short, so its length is known."""
_OFFSET, _MATCH, _LAST = 40.0, 40.0, 2.0
"""Sharpness of attention to an offset and to a match, and the weight of the newest token in a match."""
_RECENT, _NEARER = slice(9, 15), 0.12
"""Pairs of dimensions by which, of places that match alike, one within some hundred tokens is taken, and their
weight: together less than a token that differs."""
_SINK, _SAID = 4.0, 80.0
"""Match below which nothing is copied, and sharpness of the logits."""

Floats = NDArray[np.float32]


class _Rooms:
    """The places of a token's vector that its parts have."""

    def __init__(self) -> None:
        self.size = 0
        self.own, self.asked = self._take(_CODE), self._take(_CODE)
        self.back = [self._take(_CODE) for _ in range(_BACK)]
        self.value, self.out = self._take(_VALUE), self._take(_VALUE)
        self.one, self.first, self.sink, self.rest = (self._take(1) for _ in range(4))
        self.size = -(-self.size // 32) * 32

    def _take(self, count: int) -> slice:
        self.size += count
        return slice(self.size - count, self.size)


def write(path: Path) -> None:
    """Write the model with the chat template ``strict.jinja``. Its vocabulary is learned from Python's manual."""
    tokenizer = _tokenizer()
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    tokens = [token for token, _ in vocabulary]
    merges = [" ".join(pair) for pair in _merges(tokenizer)]
    prefix = "tokenizer.ggml"
    pairs: dict[str, Value] = {
        "general.architecture": "llama",
        "general.name": "Copier",
        "llama.block_count": 4,
        "llama.context_length": CONTEXT,
        "llama.embedding_length": _Rooms().size,
        "llama.feed_forward_length": 32,
        "llama.attention.head_count": 1,
        "llama.attention.head_count_kv": 1,
        "llama.attention.key_length": _HEAD,
        "llama.attention.value_length": _HEAD,
        "llama.attention.layer_norm_rms_epsilon": 1e-6,
        "llama.rope.dimension_count": _HEAD,
        "llama.rope.freq_base": _BASE,
        "llama.vocab_size": len(tokens),
        f"{prefix}.model": "gpt2",
        f"{prefix}.pre": "gpt-2",
        f"{prefix}.tokens": tokens,
        f"{prefix}.token_type": [4 if token in SPECIAL else 1 for token in tokens],
        f"{prefix}.merges": merges,
        f"{prefix}.bos_token_id": tokens.index(SPECIAL[0]),
        f"{prefix}.eos_token_id": tokens.index(END),
        f"{prefix}.add_bos_token": True,
        "tokenizer.chat_template": (Path(__file__).parent / "strict.jinja").read_text(),
    }
    path.write_bytes(gguf_bytes(pairs, tensors=_tensors(tokens)))


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, normalized=False) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(topics.values(), trainer)
    return tokenizer


def _merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    merges: list[tuple[str, str]] = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    return merges


def _tensors(tokens: list[str]) -> dict[str, Tensor]:
    rooms, count = _Rooms(), len(tokens)
    random = np.random.default_rng(1)
    codes = np.zeros((count, _CODE), np.float32)
    codes[:, _ANY] = _units(random.standard_normal((count, _CODE - 4)))
    values = _units(random.standard_normal((count, _VALUE)))
    at = {token: number for number, token in enumerate(tokens)}

    codes[[at[SAY], at[OUTPUT], at[ANSWER]]] = 0.0
    codes[at[SAY], _IS] = 1.0, 0.0
    codes[at[OUTPUT], _IS] = 0.0, 1.0
    codes[at[ANSWER], _WANTS] = 3.0, 3.0  # what follows is compared with what follows SAY or OUTPUT

    embedding = np.zeros((count, rooms.size), np.float32)
    embedding[:, rooms.own] = codes
    embedding[:, rooms.asked] = codes
    embedding[at[ANSWER], rooms.asked][_WANTS] = 4.0, 6.0
    embedding[:, rooms.value] = values
    embedding[at[OUTPUT_END], rooms.value] = embedding[at[SPECIAL[0]], rooms.value] = values[at[END]]
    embedding[:, rooms.one] = 1.0
    embedding[at[SPECIAL[0]], rooms.first] = 1.0
    embedding[:, rooms.sink] = 1.0
    embedding[at[CALLED], rooms.sink] = 4.0
    embedding[:, rooms.rest] = np.sqrt(_NORM**2 - (embedding**2).sum(axis=1, keepdims=True))

    output = np.zeros((count, rooms.size), np.float32)
    output[:, rooms.out] = values * _SAID / math.sqrt(rooms.size) * _NORM
    tensors: dict[str, Tensor] = {
        "token_embd.weight": embedding.astype(np.float16),
        "output_norm.weight": np.ones(rooms.size, np.float32),
        "output.weight": output.astype(np.float16),
    }
    layers = [*(_gathers(rooms, offset) for offset in (1, 2, 4)), _matches(rooms)]
    for number, layer in enumerate(layers):
        tensors |= {f"blk.{number}.{name}.weight": tensor for name, tensor in layer.items()}
    return tensors


def _gathers(rooms: _Rooms, offset: int) -> dict[str, Floats]:
    """A layer that copies what the token ``offset`` places back knows of itself and those before it."""
    layer = _layer(rooms)
    scale = math.sqrt(rooms.size) / _NORM
    turns = _BASE ** (-2 * np.arange(_FAST) / _HEAD) * offset
    fast = slice(0, 2 * _FAST)
    layer["attn_q"][fast, rooms.one] = np.stack([np.cos(turns), -np.sin(turns)], 1).reshape(-1, 1)
    layer["attn_q"] *= _OFFSET * math.sqrt(_HEAD) / scale
    layer["attn_k"][0 : 2 * _FAST : 2, rooms.one] = 1 / scale
    for number, (here, there) in enumerate(
        zip([rooms.own, *rooms.back][:offset], rooms.back[offset - 1 :], strict=False)
    ):
        place = slice(number * _CODE, (number + 1) * _CODE)
        layer["attn_v"][place, here] = np.eye(_CODE) / scale
        layer["attn_output"][there, place] = np.eye(_CODE)
    return layer


def _matches(rooms: _Rooms) -> dict[str, Floats]:
    """The layer that says the token whose seven before it are the newest seven."""
    layer = _layer(rooms)
    scale = math.sqrt(rooms.size) / _NORM
    wanting = np.zeros((_CODE, _CODE), np.float32)
    wanting[_IS, _WANTS], wanting[_ANY, _ANY] = np.eye(2), np.eye(_CODE - 4)
    for number, (newest, before) in enumerate(zip([rooms.asked, *rooms.back[:-1]], rooms.back, strict=True)):
        weight = _LAST if number == 0 else 1.0
        at = 2 * _SLOW + number * _CODE
        layer["attn_q"][at : at + _CODE, newest] = wanting * weight
        layer["attn_k"][at : at + _CODE, before] = np.eye(_CODE) / scale
    recent = slice(2 * _RECENT.start, 2 * _RECENT.stop, 2)
    layer["attn_q"][recent, rooms.one], layer["attn_k"][recent, rooms.one] = _NEARER, 1 / scale
    layer["attn_q"][_HEAD - 1, rooms.sink] = _SINK
    layer["attn_k"][_HEAD - 1, rooms.first] = 1 / scale
    layer["attn_q"] *= _MATCH * math.sqrt(_HEAD) / scale
    place = slice(0, _VALUE)
    layer["attn_v"][place, rooms.value] = np.eye(_VALUE) / scale
    layer["attn_output"][rooms.out, place] = np.eye(_VALUE)
    return layer


def _layer(rooms: _Rooms) -> dict[str, Floats]:
    """A layer that does nothing yet."""
    wide, small = rooms.size, 32

    def zeros(*shape: int) -> Floats:
        return np.zeros(shape, np.float32)

    return {
        "attn_norm": np.ones(wide, np.float32),
        "attn_q": zeros(_HEAD, wide),
        "attn_k": zeros(_HEAD, wide),
        "attn_v": zeros(_HEAD, wide),
        "attn_output": zeros(wide, _HEAD),
        "ffn_norm": np.ones(wide, np.float32),
        "ffn_gate": zeros(small, wide),
        "ffn_up": zeros(small, wide),
        "ffn_down": zeros(wide, small),
    }


def _units(vectors: NDArray[np.float64]) -> Floats:
    units: Floats = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return units
