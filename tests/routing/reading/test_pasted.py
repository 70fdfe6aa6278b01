"""An instruction says the task, and not the document that is pasted before or after it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.wire.chat import ChatRequest
from routing.reading.ngrams import ends_of, parts_of
from routing.reading.requests import read_chat
from tests.routing.reading.labelled import share

PASTED = json.loads((Path(__file__).parent / "labelled" / "pasted.json").read_text(encoding="utf-8"))
"""Documents, and instructions with their tasks, by language; nothing was trained on them."""
NEWS = "The bridge was closed on Monday. " * 20


def pairs(language: str) -> Iterator[tuple[str, str]]:
    """Each instruction before and after each document, with its task."""
    for document in PASTED[language]["documents"]:
        for task, instruction in PASTED[language]["instructions"]:
            yield task, f"{instruction}\n\n{document}"
            yield task, f"{document}\n\n{instruction}"


def read(text: str) -> str:
    messages = [{"role": "user", "content": text}]
    return read_chat(ChatRequest.model_validate({"model": "auto", "messages": messages})).task.value


def test_the_tasks_of_instructions_with_documents_are_read() -> None:
    right = [read(text) == task for language in PASTED for task, text in pairs(language)]
    assert share(right) >= 0.72


@pytest.mark.parametrize("language", PASTED)
def test_a_document_does_not_decide_the_task_in_any_language(language: str) -> None:
    read_as = {(task, read(text)) for task, text in pairs(language)}
    assert len({told for _, told in read_as}) >= 4
    assert share(read(text) == task for task, text in pairs(language)) >= 0.45


WORDS = {
    "ar": [("translate", "ترجم"), ("summarise", "لخّص"), ("translate", "ترجمة"), ("extract", "استخرج")],
    "ja": [("translate", "翻訳して"), ("summarise", "要約して")],
    "zh": [("translate", "翻译"), ("summarise", "总结"), ("summarise", "摘要")],
    "en": [("translate", "Translate"), ("summarise", "TLDR"), ("extract", "Extract"), ("classify", "Classify")],
    "de": [("translate", "Übersetzen"), ("summarise", "Zusammenfassen")],
    "ko": [("summarise", "요약"), ("translate", "번역")],
}
"""Instructions of one word, with their tasks."""


@pytest.mark.parametrize("language", WORDS)
def test_one_word_beside_a_document_says_the_task(language: str) -> None:
    documents = PASTED.get(language, PASTED["en"])["documents"]
    asked = [
        (task, text)
        for task, word in WORDS[language]
        for document in documents
        for text in (f"{document}\n\n{word}", f"{word}\n\n{document}")
    ]
    assert share(read(text) == task for task, text in asked) >= 0.6


@pytest.mark.parametrize("word", ["Hi,", "Thanks!", "Hello there", "Bonjour,"])
def test_a_greeting_beside_a_document_says_nothing(word: str) -> None:
    for document in PASTED["en"]["documents"]:
        assert read(f"{word}\n\n{document}") not in ("translate", "extract")


def test_the_shorter_end_is_the_instruction() -> None:
    short = NEWS[:320]
    assert parts_of(f"Translate this:\n\n{short}") == ("Translate this:", short.strip())
    assert parts_of(f"{short}\n\nTranslate this.") == ("Translate this.", short.strip())
    assert parts_of("Two lines\nof one kind") is None
    assert parts_of(NEWS) is None


def test_the_instruction_is_read_first_wherever_it_stands() -> None:
    assert ends_of(f"{NEWS}\n\nTranslate this.") == ends_of(f"Translate this.\n\n{NEWS}")
