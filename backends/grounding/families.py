"""How families of models write places in pictures, and in which coordinates.

A model's name tells its family. Sources, by family: the reports and cookbooks of Qwen-VL, Qwen2-VL, Qwen2.5-VL
(pixels of the picture as the processor resized it) and Qwen3-VL (thousandths); Google's guides of
image understanding (``box_2d``, y before x, thousandths), PaliGemma (1024 bins) and Gemma; the processors of
Florence-2 (the middle of one of 1000 bins) and Kosmos-2 (32 by 32 patches); the cards of InternVL, MiniCPM-V,
DeepSeek-VL2 (0 to 999), GLM-4.1V, CogVLM, LFM2-VL (fractions), Molmo (percent) and Molmo 2 (thousandths).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Notation = Literal["qwen", "tagged", "loc", "loc_bins", "patches", "points", "bare"]
"""A kind of spans in :mod:`backends.grounding.spans`."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The coordinates of a family. ``side`` is the number of the far edge; None for pixels of the resized picture.

    ``offset`` is added to a number before it is divided: half a bin, where a number is a bin.
    """

    side: float | None = 1000.0
    offset: float = 0.0
    y_first: bool = False


@dataclass(frozen=True, slots=True)
class JsonKeys:
    """The keys of a family's JSON objects, and their coordinates."""

    box: str
    point: str | None = None
    grid: Grid = Grid()


@dataclass(frozen=True, slots=True)
class Family:
    """One way of writing places. ``notation`` and ``json`` may both occur in answers.

    ``detects`` is the prompt that the family was trained on for ``{phrase}``, if it has one of its own.
    """

    name: str
    pattern: str
    notation: Notation | None = None
    grid: Grid = Grid()
    json: JsonKeys | None = None
    detects: str | None = None
    joined: str = ", "
    """The text between several phrases of a prompt."""


_JSON_PROMPT = (
    'Locate every instance of: {phrase}. Answer with a JSON array alone, one object per instance: {{"%s": %s, '
    '"label": "..."}}. Answer [] if there is none.'
)
_PIXELS = Grid(side=None)
_Y_FIRST = Grid(y_first=True)
_CORNERS, _CORNERS_Y = "[x1, y1, x2, y2]", "[y1, x1, y2, x2]"

FAMILIES: Sequence[Family] = (
    Family("paligemma", r"paligemma", "loc", Grid(1024.0, y_first=True), detects="detect {phrase}", joined=" ; "),
    Family(
        "gemini",
        r"gemini|gemma-?[34]|gemma-?3n",
        json=JsonKeys("box_2d", "point", _Y_FIRST),
        detects=_JSON_PROMPT % ("box_2d", _CORNERS_Y),
    ),
    Family(
        "qwen3-vl",
        r"qwen-?3",
        "qwen",
        json=JsonKeys("bbox_2d", "point_2d"),
        detects=_JSON_PROMPT % ("bbox_2d", _CORNERS),
    ),
    Family(
        "qwen2.5-vl",
        r"qwen-?2[.-]?5-?(vl|omni)",
        "qwen",
        json=JsonKeys("bbox_2d", "point_2d", _PIXELS),
        detects=_JSON_PROMPT % ("bbox_2d", _CORNERS),
    ),
    Family(
        "qwen2-vl",
        r"qwen-?2-?vl-(?=.*\d)|qvq",
        "qwen",
        json=JsonKeys("bbox_2d", "point_2d"),
        detects="Find {phrase} in the picture and output the bounding box of each.",
    ),
    Family(  # GGUF's name of both: their answers differ in form, so each has its own coordinates
        "qwen2-vl or qwen2.5-vl",
        r"qwen-?2-?vl",
        "qwen",
        json=JsonKeys("bbox_2d", "point_2d", _PIXELS),
        detects="Find {phrase} in the picture and output the bounding box of each.",
    ),
    Family("qwen-vl", r"qwen-?vl(-chat|-7b|-10b)", "qwen", detects="<ref>{phrase}</ref>", joined=" and "),
    Family(
        "internvl",
        r"intern-?vl",
        "tagged",
        detects="Please provide the bounding box coordinate of the region this sentence describes: "
        "<ref>{phrase}</ref>",
    ),
    Family("minicpm-v", r"mini-?cpm-?[vo]", "tagged", detects="Locate <ref>{phrase}</ref> in the picture."),
    Family(
        "deepseek-vl2", r"deepseek-?(vl-?2|ocr|vl-?v2)", "tagged", Grid(999.0), detects="<|ref|>{phrase}<|/ref|>."
    ),
    Family(
        "florence-2",
        r"florence-?2",
        "loc_bins",
        Grid(1000.0, offset=0.5),
        detects="<OPEN_VOCABULARY_DETECTION>{phrase}",
    ),
    Family("kosmos-2", r"kosmos-?2", "patches", detects="<grounding><phrase>{phrase}</phrase>"),
    Family("molmo2", r"molmo-?2", "points"),
    Family("molmo", r"molmo", "points", Grid(100.0)),
    Family(
        "glm-v",
        r"glm-?4(\.\d)?-?\d*v|glm-?4v|cogvlm|cogagent|autoglm",
        "bare",
        json=JsonKeys("bbox_2d"),
        detects="Please pinpoint the bounding box [[x1,y1,x2,y2]] in the image as per the given description: "
        "{phrase}",
    ),
    Family(
        "lfm2-vl",
        r"lfm2(\.\d)?-?vl",
        json=JsonKeys("bbox", grid=Grid(1.0)),
        detects=_JSON_PROMPT % ("bbox", "[x1, y1, x2, y2] as fractions of the picture"),
    ),
)
"""In the order in which a name is looked at."""

_COMPILED = tuple((re.compile(family.pattern), family) for family in FAMILIES)
_SEPARATORS = re.compile(r"[^a-z0-9.]+")
_LONGEST_NAME = 300


def family_of(*names: str | None) -> Family | None:
    """The family that the first of these names tells; None if none does.

    Give the model's own name first: the name of an architecture may stand for several families.
    """
    for name in names:
        if name is None:
            continue
        plain = _SEPARATORS.sub("-", name[:_LONGEST_NAME].lower())
        for pattern, family in _COMPILED:
            if pattern.search(plain):
                return family
    return None
