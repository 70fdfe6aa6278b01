"""The engine onnx-painter without its weights: the choice of a subject, colours, the canvas, file formats."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from backends.wire.images import ImageRequest
from backends.workers.engines.onnx_painter.colours import TONES, recoloured
from backends.workers.engines.onnx_painter.engine import unused
from backends.workers.engines.onnx_painter.rendering import encode, on_canvas
from backends.workers.engines.onnx_painter.subjects import Drawable, Repertoire, choose, read_repertoire
from catalog.errors import ModelUnavailable
from catalog.starter_image.train.texts import COLOURS

Pixels = NDArray[np.float32]

REPERTOIRE = Repertoire(
    side=8,
    styles=("flat", "round"),
    colours=("red", "blue"),
    subjects=(
        Drawable(name="car", mirrored=True, rows=(0, 1)),
        Drawable(name="van", mirrored=True, rows=(2, -1)),
        Drawable(name="letter A", mirrored=False, rows=(3, 4)),
    ),
)
NO_COLOUR = np.array([9, 0, 0], np.float32)


def logits(*values: float) -> Pixels:
    return np.array(values, np.float32)


def disc(*colour: float, side: int = 48) -> Pixels:
    """A disc of one colour with a hole and nothing around it, premultiplied."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    picture = np.zeros((side, side, 4), np.float32)
    picture[np.hypot(x, y) < side * 0.45] = (*colour, 1)
    picture[np.hypot(x, y) < side * 0.1] = 0
    return picture


# ---- the choice


def test_a_seed_draws_the_same_thing_again_and_others_vary_the_style() -> None:
    chosen = [choose(REPERTOIRE, logits(9, 0, 0), NO_COLOUR, seed) for seed in range(40)]
    assert chosen == [choose(REPERTOIRE, logits(9, 0, 0), NO_COLOUR, seed) for seed in range(40)]
    assert {motif.name for motif in chosen} == {"car"}
    assert {(motif.style, motif.row) for motif in chosen} == {("flat", 0), ("round", 1)}
    assert {motif.mirrored for motif in chosen} == {True, False}


def test_seeds_choose_among_subjects_that_are_about_as_likely_and_leave_out_the_rest() -> None:
    chosen = {choose(REPERTOIRE, logits(2, 1.8, 0), NO_COLOUR, seed).name for seed in range(60)}
    assert chosen == {"car", "van"}


def test_a_style_in_which_the_subject_is_unknown_is_never_chosen() -> None:
    chosen = [choose(REPERTOIRE, logits(0, 9, 0), NO_COLOUR, seed) for seed in range(20)]
    assert {(motif.style, motif.row) for motif in chosen} == {("flat", 2)}


def test_signs_are_never_mirrored() -> None:
    assert not any(choose(REPERTOIRE, logits(0, 0, 9), NO_COLOUR, seed).mirrored for seed in range(20))


@pytest.mark.parametrize(
    ("colours", "expected", "told"),
    [
        ((0, 9, 0), "red", "car, in red (flat style)"),
        ((0, 0, 9), "blue", "car, in blue (flat style)"),
        ((9, 0, 0), None, "car (flat style)"),
        ((0, 0.3, 0.2), None, "car (flat style)"),
    ],
)
def test_a_colour_is_taken_only_where_the_prompt_surely_asks_for_it(
    colours: tuple[float, ...], expected: str | None, told: str
) -> None:
    only_flat = REPERTOIRE.model_copy(update={"subjects": (Drawable(name="car", mirrored=True, rows=(0,)),)})
    motif = choose(only_flat, logits(9), logits(*colours), 1)
    assert (motif.colour, motif.told) == (expected, told)


@pytest.mark.parametrize(
    "content", [None, b"{", b"{}", b'{"side": 8, "styles": [], "colours": [], "subjects": []}']
)
def test_a_damaged_repertoire_is_told_by_name(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "subjects.json").write_bytes(content)
    with pytest.raises(ModelUnavailable, match=r"subjects\.json of the model cannot be read"):
        read_repertoire(tmp_path / "subjects.json")


# ---- colours


def test_there_is_a_tone_for_each_colour_that_the_reader_knows() -> None:
    assert tuple(TONES) == COLOURS


@pytest.mark.parametrize(
    ("colour", "order"),
    [("blue", "bgr"), ("green", "g"), ("red", "r"), ("purple", "brg"), ("pink", "rbg"), ("brown", "rgb")],
)
def test_a_red_thing_takes_the_colour_that_is_asked_for(colour: str, order: str) -> None:
    pixel = recoloured(disc(0.9, 0.1, 0.1), colour)[10, 24]
    channels = dict(zip("rgb", pixel, strict=False))
    assert max(channels, key=lambda name: channels[name]) == order[0]
    if len(order) == 3:
        assert sorted(channels, key=lambda name: -channels[name]) == list(order)


@pytest.mark.parametrize(("colour", "low", "high"), [("black", 0, 0.3), ("white", 0.9, 1), ("grey", 0.5, 0.7)])
def test_black_white_and_grey_have_no_hue(colour: str, low: float, high: float) -> None:
    pixel = recoloured(disc(0.9, 0.1, 0.1), colour)[10, 24, :3]
    assert np.ptp(pixel) < 0.02
    assert low <= pixel.mean() <= high


def test_a_thing_that_has_the_colour_stays_as_it_is() -> None:
    apple = disc(0.95, 0.2, 0.15)
    assert np.array_equal(recoloured(apple, "red"), apple)


def test_a_grey_thing_is_tinted() -> None:
    pixel = recoloured(disc(0.7, 0.7, 0.7), "blue")[10, 24]
    assert pixel[2] > pixel[0] + 0.3


