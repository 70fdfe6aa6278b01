"""Models that see, with ``mlx_vlm``: one sequence at a time, in the one thread that owns the model.

Some of its networks keep positions of the running sequence within themselves, so that sequences cannot be
interleaved. Source: mlx_vlm/generate/ar.py and mlx_vlm/utils.py of mlx-vlm 0.7.
"""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from backends.wire.chat import ChatRequest, ContentPart
from backends.wire.media import decoded, image_url, read_data_url
from backends.workers.engines.common.chunks import Token
from backends.workers.engines.common.messages import messages_of
from backends.workers.engines.mlx.decoder import MlxSampling, likeliest, processors, sampler
from backends.workers.program.threads import CancelSignal, ThreadRunner, WorkerStats
from catalog.errors import UndecodableMedia, UnsupportedValue
from catalog.types import Json

PACKAGE = "mlx_vlm"


def can_see() -> bool:
    """Whether the package for models that see is here; it is not imported."""
    return find_spec(PACKAGE) is not None


@dataclass(frozen=True, slots=True)
class LoadedToSee:
    """A loaded model: the network, its processor of pictures and texts, and what :class:`Loaded` has beside."""

    model: Any
    processor: Any
    eos: frozenset[int]
    spared: tuple[int, ...] = ()


class SeenPrompt(list[int]):
    """The tokens of a prompt, those of its pictures included, with what the network is given for them."""

    def __init__(self, tokens: Sequence[int], inputs: Json) -> None:
        super().__init__(tokens)
        self.inputs = inputs


class SeeingDecoder:
    """Decodes for a model that sees, with the methods of :class:`backends.workers.engines.mlx.decoder.Decoder`."""

    def __init__(self, load: Callable[[], LoadedToSee]) -> None:
        self._load = load
        self._runner = ThreadRunner(1)

    @property
    def stats(self) -> WorkerStats:
        return self._runner.stats

    def start(self) -> None:
        """Load the model in the thread. Raises what loading raises."""
        self._loaded = self._runner.run(self._load)

    def close(self) -> None:
        """End the thread after the running step."""
        self._runner.close()

    async def prompt(self, text: str, pictures: Sequence[bytes]) -> SeenPrompt:
        """The prompt of a text with a placeholder for each picture. Raises UndecodableMedia."""
        return await self._runner.call(lambda: _prompt(self._loaded, text, pictures))

    def decode(self, prompt: list[int], sampling: MlxSampling) -> AsyncGenerator[Token]:
        """Yield tokens, the last with its ``finish``. Closing this ends the sequence after the running step."""
        return self._runner.stream(lambda cancel: _decoded(self._loaded, prompt, sampling, cancel))


def messages_to_see(request: ChatRequest, engine: str) -> tuple[list[Json], list[bytes]]:
    """The messages for a chat template, with a mark for each picture, and the pictures in order.

    Raises CapabilityMismatch for other media, UndecodableMedia for a picture that is no data URL.
    """
    pictures: list[bytes] = []
    texts = messages_of(
        request.model_copy(
            update={
                "messages": [
                    message.model_copy(
                        update={"content": [part for part in message.content if part.image_url is None]}
                    )
                    if isinstance(message.content, list)
                    else message
                    for message in request.messages
                ]
            }
        ),
        engine,
    )
    for message, told in zip(request.messages, texts, strict=True):
        if not isinstance(message.content, list) or all(part.image_url is None for part in message.content):
            continue
        told["content"] = [_mark(part, pictures) for part in message.content]
    return texts, pictures


def _mark(part: ContentPart, pictures: list[bytes]) -> Json:
    if part.image_url is None:
        return {"type": "text", "text": part.text or ""}
    pictures.append(decoded(read_data_url(image_url(part))[1]))
    return {"type": "image"}


# ---- in the thread of the model


def _prompt(loaded: LoadedToSee, text: str, pictures: Sequence[bytes]) -> SeenPrompt:
    from mlx_vlm.utils import prepare_inputs
    from PIL import Image, UnidentifiedImageError

    try:
        images = [Image.open(io.BytesIO(data)).convert("RGB") for data in pictures]
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise UndecodableMedia("A picture cannot be decoded.", param="messages") from error
    config = loaded.model.config
    index = getattr(config, "image_token_index", None) or getattr(config, "image_token_id", None)
    try:
        inputs = prepare_inputs(
            loaded.processor,
            images=images or None,
            prompts=text,
            image_token_index=index,
            add_special_tokens=False,
        )
    except ValueError as error:
        raise UnsupportedValue(
            f"The model's chat template and its processor do not agree on these pictures: {str(error)[:200]}",
            param="messages",
        ) from error
    return SeenPrompt(inputs["input_ids"][0].tolist(), dict(inputs))


def _decoded(
    loaded: LoadedToSee, prompt: list[int], sampling: MlxSampling, cancel: CancelSignal
) -> Generator[Token]:
    import mlx.core as mx
    from mlx_vlm.generate import generate_step

    inputs: Json = dict(prompt.inputs) if isinstance(prompt, SeenPrompt) else {}
    ids = inputs.pop("input_ids", None)
    ids = mx.array([list(prompt)]) if ids is None else ids
    mask = inputs.pop("attention_mask", None)
    mask = mx.ones(ids.shape, dtype=mx.int32) if mask is None else mask
    for name in ("_position_ids", "_rope_deltas"):  # of the sequence before
        if hasattr(loaded.model.language_model, name):
            setattr(loaded.model.language_model, name, None)
    ends = (frozenset() if sampling.ignore_eos else loaded.eos) | sampling.stop_tokens
    steps = generate_step(
        ids,
        loaded.model,
        inputs.pop("pixel_values", None),
        mask,
        max_tokens=sampling.max_tokens,
        sampler=sampler(sampling, loaded.spared),
        logits_processors=processors(sampling, loaded.eos),
        **inputs,
    )
    for count, (token, logprobs) in enumerate(steps, 1):
        cancel.check()
        ended = token in ends
        wanted = sampling.top_logprobs
        yield Token(
            id=token,
            logprob=logprobs[token].item(),
            top=tuple(likeliest(logprobs, wanted)) if wanted else (),
            finish="stop" if ended else "length" if count == sampling.max_tokens else None,
        )
        if ended:
            return
