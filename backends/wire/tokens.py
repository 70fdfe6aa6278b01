"""POST /tokenize, /detokenize and /apply-template: requests and answers, in the shapes of llama.cpp and vLLM."""

from __future__ import annotations

from typing import Annotated, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from backends.wire.common import ModelName, Text, TokenId, WireModel

MAX_INPUTS = 1024


class TokenizeRequest(WireModel):
    """A text to split into tokens; ``with_pieces`` adds each token's text (or its bytes)."""

    model: ModelName = "auto"
    content: Text
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


class TokenizeTexts(WireModel):
    """Texts to split into tokens with their pieces; ``add_special`` adds the tokens that the model puts around."""

    model: ModelName = "auto"
    texts: Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS)]
    add_special: bool = True


class DetokenizeTexts(WireModel):
    """Lists of token ids to join into a text each; ``skip`` leaves out the tokens that stand around a text."""

    model: ModelName = "auto"
    lists: Annotated[
        list[Annotated[list[TokenId], Field(max_length=100_000)]], Field(min_length=1, max_length=MAX_INPUTS)
    ]
    skip: bool = True


class PropertiesRequest(WireModel):
    """The model to describe."""

    model: ModelName = "auto"


class DetokenizeRequest(WireModel):
    """Token ids to join into a text."""

    model: ModelName = "auto"
    tokens: Annotated[list[TokenId], Field(max_length=1_000_000)]


class TokenPiece(TypedDict):
    """``piece`` is a token's text, or its bytes where they are no text by themselves."""

    id: int
    piece: str | list[int]


class TokenList(TypedDict):
    """``token_strs`` are the tokens' texts, where asked for, ``token_strings`` for a request in Cohere's form;
    ``max_model_len`` is the model's context window.
    """

    tokens: list[int] | list[TokenPiece]
    count: NotRequired[int]
    max_model_len: NotRequired[int | None]
    token_strs: NotRequired[list[str] | None]
    token_strings: NotRequired[list[str]]
    model: NotRequired[str]


class DetokenizedText(TypedDict):
    """``prompt`` is vLLM's name for ``content``, ``text`` Cohere's. ``exact`` is false if the tokenizer normalises
    texts, so that the original one is lost.
    """

    content: str
    prompt: str
    text: str
    exact: NotRequired[bool]
    model: NotRequired[str]


class TemplatedPrompt(TypedDict):
    prompt: str
    model: NotRequired[str]
