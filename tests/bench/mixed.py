"""Three hundred different questions of ten kinds with one right answer each: some easy, some not for small models.

As :mod:`tests.bench.questions`, each is a text that ends where the answer begins, so that a base model can answer.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from routing.facts import Task
from tests.bench.questions import CAPITALS, OPINIONS, PLACES, Question

MORE_CAPITALS = {
    "Norway": "Oslo",
    "Sweden": "Stockholm",
    "Finland": "Helsinki",
    "Denmark": "Copenhagen",
    "Ireland": "Dublin",
    "Hungary": "Budapest",
    "Romania": "Bucharest",
    "Bulgaria": "Sofia",
    "Ukraine": "Kyiv",
    "Turkey": "Ankara",
    "Canada": "Ottawa",
    "Australia": "Canberra",
    "Brazil": "Brasília",
    "Peru": "Lima",
    "Chile": "Santiago",
    "Argentina": "Buenos Aires",
    "Colombia": "Bogotá",
    "Kenya": "Nairobi",
    "Ghana": "Accra",
    "Morocco": "Rabat",
    "China": "Beijing",
    "Thailand": "Bangkok",
    "Vietnam": "Hanoi",
    "India": "New Delhi",
    "Nepal": "Kathmandu",
    "Kazakhstan": "Astana",
    "Burkina Faso": "Ouagadougou",
    "Madagascar": "Antananarivo",
}
OPPOSITES = (
    "hot cold, big small, up down, day night, open closed, fast slow, rich poor, hard soft, young old, high low, "
    "full empty, near far, true false, wet dry, light dark, loud quiet, first last, early late, win lose, buy sell"
)
FRENCH = (
    "water eau, bread pain, house maison, dog chien, cat chat, book livre, red rouge, night nuit, friend ami, "
    "school école, tree arbre, sun soleil, moon lune, milk lait, fish poisson, hand main, head tête, king roi, "
    "snow neige, wind vent, butterfly papillon, squirrel écureuil, owl hibou, strawberry fraise, spoon cuillère, "
    "needle aiguille, hammer marteau, wheat blé, ladder échelle, candle bougie"
)
MORE_OPINIONS = {
    "positive": (
        "Absolutely delightful from start to end.",
        "The room was spotless and the view superb.",
        "My children ask for it every day.",
        "A masterpiece.",
        "Great value, and it came early.",
        "The best soup in town.",
        "I could not put the book down.",
        "It works exactly as promised.",
        "The singer was in wonderful voice.",
        "We will certainly come again.",
    ),
    "negative": (
        "The plot makes no sense at all.",
        "Cold coffee and a dirty table.",
        "It stopped working within an hour.",
        "Far too expensive for such poor quality.",
        "I fell asleep after ten minutes.",
        "The battery dies before noon.",
        "Nobody answered my three letters.",
        "The shoes hurt and the colour is wrong.",
        "A dull, endless film.",
        "Not worth the money, not funny, and not short.",
    ),
}
NAMES = [
    "Alice",
    "Boris",
    "Clara",
    "David",
    "Emma",
    "Felix",
    "Greta",
    "Henry",
    "Irene",
    "Jonas",
    "Karin",
    "Louis",
    "Maria",
    "Nils",
    "Olga",
    "Peter",
]
CITIES = [
    "Berlin",
    "Madrid",
    "Vienna",
    "Prague",
    "Zurich",
    "Milan",
    "Athens",
    "Warsaw",
    "Lyon",
    "Hamburg",
    "Seville",
    "Turin",
    "Ghent",
    "Bergen",
    "Cork",
]
TRADES = ("sells flowers", "builds boats", "teaches chess", "paints houses", "mends clocks", "bakes cakes")
CODE = {
    "len('apple')": "5",
    "max(3, 9, 4)": "9",
    "sum([1, 2, 3])": "6",
    "'abc'.upper()": "'ABC'",
    "10 // 3": "3",
    "7 % 4": "3",
    "2 ** 5": "32",
    "sorted([3, 1, 2])": "[1, 2, 3]",
    "'hello'[0]": "'h'",
    "'hello'[-1]": "'o'",
    "list(range(3))": "[0, 1, 2]",
    "min('b', 'a')": "'a'",
    "abs(-7)": "7",
    "bool([])": "False",
    "'a' in 'cat'": "True",
    "round(2.6)": "3",
    "'-'.join(['a', 'b'])": "'a-b'",
    "len({1, 1, 2})": "2",
    "[x * x for x in (1, 2, 3)]": "[1, 4, 9]",
    "'ab' * 2": "'abab'",
    "'banana'.count('a')": "3",
    "int('12') + 1": "13",
    "divmod(17, 5)": "(3, 2)",
    "'racecar'[::-1]": "'racecar'",
}


def mixed(seed: int = 0) -> list[Question]:
    """All three hundred, in an order of the seed."""
    draw = random.Random(seed)
    kinds = (
        *(_capitals(), _opposites(), _sums(draw), _products(draw), _sequences()),
        *(_opinions(), _places(draw), _words(), _code(), _taller(draw)),
    )
    found = [question for kind in kinds for question in kind]
    draw.shuffle(found)
    return found


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for pair in text.split(", "):
        first, second = pair.split()
        yield first, second


def _capitals() -> Iterator[Question]:
    shown = "Q: What is the capital of France?\nA: Paris\n\n"
    for land, city in {**CAPITALS, **MORE_CAPITALS}.items():
        yield Question(Task.CHAT, f"{shown}Q: What is the capital of {land}?\nA:", city)


def _opposites() -> Iterator[Question]:
    for word, other in _pairs(OPPOSITES):
        yield Question(Task.CHAT, f"The opposite of good is bad.\nThe opposite of {word} is", other)


def _sums(draw: random.Random) -> Iterator[Question]:
    for a, b in _different(draw, 34, 2, 20):
        yield Question(Task.REASONING, f"3 + 4 = 7\n8 + 5 = 13\n{a} + {b} =", str(a + b))


def _products(draw: random.Random) -> Iterator[Question]:
    for a, b in _different(draw, 36, 6, 30):
        yield Question(Task.REASONING, f"2 * 3 = 6\n12 * 5 = 60\n{a} * {b} =", str(a * b))


def _different(draw: random.Random, count: int, low: int, high: int) -> list[tuple[int, int]]:
    return draw.sample([(a, b) for a in range(low, high) for b in range(low, high)], count)


def _sequences() -> Iterator[Question]:
    for step in range(2, 14):
        shown = ", ".join(str(3 + step * at) for at in range(5))
        yield Question(Task.REASONING, f"10, 20, 30, 40, 50, 60\n{shown},", str(3 + step * 5))
    for base in range(2, 8):
        shown = ", ".join(str(base * 2**at) for at in range(5))
        yield Question(Task.REASONING, f"1, 3, 9, 27, 81, 243\n{shown},", str(base * 2**5))


def _opinions() -> Iterator[Question]:
    known = {**OPINIONS, **{text: label for label, texts in MORE_OPINIONS.items() for text in texts}}
    for text, label in known.items():
        yield Question(Task.CLASSIFY, f'Is this review positive or negative? "{text}" The review is', label)


def _places(draw: random.Random) -> Iterator[Question]:
    shown = "Text: Tom has a shop in Rome.\nCity: Rome\n\nText: Eva flew to Paris with Bob.\nCity: Paris\n\n"
    for text, city in PLACES.items():
        yield Question(Task.EXTRACT, f"{shown}Text: {text}\nCity:", city)
    for name in NAMES:
        city, other, trade = draw.choice(CITIES), draw.choice(NAMES), draw.choice(TRADES)
        text = f"{name} {trade} in {city} and has a friend called {other}."
        yield Question(Task.EXTRACT, f"{shown}Text: {text}\nCity:", city)
    for name in NAMES[:14]:
        year, trade = draw.randrange(1990, 2024), draw.choice(TRADES)
        shown_year = "Text: Tom opened a shop in 2001 with 3 friends.\nYear: 2001\n\n"
        text = f"Since {year}, {name} {trade} with {draw.randrange(2, 40)} others."
        yield Question(Task.EXTRACT, f"{shown_year}Text: {text}\nYear:", str(year))


def _words() -> Iterator[Question]:
    for english, french in _pairs(FRENCH):
        shown = "English: apple\nFrench: pomme\n\nEnglish: car\nFrench: voiture\n\n"
        yield Question(Task.TRANSLATE, f"{shown}English: {english}\nFrench:", french)


def _code() -> Iterator[Question]:
    for expression, value in CODE.items():
        yield Question(Task.CODE, f">>> 1 + 1\n2\n>>> 'a' + 'b'\n'ab'\n>>> {expression}\n", value)


def _taller(draw: random.Random) -> Iterator[Question]:
    shown = "Bob is taller than Ann. Ann is taller than Lee. The tallest is Bob.\n"
    for _ in range(28):
        first, second, third = draw.sample(NAMES, 3)
        facts = [f"{first} is taller than {second}.", f"{second} is taller than {third}."]
        draw.shuffle(facts)
        yield Question(Task.REASONING, f"{shown}{' '.join(facts)} The tallest is", first)
