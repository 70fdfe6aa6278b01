"""Texts as models of each family write them, and the places that are read from them."""

from __future__ import annotations

import time

import pytest

from backends.grounding.families import FAMILIES, Family, family_of
from backends.grounding.spans import MOST, edge_spans, spans_of


def family(name: str) -> Family:
    (found,) = (one for one in FAMILIES if one.name == name)
    return found


def read(name: str, text: str) -> list[tuple[str, tuple[float, ...]]]:
    return [(span.label, span.numbers) for span in spans_of(text, family(name))]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("Qwen/Qwen2.5-VL-7B-Instruct",), "qwen2.5-vl"),
        (("qwen2.5-vl-7b-instruct-q4_k_m", "qwen2vl"), "qwen2.5-vl"),
        (("qwen2.5vl:7b",), "qwen2.5-vl"),
        (("eyes", "qwen25vl"), "qwen2.5-vl"),
        (("eyes", "qwen2_5_vl"), "qwen2.5-vl"),
        (("Qwen2-VL-2B-Instruct",), "qwen2-vl"),
        (("eyes", "qwen2vl"), "qwen2-vl or qwen2.5-vl"),
        (("qwen3-vl-8b", "qwen3vl"), "qwen3-vl"),
        (("qwen/qwen3.5-397b-a17b",), "qwen3-vl"),
        (("Qwen-VL-Chat",), "qwen-vl"),
        (("gemini-3-pro",), "gemini"),
        (("google/gemma-3-4b-it",), "gemini"),
        (("gemma4:12b",), "gemini"),
        (("paligemma2-3b-mix-448",), "paligemma"),
        (("microsoft/Florence-2-large",), "florence-2"),
        (("OpenGVLab/InternVL3-8B",), "internvl"),
        (("openbmb/MiniCPM-V-4_5",), "minicpm-v"),
        (("deepseek-ai/deepseek-vl2-tiny",), "deepseek-vl2"),
        (("deepseek-ocr",), "deepseek-vl2"),
        (("allenai/Molmo-7B-D-0924",), "molmo"),
        (("allenai/Molmo2-8B",), "molmo2"),
        (("zai-org/GLM-4.5V",), "glm-v"),
        (("LiquidAI/LFM2-VL-1.6B",), "lfm2-vl"),
        (("gpt-5.2", None), None),
        (("smollm2-135m-instruct", "llama"), None),
    ],
)
def test_a_models_name_tells_its_family(names: tuple[str | None, ...], expected: str | None) -> None:
    found = family_of(*names)
    assert (found.name if found else None) == expected


def test_qwen2_vl_names_an_object_then_its_boxes() -> None:
    text = (
        "There is <|object_ref_start|>the red bus<|object_ref_end|>"
        "<|box_start|>(10,20),(500,1000)<|box_end|><|box_start|>(600,20),(700,90)<|box_end|> and a "
        "<|object_ref_start|>dog<|object_ref_end|> <|box_start|>(1,2),(3,4)<|box_end|>."
    )
    assert read("qwen2-vl", text) == [
        ("the red bus", (10, 20, 500, 1000)),
        ("the red bus", (600, 20, 700, 90)),
        ("dog", (1, 2, 3, 4)),
    ]
    first = spans_of(text, family("qwen2-vl"))[0]
    assert text[first.start : first.end] == (
        "<|object_ref_start|>the red bus<|object_ref_end|><|box_start|>(10,20),(500,1000)<|box_end|>"
    )


def test_qwen2_vl_is_read_where_the_server_leaves_out_special_tokens() -> None:
    assert read("qwen2-vl", "the red bus(10,20),(500,1000)(600,20),(700,90)\na dog (1,2),(3,4)") == [
        ("the red bus", (10, 20, 500, 1000)),
        ("the red bus", (600, 20, 700, 90)),
        ("a dog", (1, 2, 3, 4)),
    ]


def test_the_first_qwen_vl_writes_tags() -> None:
    text = "<ref>a cat</ref><box>(71,114),(430,990)</box>"
    assert read("qwen-vl", text) == [("a cat", (71, 114, 430, 990))]


@pytest.mark.parametrize("name", ["qwen2.5-vl", "qwen3-vl"])
def test_qwen_of_today_writes_json_in_a_fence(name: str) -> None:
    text = """```json
[
	{"bbox_2d": [341, 258, 397, 360], "label": "a \\"small\\" {cup}"},
	{"bbox_2d": [1, 2, 3.5, 4], "label": "bowl", "sub_label": "blue"},
	{"point_2d": [12, 30], "label": "tip"}
]
```"""
    assert read(name, text) == [
        ('a "small" {cup}', (341, 258, 397, 360)),
        ("bowl", (1, 2, 3.5, 4)),
        ("tip", (12, 30)),
    ]


def test_json_that_was_cut_off_keeps_its_whole_objects() -> None:
    text = '[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}, {"bbox_2d": [5, 6,'
    assert read("qwen3-vl", text) == [("cat", (1, 2, 3, 4))]


def test_google_writes_y_before_x() -> None:
    text = (
        'Here:\n```json\n[{"box_2d": [100, 200, 300, 400], "label": "cat"}, '
        '{"point": [10, 20], "label": "eye"}]\n```'
    )
    assert read("gemini", text) == [("cat", (200, 100, 400, 300)), ("eye", (20, 10))]


def test_keys_of_other_families_are_not_guessed_at() -> None:
    text = '[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}, {"bbox": [1, 2, 3, 4]}]'
    assert read("gemini", text) == []


