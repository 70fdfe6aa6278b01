"""Small questions with checkable answers, by task; texts to go on from, so that a base model can answer, too."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from routing.facts import Task


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt that ends where the answer begins.

    ``right`` is what the answer must begin with, in any case and with or without accents.
    """

    task: Task
    prompt: str
    right: str

    def judge(self, answer: str) -> bool:
        """Whether an answer is right."""
        words, right = _plain(answer), _plain(self.right)
        return words.startswith(right) and not words[len(right) :][:1].isalnum()


def _plain(text: str) -> str:
    """Without case, accents and the space around it."""
    return "".join(
        c for c in unicodedata.normalize("NFKD", text.strip().casefold()) if not unicodedata.combining(c)
    )


CAPITALS = {
    "Italy": "Rome",
    "Spain": "Madrid",
    "Germany": "Berlin",
    "Japan": "Tokyo",
    "Egypt": "Cairo",
    "Russia": "Moscow",
    "England": "London",
    "Greece": "Athens",
    "Portugal": "Lisbon",
    "Austria": "Vienna",
    "Poland": "Warsaw",
    "Cuba": "Havana",
}
PRODUCTS = ((3, 4), (2, 6), (5, 5), (7, 3), (6, 6), (9, 2), (8, 4), (10, 7), (4, 4), (5, 9))
OPINIONS = {
    "I loved every minute of it.": "positive",
    "What a waste of time.": "negative",
    "The food was awful and cold.": "negative",
    "A wonderful, warm film.": "positive",
    "It broke after one day.": "negative",
    "Best purchase I ever made.": "positive",
    "The staff were rude.": "negative",
    "Simply brilliant.": "positive",
    "I want my money back.": "negative",
    "Everyone was kind and helpful.": "positive",
}
PLACES = {
    "Anna is 34 years old and lives in Oslo.": "Oslo",
    "Mr Brown moved to Chicago last spring.": "Chicago",
    "We met Lena at her house in Dublin.": "Dublin",
    "After school, Omar worked in Nairobi.": "Nairobi",
    "Kim left for Boston with two dogs.": "Boston",
    "The Silvas run a bakery in Porto.": "Porto",
    "Ravi teaches music in Delhi.": "Delhi",
    "In Geneva, Paul repairs old clocks.": "Geneva",
    "Sofia's flat in Naples is small.": "Naples",
    "Jan cycles through Utrecht each day.": "Utrecht",
}


def questions() -> tuple[Question, ...]:
    """All of them, task by task."""
    return (*_capitals(), *_products(), *_opinions(), *_places())


def _capitals() -> Iterator[Question]:
    for land, city in CAPITALS.items():
        shown = "Q: What is the capital of France?\nA: Paris\n\n"
        yield Question(Task.CHAT, f"{shown}Q: What is the capital of {land}?\nA:", city)


def _products() -> Iterator[Question]:
    for a, b in PRODUCTS:
        yield Question(Task.REASONING, f"2 * 3 = 6\n4 * 5 = 20\n{a} * {b} =", str(a * b))


def _opinions() -> Iterator[Question]:
    for text, label in OPINIONS.items():
        yield Question(Task.CLASSIFY, f'Is this review positive or negative? "{text}" The review is', label)


def _places() -> Iterator[Question]:
    for text, city in PLACES.items():
        shown = "Text: Tom has a shop in Rome.\nCity: Rome\n\nText: Eva flew to Paris with Bob.\nCity: Paris\n\n"
        yield Question(Task.EXTRACT, f"{shown}Text: {text}\nCity:", city)
