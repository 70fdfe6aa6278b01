"""Letters to sounds: what is spoken of texts in eight languages, and how they are cut into pieces."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import pytest

from backends.workers.engines.speech.kokoro import ids_of
from backends.workers.engines.speech.phonemes.chinese import number_of, syllable
from backends.workers.engines.speech.phonemes.french import French
from backends.workers.engines.speech.phonemes.hindi import Hindi
from backends.workers.engines.speech.phonemes.italian import Italian
from backends.workers.engines.speech.phonemes.japanese import sounds_of
from backends.workers.engines.speech.phonemes.languages import readers
from backends.workers.engines.speech.phonemes.portuguese import Portuguese
from backends.workers.engines.speech.phonemes.rules import Language
from backends.workers.engines.speech.phonemes.spanish import Spanish
from backends.workers.engines.speech.phonemes.words import PHONEMES_A_PIECE, Word, phonemes_of, pieces


def read(language: str, text: str) -> str:
    return phonemes_of(readers()[language](text))


@pytest.mark.parametrize(
    ("language", "text", "sounds"),
    [
        ("es", "Hola, ¿cómo estás?", "ˈola, kˈomo estˈas?"),
        ("es", "El niño comió una manzana.", "el nˈiɲo komjˈo ˈuna manθˈana."),
        ("es", "guerra cigüeña perro pero", "ɡˈera θiɣwˈeɲa pˈero pˈeɾo"),
        ("es", "de la ciudad", "de la θjuðˈad"),
        ("es", "rápidamente", "rˈapiðamˈente"),
        ("it", "Buongiorno, come stai?", "bwonʤˈorno, kˈome stˈaj?"),
        ("it", "gli gnocchi", "ʎɪ ɲˈɔkːɪ"),
        ("it", "tavola città scienza chiesa", "tˈavola ʧitːˈa ʃˈɛnʦa kjˈɛza"),
        ("it", "l'acqua", "lˈakːwa"),
        ("pt-BR", "Olá, como você está hoje?", "olˈa, kˈomʊ vosˈe estˈa ˈoʒy?"),
        ("pt-BR", "coração mãe gente filho ninho", "koɾasˈɐ\u0303ʊ\u0303 mˈɐ\u0303y ʒˈAŋʧy fˈiljʊ nˈiɲʊ"),
        ("pt-BR", "carro caro", "kˈaxʊ kˈaɾʊ"),
        ("fr", "Bonjour, le petit chien est monté.", "bɔ\u0303ʒˈuʁ, lə pətˈi ʃjˈɛ\u0303 ɛ mɔ\u0303tˈe."),
        ("fr", "s'il vous plaît", "sil vu plˈɛ"),
        ("fr", "un beau bateau de l'eau", "œ\u0303 bˈo batˈo də lˈo"),
        ("hi", "नमस्ते, मेरा नाम राम है।", "nəmˈʌsteː, mˈeːɾaː nˈaːm ɾˈaːm hɛː."),
        ("hi", "कमल सरकार लड़का", "kˈʌməl səɾkˈaːɾ lˈʌɽkaː"),
    ],
)
def test_words_are_read_as_they_are_spoken(language: str, text: str, sounds: str) -> None:
    assert read(language, text) == sounds


def test_a_word_that_begins_with_a_vowel_takes_the_consonant_before_it() -> None:
    assert read("fr", "les enfants") == "le zɑ\u0303fˈɑ\u0303"
    assert read("fr", "les chats") == "le ʃˈa"
    assert read("fr", "les haricots") == "le aʁikˈo", "an aspirated h takes none"
    assert read("fr", "les, enfants") == "le, ɑ\u0303fˈɑ\u0303", "nor does a word after a pause"


def test_a_verb_of_several_is_not_read_as_a_noun() -> None:
    assert read("fr", "ils chantent") == "il ʃˈɑ\u0303t"
    assert read("fr", "un moment") == "œ\u0303 mɔmˈɑ\u0303"


@pytest.mark.parametrize(
    ("language", "number", "words"),
    [
        (Spanish(), 0, "cero"),
        (Spanish(), 121, "ciento veintiuno"),
        (Spanish(), 2024, "dos mil veinticuatro"),
        (Spanish(), 21_000_000, "veintiún millones"),
        (Italian(), 23, "ventitré"),
        (Italian(), 1_918, "mille novecento diciotto"),
        (Portuguese(), 345, "trezentos e quarenta e cinco"),
        (Portuguese(), 1_000_000, "um milhão"),
        (French(), 71, "soixante et onze"),
        (French(), 98, "quatre vingt dix huit"),
        (French(), 1_200, "mille deux cent"),
        (Hindi(), 150_000, "एक लाख पचास हज़ार"),
    ],
)
def test_numbers_are_said_in_words(language: Language, number: int, words: str) -> None:
    assert language.cardinal(number) == words


def test_a_number_with_groups_and_decimals_is_one_number() -> None:
    assert read("es", "1.234,5") == read("es", "mil doscientos treinta y cuatro coma cinco")
    assert read("fr", "50 %") == read("fr", "cinquante pour cent")
    assert [word.text for word in readers()["es"]("Son 25 euros.")] == ["Son", "25", "euros", "."]


@pytest.mark.parametrize(
    ("number", "characters"),
    [
        ("0", "零"), ("15", "十五"), ("105", "一百零五"), ("10050", "一万零五十"), ("123456789",
        "一亿二千三百四十五万六千七百八十九"),
        ("12.5%", "百分之十二点五"), ("007", "零零七"),
    ],
)  # fmt: skip
def test_chinese_numbers(number: str, characters: str) -> None:
    assert number_of(number) == characters


@pytest.mark.parametrize(
    ("initial", "final", "sounds"),
    [("zh", "ong1", "\uab67ʊ→ŋ"), ("", "iou3", "jou↓"), ("sh", "i4", "ʂɨ↘"), ("l", "v4", "ly↘"), ("", "？", "")],
)
def test_chinese_syllables_have_tones(initial: str, final: str, sounds: str) -> None:
    assert syllable(initial, final) == sounds


@pytest.mark.skipif(find_spec("pypinyin") is None, reason="pypinyin is not installed")
def test_chinese_is_read_by_its_phrases() -> None:
    assert read("zh", "你好，世界！") == "ni↗xau↓, ʂɨ↘ ʨje↘!"
    assert read("zh", "银行行长").endswith("xa↗ŋꭧa↓ŋ"), "the same character is hang and zhang's title here"
    assert "ˈ" in read("zh", "我用 Python。"), "an English word is read as English"


@pytest.mark.parametrize(
    ("kana", "sounds"),
    [
        ("トーキョー", "toːkʲoː"), ("コンニチワ", "koɲɲiʨiβa"), ("キップ", "kʲiʔpɯ"), ("シンブン", "ɕimbɯɴ"),
        ("テンキ", "teŋkʲi"), ("ファン", "ɸaɴ"), ("ツキ", "ʦɨkʲi"), ("デス’", "desɨ"),
        ("ティー", "tʲiː"), ("", ""),
    ],
)  # fmt: skip
def test_readings_of_japanese(kana: str, sounds: str) -> None:
    assert sounds_of(kana) == sounds


@pytest.mark.skipif(find_spec("pyopenjtalk") is None, reason="pyopenjtalk-plus is not installed")
def test_japanese_is_read_by_open_jtalk() -> None:
    assert read("ja", "東京へ行く。") == "toːkʲoː e ikɯ."
    assert [word.text for word in readers()["ja"]("私はPythonを使います。")][:3] == ["私", "は", "Python"]


def test_every_sound_of_every_language_is_one_that_the_model_knows() -> None:
    texts = {
        "en-US": "The quick brown fox jumps over 13 lazy dogs; it's $9.99 at 7:30 pm!",
        "en-GB": "Schedule the tomato, please: \u201cnow\u201d.",
        "es": "El pingüino Wenceslao hizo kilómetros bajo exhaustiva lluvia y frío; añoraba al cachorro.",
        "it": "Pranzo d'acqua fa volti sghembi. Quel fez sghembo copre davanti, chissà perché, già!",
        "pt-BR": "Um pequeno jabuti xereta viu dez cegonhas felizes; luís argüia à júlia que fé, óxido.",
        "fr": "Portez ce vieux whisky au juge blond qui fume. Dès Noël où un zéphyr haï me vêt de glaçons.",
        "hi": "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश हुआ, ज्ञान बढ़ा।",
        "ja": "色は匂へど散りぬるを。2024年、ファックスでギョウザ！",
        "zh": "我能吞下玻璃而不伤身体。视野无限广，窗外有蓝天；2024年3月5日！",
    }
    for language, reader in readers().items():
        sounds = phonemes_of(reader(texts[language]))
        unknown = {sound for sound in sounds if not ids_of(sound)}
        assert not unknown, f"{language}: {unknown}"


@pytest.mark.parametrize("language", ["es", "fr", "it", "pt-BR", "hi"])
@pytest.mark.parametrize(
    "text", ["xyzzy", "''''", "\u0301\u0301", "é" * 500, "q", "\u00ad", "\u0600", "gu", "l'", "ü"]
)
def test_no_text_makes_the_rules_raise(language: str, text: str) -> None:
    read(language, text)


def words(*sounds: str) -> Sequence[Word]:
    return [Word(each, each) for each in sounds]


@pytest.mark.parametrize(
    ("given", "cut"),
    [
        (["a" * 200], ["a" * 200]),
        (["a" * 150 + ",", *["b c"] * 40], ["a" * 150 + ",", " ".join(["b c"] * 40)]),
        (["a" * 150, "b" * 100], ["a" * 150, "b" * 100]),
        (["a" * 450], ["a" * 200, "a" * 200, "a" * 50]),
        ([" "], []),
        ([], []),
    ],
)
def test_a_piece_ends_at_a_pause_else_at_a_space_else_anywhere(given: list[str], cut: list[str]) -> None:
    found = [phonemes_of(piece) for piece in pieces(words(*given))]
    assert found == cut
    assert all(len(piece) <= PHONEMES_A_PIECE for piece in found)