@pytest.mark.parametrize(
    "value", ["[1, 2, 3]", "[1, 2, 3, null]", "[1, 2, 3, true]", '"1,2,3,4"', "[1, 2, 3, 1e400]", "{}"]
)
def test_json_of_another_shape_is_no_box(value: str) -> None:
    assert read("qwen3-vl", f'{{"bbox_2d": {value}, "label": "cat"}}') == []


def test_paligemma_writes_bins_then_the_label() -> None:
    text = (
        "<loc0256><loc0128><loc0768><loc0512> cat ; <loc0000><loc0001><loc0002><loc0003><seg001><seg002> the dog"
    )
    assert read("paligemma", text) == [("cat", (128, 256, 512, 768)), ("the dog", (1, 0, 3, 2))]


def test_florence_writes_the_label_then_bins() -> None:
    text = (
        "car<loc_52><loc_333><loc_932><loc_774>"
        "wheel<loc_708><loc_576><loc_865><loc_772><loc_147><loc_563><loc_305><loc_767>"
    )
    assert read("florence-2", text) == [
        ("car", (52, 333, 932, 774)),
        ("wheel", (708, 576, 865, 772)),
        ("wheel", (147, 563, 305, 767)),
    ]


def test_florences_quadrilateral_around_a_text_is_one_box() -> None:
    text = "CANON<loc_10><loc_12><loc_50><loc_14><loc_49><loc_30><loc_9><loc_28>"
    assert read("florence-2", text) == [("CANON", (9, 12, 50, 30))]


def test_deepseek_and_internvl_write_lists_in_tags() -> None:
    text = "<|ref|>The giraffe<|/ref|><|det|>[[580, 270, 999, 904], [26, 31, 632, 998]]<|/det|>"
    assert read("deepseek-vl2", text) == [
        ("The giraffe", (580, 270, 999, 904)),
        ("The giraffe", (26, 31, 632, 998)),
    ]
    assert read("internvl", "A <ref>cat</ref><box>[[1, 2, 3, 4]]</box>.") == [("cat", (1, 2, 3, 4))]
    assert read("minicpm-v", "<ref>cat</ref><box>1 2 3 4</box>") == [("cat", (1, 2, 3, 4))]


def test_molmo_points_in_percent_and_molmo_two_in_thousandths() -> None:
    assert read("molmo", '<point x="61.5" y="40.6" alt="the cat">the cat</point>') == [("the cat", (61.5, 40.6))]
    assert read("molmo", '<points x1="1.5" y1="2" x2="30" y2="40.25" alt="cats">cats</points>') == [
        ("cats", (1.5, 2)),
        ("cats", (30, 40.25)),
    ]
    spans = spans_of('<points coords="1 1 073 160 2 173 600;2 1 500 500">boats</points>', family("molmo2"))
    assert [(span.numbers, span.picture) for span in spans] == [
        ((73, 160), 1),
        ((173, 600), 1),
        ((500, 500), 2),
    ]


def test_kosmos_writes_patches() -> None:
    text = "<phrase>a snowman</phrase><object><patch_index_0044><patch_index_0863></object>"
    assert read("kosmos-2", text) == [("a snowman", (12, 1, 32, 27))]


def test_glm_writes_brackets() -> None:
    text = "The dog: <|begin_of_box|>[[100,200,300,400]]<|end_of_box|>"
    assert [numbers for _, numbers in read("glm-v", text)] == [(100, 200, 300, 400)]


def test_lfm_writes_fractions() -> None:
    assert read("lfm2-vl", '[{"label": "cat", "bbox": [0.1, 0.2, 0.3, 0.4]}]') == [("cat", (0.1, 0.2, 0.3, 0.4))]


def test_the_edges_of_the_schema_are_read() -> None:
    text = (
        '{"boxes": [{"label": "cat", "left": 1, "top": 2, "right": 3, "bottom": 4}, {"label": "dog", "left": 1}]}'
    )
    assert [(span.label, span.numbers) for span in edge_spans(text)] == [("cat", (1, 2, 3, 4))]


HOSTILE = [
    "{" * 200_000,
    '{"' * 100_000,
    '{"bbox_2d": [' + "1," * 400_000,
    '{"bbox_2d": "' + "\\" * 500_000,
    "(1,2),(" * 100_000,
    "(1,2)" * 100_000,
    "<ref>" * 100_000,
    "<ref>" + "a" * 900_000,
    "<|object_ref_start|>" * 40_000,
    "<box>" * 100_000,
    "<loc0001>" * 100_000,
    "<loc_1>" * 100_000,
    "a" * 900_000 + "<loc_1>",
    "<points " * 100_000,
    "<points " + 'x1="1" ' * 100_000,
    "<phrase>" * 100_000,
    "[[1,2,3,4" * 100_000,
    "[" * 500_000,
    " " * 900_000 + "(1,2),(3,4)",
    "word " * 180_000 + "(1,2),(3,4)",
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: f"{text[:12]}")
def test_no_text_takes_long_to_read(text: str) -> None:
    text += 'bbox_2d box_2d bbox [{"bbox_2d"'
    for one in FAMILIES:
        began = time.process_time()
        spans_of(text, one)
        assert time.process_time() - began < 1.0, one.name


def test_an_answer_has_a_bounded_number_of_places() -> None:
    assert len(read("qwen3-vl", '{"bbox_2d": [1, 2, 3, 4]}' * (MOST + 500))) == MOST
