"""How a short file is encoded: without most of the silence of Whisper's window, and whole where that fails."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backends.workers.engines.whisper import SPARE, _CancellableModel, _ShortWindow
from backends.workers.program.threads import CancelSignal

ctranslate2 = pytest.importorskip("ctranslate2")

FRAMES = 3000
SPARE_FRAMES = int(SPARE * 100)


class Model:
    """Stands in for CTranslate2's model: an encoding is the number of its frames."""

    def __init__(self) -> None:
        self.encoded: list[int] = []
        self.decoded: list[int] = []

    def encode(self, features: Any, *, to_cpu: bool = False) -> int:
        self.encoded.append(np.asarray(features).shape[-1])
        return self.encoded[-1]

    def generate(self, encoded: int, prompts: list[list[int]]) -> int:
        self.decoded.append(encoded)
        return encoded


def window(content: int) -> Any:
    features = np.zeros((1, 80, FRAMES), np.float32)
    features[..., :content] = 1.0
    return ctranslate2.StorageView.from_array(features)


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def short(model: Model) -> _ShortWindow:
    return _ShortWindow(_CancellableModel(model, CancelSignal()))


def test_a_short_file_is_encoded_with_the_spare_silence_only(short: _ShortWindow, model: Model) -> None:
    assert short.encode(window(200)) == 200 + SPARE_FRAMES
    assert short.generate(200 + SPARE_FRAMES, [[1]]) == 200 + SPARE_FRAMES
    assert model.encoded == [200 + SPARE_FRAMES]


def test_every_further_decoding_of_a_window_is_of_the_whole_one(short: _ShortWindow, model: Model) -> None:
    encoded = short.encode(window(200))
    for _ in range(3):
        short.generate(encoded, [[1]])
    assert model.decoded == [200 + SPARE_FRAMES, FRAMES, FRAMES]
    assert model.encoded == [200 + SPARE_FRAMES, FRAMES], "the whole window is encoded once"


def test_the_next_window_begins_short_again(short: _ShortWindow, model: Model) -> None:
    for _ in range(2):
        short.generate(short.encode(window(200)), [[1]])
    assert model.decoded == [200 + SPARE_FRAMES] * 2


def test_a_window_without_room_to_spare_is_encoded_as_it_is(short: _ShortWindow, model: Model) -> None:
    assert short.encode(window(FRAMES - 1)) == FRAMES
