"""The files of the starter that draws, and how its training reads the emojis that it learns from."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from catalog.starter_image.train.sources import KEYWORDS, NAMES, STYLES, Emoji, archive_path, read_emojis
from catalog.starter_image.train.texts import COLOURS, HELD_OUT, LEARNED, make_texts, meanings

FOLDER = Path(__file__).parents[2] / "catalog" / "starter_image"
MOST_BYTES = 40_000_000


def pack(folder: Path, package: str, members: Mapping[str, object]) -> None:
    """Write the archive of a package with these JSON files."""
    with tarfile.open(archive_path(folder, package), "w:gz") as made:
        for member, value in members.items():
            data = json.dumps(value).encode()
            info = tarfile.TarInfo(f"package/{member}")
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))


def pack_set(folder: Path, style: str, **drawn: tuple[str, str]) -> None:
    """Write a set of emojis in Iconify's form: the code points and the drawing of each."""
    icons = {name: {"body": body} for name, (_, body) in drawn.items()}
    chars = {code: name for name, (code, _) in drawn.items()}
    members = {"icons.json": {"width": 32, "height": 32, "icons": icons}, "chars.json": chars}
    pack(folder, STYLES[style], members)


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """Packages of three emojis: an apple in all styles, a flag in two, and a component of others."""
    flag = "1F1EB-1F1F7"
    pack_set(tmp_path, "fluent", apple=("1f34e", "<a/>"))
    pack_set(tmp_path, "noto", apple=("1f34e", "<b/>"), fr=(flag, "<f/>"))
    pack_set(tmp_path, "twemoji", apple=("1f34e", "<c/>"), fr=(flag, "<g/>"))
    rows = [
        {"label": "red apple", "hexcode": "1F34E", "tags": ["fruit"], "emoji": "🍎", "group": 4},
        {"label": "flag: France", "hexcode": flag, "tags": ["FR"], "emoji": "🇫🇷", "group": 9},
        {"label": "light skin tone", "hexcode": "1F3FB", "tags": [], "emoji": "🏻", "group": 2},
    ]
    shortcodes = {"en/shortcodes/iamcal.json": {"1F34E": ["apple", "red_apple"]}, "en/shortcodes/github.json": {}}
    pack(tmp_path, NAMES, {"en/data.json": rows, **shortcodes})
    pack(tmp_path, KEYWORDS, {"dist/emoji-en-US.json": {"🍎": ["red_apple", "school"]}})
    return tmp_path


def emoji(name: str, *tags: str, names: tuple[str, ...] = (), group: int = 4) -> Emoji:
    return Emoji(
        name=name, names=names, tags=tags, keywords=(), group=group, mirrored=True, drawings={"noto": "<svg/>"}
    )


# ---- what it learns from


def test_an_emoji_has_its_names_keywords_and_a_drawing_of_each_set(packages: Path) -> None:
    apple, flag = read_emojis(packages)
    assert (apple.name, apple.names, apple.tags) == ("red apple", ("apple", "red apple"), ("fruit",))
    assert apple.keywords == ("red apple", "school")
    assert list(apple.drawings) == list(STYLES)
    assert apple.drawings["noto"].endswith('viewBox="0 0 32 32"><b/></svg>')
    assert (flag.name, list(flag.drawings), flag.mirrored) == ("flag of France", ["noto"], False)


def test_a_plain_word_means_the_thing_of_that_name_before_its_kinds() -> None:
    found = meanings([emoji("automobile", names=("car",)), emoji("police car", "car"), emoji("wheel", "car")])
    car, police, wheel = (found["car"][subject] for subject in range(3))
    assert car >= 2 * (police + wheel)
    assert police > wheel


def test_a_word_without_a_thing_of_its_name_means_each_of_its_kinds() -> None:
    found = meanings([emoji("palm tree", "tree"), emoji("evergreen tree", "tree"), emoji("leaf", "tree")])
    assert found["tree"][0] == found["tree"][1] > found["tree"][2]


def test_sentences_that_are_held_out_are_never_learned() -> None:
    assert not set(LEARNED) & set(HELD_OUT)
    emojis = [emoji(name, f"of {name}") for name in ("fox", "boat", "kite", "harp", "plum", "oak", "gem", "drum")]
    learned, held = make_texts(emojis, 1)
    assert not {text.prompt for text in learned} & {text.prompt for text in held}
    assert {text.kind for text in held} >= {"sentence"}


def test_a_colour_before_a_name_is_the_colour_of_the_text() -> None:
    learned, _ = make_texts([emoji("fox"), emoji("blue book")], 1)
    coloured = [text for text in learned if text.colour >= 0 and 0 in text.subjects]
    assert coloured
    book = [text for text in learned if 1 in text.subjects]
    assert {text.colour for text in book} == {COLOURS.index("blue")}
    assert {text.colour for text in learned if text.prompt in ("fox", "a fox")} == {-1}


# ---- what it has written


def test_the_weights_are_small_and_fit_each_other() -> None:
    told = json.loads((FOLDER / "subjects.json").read_text(encoding="utf-8"))
    reader = onnxruntime.InferenceSession(FOLDER / "reader.onnx")
    painter = onnxruntime.InferenceSession(FOLDER / "painter.onnx")
    subjects, colours = reader.run(["subjects", "colours"], {"vector": np.zeros((2, 384), np.float32)})
    assert subjects.shape == (2, len(told["subjects"]))
    assert colours.shape == (2, 1 + len(told["colours"]))
    rows = sorted(row for subject in told["subjects"] for row in subject["rows"] if row >= 0)
    assert rows == list(range(len(rows)))
    (pictures,) = painter.run(["picture"], {"row": np.array([0, rows[-1]], np.int64)})
    assert pictures.shape == (2, told["side"], told["side"], 4)
    assert 0 <= pictures.min() < pictures.max() <= 1
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument):
        painter.run(["picture"], {"row": np.array([rows[-1] + 1], np.int64)})
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) < MOST_BYTES


def test_the_licence_of_each_style_goes_with_the_weights() -> None:
    text = (FOLDER / "LICENCES.md").read_text(encoding="utf-8")
    told = json.loads((FOLDER / "subjects.json").read_text(encoding="utf-8"))
    assert told["styles"] == list(STYLES)
    assert tuple(told["colours"]) == COLOURS
    for style in STYLES:
        assert f"the style `{style}`" in text