def test_other_hues_and_the_transparency_stay() -> None:
    flag = disc(0.9, 0.1, 0.1)
    flag[20:28, :, :3] = (0.1, 0.8, 0.1)
    flag[20:28, :, 3] = 1
    made = recoloured(flag, "blue")
    assert made[24, 5] == pytest.approx((0.1, 0.8, 0.1, 1), abs=0.02)
    assert np.array_equal(made[..., 3], flag[..., 3])


def test_an_empty_picture_has_no_colour_to_change() -> None:
    nothing = np.zeros((16, 16, 4), np.float32)
    assert np.array_equal(recoloured(nothing, "blue"), nothing)


# ---- the canvas


@pytest.mark.parametrize(("width", "height"), [(16, 16), (48, 48), (96, 64), (200, 333)])
def test_the_picture_is_in_the_middle_of_a_canvas_of_any_size(width: int, height: int) -> None:
    made = on_canvas(disc(0.9, 0.1, 0.1), width, height, room=0.8, mirrored=False, opaque=True)
    assert made.shape == (height, width, 3)
    assert made.dtype == np.uint8
    coloured = np.argwhere(made[..., 1] < 128)
    middle = (coloured.min(0) + coloured.max(0) + 1) / 2
    assert middle == pytest.approx((height / 2, width / 2), abs=1)
    extent = coloured.max(0) - coloured.min(0) + 1
    assert extent == pytest.approx(0.8 * 0.9 * min(width, height), rel=0.12)
    assert tuple(made[0, 0]) == (255, 255, 255)


def test_a_transparent_canvas_has_the_colour_below_its_edges() -> None:
    made = on_canvas(disc(0.8, 0.2, 0.2), 200, 200, room=0.9, mirrored=False, opaque=False)
    assert made.shape == (200, 200, 4)
    assert made[0, 0, 3] == made[100, 100, 3] == 0
    edges = made[(made[..., 3] > 40) & (made[..., 3] < 220)]
    assert len(edges) > 50
    assert np.abs(edges[:, 0].astype(int) - 204).max() < 30


def test_a_mirrored_picture_is_the_other_way_round() -> None:
    half = disc(0.9, 0.1, 0.1)
    half[:, :24] = 0
    left = on_canvas(half, 100, 100, room=0.9, mirrored=True, opaque=True)
    right = on_canvas(half, 100, 100, room=0.9, mirrored=False, opaque=True)
    assert np.abs(left[:, ::-1].astype(int) - right).mean() < 0.1
    assert left[50, 30, 1] < 128 < right[50, 30, 1]


@pytest.mark.parametrize("size", [40, 47, 60, 101, 400])
def test_an_even_surface_stays_even_at_every_size(size: int) -> None:
    surface = np.full((48, 48, 4), 0.5, np.float32)
    surface[..., 3] = 1
    made = on_canvas(surface, size, size, room=0.9, mirrored=False, opaque=False)
    middle = made[size // 4 : -size // 4, size // 4 : -size // 4].reshape(-1, 4)
    assert np.unique(middle, axis=0).tolist() in ([[127, 127, 127, 255]], [[128, 128, 128, 255]])


def test_sharpening_adds_no_halo_around_an_edge() -> None:
    made = on_canvas(disc(0.5, 0.5, 0.5), 300, 300, room=0.9, mirrored=False, opaque=True)
    assert made.min() >= 126
    assert np.unique(made[150, 200:260]).tolist()[0] in range(126, 130)


# ---- files


@pytest.mark.parametrize("channels", [3, 4])
def test_a_png_holds_the_pixels_exactly(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (33, 17, channels), np.uint8)
    with av.open(io.BytesIO(encode(pixels, "png", None))) as container:
        assert isinstance(container, av.container.InputContainer)
        frame = next(container.decode(video=0))
    assert np.array_equal(frame.to_ndarray(format="rgb24" if channels == 3 else "rgba"), pixels)


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_a_lower_quality_is_a_smaller_file_of_the_same_picture(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 60, (64, 64, 3), np.uint8)
    pixels = on_canvas(disc(0.2, 0.4, 0.8), 64, 64, room=0.9, mirrored=False, opaque=True) // 2 + noise
    sizes = []
    for compression in (5, 60, None):
        data = encode(pixels, kind, compression)  # type: ignore[arg-type]
        sizes.append(len(data))
        with av.open(io.BytesIO(data)) as container:
            assert isinstance(container, av.container.InputContainer)
            assert container.format.name in {"jpeg_pipe", "webp_pipe"}
            decoded = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)
        assert np.abs(decoded - pixels).mean() < 25
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 3


def test_a_webp_keeps_transparency() -> None:
    pixels = on_canvas(disc(0.2, 0.4, 0.8), 64, 64, room=0.9, mirrored=False, opaque=False)
    with av.open(io.BytesIO(encode(pixels, "webp", None))) as container:
        assert isinstance(container, av.container.InputContainer)
        decoded = next(container.decode(video=0)).to_ndarray(format="rgba")
    assert np.array_equal(decoded[..., 3], pixels[..., 3])


# ---- parameters


def test_what_has_no_effect_is_named() -> None:
    request = ImageRequest.model_validate(
        {
            "model": "m", "prompt": "p", "quality": "high", "style": "vivid", "steps": 4, "partial_images": 2,
            "background": "transparent", "output_format": "jpeg", "response_format": "url", "aspect": "wide",
        }
    )  # fmt: skip
    assert unused(request) == [
        "quality", "style", "steps", "partial_images", "background", "aspect",
    ]  # fmt: skip
    plain = {"model": "m", "prompt": "p", "quality": "auto", "background": "transparent", "seed": 1, "n": 2}
    assert unused(ImageRequest.model_validate(plain)) == []
