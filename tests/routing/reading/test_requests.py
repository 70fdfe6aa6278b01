"""A request is read once, into facts that hold in every language."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from backends.wire.audio import SpeechRequest, TranscriptionRequest
from backends.wire.chat import ChatRequest, Message
from backends.wire.classify import ClassifyRequest
from backends.wire.completions import CompletionRequest
from backends.wire.embeddings import EmbeddingRequest
from backends.wire.images import ImageRequest
from backends.wire.rerank import RerankRequest
from backends.wire.schema import check_pattern
from backends.wire.tokens import DetokenizeRequest, TokenizeRequest
from catalog.errors import InvalidRequest
from catalog.model import Capability
from routing.calling.watching.usage import MOST_TOKENS, most_prompt_tokens
from routing.facts import Complexity, Facts, Mode, Task, Workload
from routing.reading import requests as read
from routing.reading import shape
from routing.reading.requests import read_chat
from routing.reading.tokens import estimate_tokens
from tests.work import counted_calls


def chat(content: Any = "Hello", **fields: Any) -> ChatRequest:
    return ChatRequest.model_validate(
        {"model": "auto", "messages": [{"role": "user", "content": content}], **fields}
    )


def facts(content: Any = "Hello", **fields: Any) -> Facts:
    return read_chat(chat(content, **fields))


SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}, "born": {"type": "integer"}}}
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
IMAGE = [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]
LABELS = {"type": "object", "properties": {"label": {"enum": ["good", "bad"]}}}


def wanted(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}


@pytest.mark.parametrize(
    ("request_", "feature", "task"),
    [
        (chat(tools=[FUNCTION]), Capability.TOOLS, Task.TOOL_USE),
        (chat(response_format=wanted(SCHEMA)), Capability.JSON_SCHEMA, Task.EXTRACT),
        (chat(response_format=wanted(LABELS)), Capability.JSON_SCHEMA, Task.CLASSIFY),
        (chat(IMAGE), Capability.VISION, Task.VISION),
        (chat(web_search_options={}), Capability.WEB_SEARCH, Task.CHAT),
        (
            chat([{"type": "input_audio", "input_audio": {"data": "AAAA" * 9000}}]),
            Capability.AUDIO_INPUT,
            Task.CHAT,
        ),
        (chat([{"type": "file", "file": {"file_id": "f"}}]), Capability.DOCUMENTS, Task.CHAT),
        (
            chat([{"type": "video_url", "video_url": {"url": "https://x.org/a.mp4"}}]),
            Capability.VIDEO_INPUT,
            Task.VISION,
        ),
    ],
)
def test_what_a_chat_carries_is_what_a_model_must_be_able_to_take(
    request_: ChatRequest, feature: Capability, task: Task
) -> None:
    seen = read_chat(request_)
    assert feature in seen.features
    assert seen.task is task
    assert seen.prompt_tokens > facts().prompt_tokens


CODE = "def area(r):\n    if r < 0:\n        raise ValueError(r)\n    return 3.14 * r * r\n"
STORY = "The old lighthouse keeper walked down to the shore every morning before the sun rose. " * 40


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("What is the capital of France?", Task.CHAT),
        ("法国的首都是哪里\uff1f", Task.CHAT),
        ("```python\nx = 1\n```\nWhy?", Task.CODE),
        (f"Was ist hier falsch?\n\n{CODE}", Task.CODE),
        ("何が間違っていますか\n\n" + CODE, Task.CODE),
        ("17 * 23 + 4 = ? 3 - 1 = ?", Task.MATHS),
        ("Сколько будет 12 + 7 - 3 * 4?", Task.MATHS),
        (f"Fasse zusammen:\n\n{STORY}", Task.SUMMARISE),
        (f"{STORY}\n\nلخص هذا النص", Task.SUMMARISE),
    ],
)
def test_the_task_is_seen_in_the_structure_in_any_language(text: str, task: Task) -> None:
    assert facts(text).task is task


def test_complexity_grows_with_length_lists_tools_and_turns() -> None:
    assert facts("Hi").complexity is Complexity.SIMPLE
    assert facts(f"Why?\n{CODE}").complexity is Complexity.MEDIUM
    assert facts(STORY[:1400]).complexity is Complexity.MEDIUM
    items = "\n".join(f"{number}. {STORY[:200]}" for number in range(1, 9))
    many = [{**FUNCTION, "function": {"name": f"f{n}", "parameters": SCHEMA}} for n in range(8)]
    assert facts(items, tools=many).complexity is Complexity.COMPLEX


def test_the_callers_own_word_about_the_task_wins() -> None:
    assert facts("Hi", routing={"task": "reasoning"}).task is Task.REASONING


def test_wishes_come_from_the_name_the_headers_and_the_body_and_the_body_wins() -> None:
    assert read_chat(chat().model_copy(update={"model": "AUTO:Fast"})).intent.mode is Mode.FAST
    headers = {
        "X-Roundhouse-Mode": "cheap",
        "x-roundhouse-max-cost": "0.01",
        "x-roundhouse-local-only": "true",
        "x-roundhouse-exclude": "a, b",
        "content-type": "application/json",
    }
    read_ = read_chat(chat(routing={"mode": "best", "workload": "batch"}), headers).intent
    assert read_.mode is Mode.BEST
    assert read_.workload is Workload.BATCH
    assert read_.max_cost == 0.01
    assert read_.local_only
    assert read_.exclude == {"a", "b"}


@pytest.mark.parametrize(
    ("name", "header", "body", "mode", "local"),
    [
        ("auto:local", "best", None, Mode.BEST, True),
        ("auto:local", None, "best", Mode.BEST, True),
        ("auto:local", None, "auto", Mode.LOCAL, True),
        ("auto:best", "local", None, Mode.BEST, True),
        ("auto:best", None, "local", Mode.BEST, True),
        ("auto", "local", "cheap", Mode.CHEAP, True),
        ("auto", "local", "auto", Mode.LOCAL, True),
        ("auto:fast", "auto", None, Mode.FAST, False),
        ("auto:fast", None, "fast", Mode.FAST, False),
        ("auto", "best", "cheap", Mode.CHEAP, False),
        ("auto:cheap", "best", "cheap", Mode.CHEAP, False),
        ("parrot", "local", None, Mode.LOCAL, True),
    ],
)
def test_local_holds_wherever_it_is_said(
    name: str, header: str | None, body: str | None, mode: Mode, local: bool
) -> None:
    asked = chat(**({} if body is None else {"routing": {"mode": body}})).model_copy(update={"model": name})
    intent = read_chat(asked, {} if header is None else {"x-roundhouse-mode": header}).intent
    assert (intent.mode, intent.local_only) == (mode, local)


@pytest.mark.parametrize(("name", "mode"), [("auto:cheap", "best"), ("auto:fast", "cheap"), ("auto:best", "fast")])
def test_a_mode_that_contradicts_that_of_the_name_is_refused(name: str, mode: str) -> None:
    for routing, headers in (({"mode": mode}, {}), ({}, {"x-roundhouse-mode": mode})):
        asked = chat(routing=routing).model_copy(update={"model": name})
        with pytest.raises(InvalidRequest, match=f"'{name}' and the mode '{mode}'"):
            read_chat(asked, headers)


def test_of_two_limits_in_the_header_and_the_body_the_stricter_holds() -> None:
    headers = {
        "x-roundhouse-max-cost": "0.01",
        "x-roundhouse-local-only": "true",
        "x-roundhouse-exclude": "a",
        "x-roundhouse-tags": "eu",
        "x-roundhouse-require": "reasoning",
        "x-roundhouse-task": "code",
    }
    limits = {"max_cost": 5, "local_only": False, "exclude": ["b"], "tags": ["gdpr"], "task": "chat"}
    intent = read_chat(chat(routing=limits), headers).intent
    assert (intent.max_cost, intent.local_only) == (0.01, True)
    assert intent.exclude == {"a", "b"}
    assert intent.tags == {"eu", "gdpr"}
    assert intent.require == {Capability.REASONING}
    assert intent.task is Task.CHAT, "a preference of the body goes before that of a header"
    assert read_chat(chat(routing={"max_cost": 0.001}), headers).intent.max_cost == 0.001
    assert read_chat(chat(routing={"max_cost": None}), headers).intent.max_cost == 0.01


@pytest.mark.parametrize(
    ("routing", "headers", "param"),
    [
        ({"moode": "fast"}, {}, "routing.moode"),
        ({"mode": "quick"}, {}, "routing.mode"),
        ({"max_cost": -1}, {}, "routing.max_cost"),
        ({"max_cost": float("nan")}, {}, "routing.max_cost"),
        ("fast", {}, "routing"),
        (None, {"x-roundhouse-modee": "fast"}, "x-roundhouse-modee"),
        (None, {"x-roundhouse-task": "dance"}, "x-roundhouse-task"),
    ],
)
def test_an_unknown_wish_is_refused_and_named(routing: Any, headers: dict[str, str], param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        read_chat(chat(routing=routing) if routing is not None else chat(), headers)
    assert raised.value.param == param


def test_headers_of_an_earlier_answer_say_nothing_when_they_come_back() -> None:
    echoed = dict.fromkeys(("trace", "model", "reason", "attempts", "dropped"), "any")
    headers = {f"X-Roundhouse-{name}": value for name, value in echoed.items()}
    assert read_chat(chat(), headers).intent == read_chat(chat()).intent


def test_an_unknown_way_to_choose_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="auto:fast"):
        read_chat(chat().model_copy(update={"model": "auto:quick"}))


def test_the_same_prompt_has_the_same_digest_and_no_part_of_the_prompt() -> None:
    assert facts("secret").prompt_digest == facts("secret", temperature=1.0).prompt_digest
    assert facts("secret").prompt_digest != facts("secreu").prompt_digest
    assert "secret" not in repr(facts("secret"))


@pytest.mark.parametrize(
    ("fields", "choices"),
    [
        ({"prompt": "a"}, 1),
        ({"prompt": [1, 2, 3], "n": 2}, 2),
        ({"prompt": ["a", "b"], "n": 2, "best_of": 3}, 6),
        ({"prompt": [[1], [2], [3]]}, 3),
    ],
)
def test_every_answer_that_is_paid_for_counts(fields: dict[str, Any], choices: int) -> None:
    assert read.read_completion(CompletionRequest(model="m", **fields)).choices == choices
    assert read_chat(chat(n=5)).choices == 5
    assert read_chat(chat()).choices == 1


def test_every_endpoint_has_its_facts() -> None:
    completion = read.read_completion(CompletionRequest(model="m", prompt=[1, 2, 3], max_tokens=7))
    assert (completion.capability, completion.prompt_tokens, completion.output_tokens) == (
        Capability.COMPLETION,
        3,
        7,
    )
    embedding = read.read_embedding(EmbeddingRequest(model="m", input=["a b", "c d"]))
    assert (embedding.capability, embedding.task, embedding.units) == (Capability.EMBED, Task.EMBED, 2)
    rerank = read.read_rerank(RerankRequest(model="m", query="q", documents=["a", {"text": "b"}]))
    assert (rerank.capability, rerank.units, rerank.prompt_tokens) == (Capability.RERANK, 1, 4)
    labelled = read.read_classification(ClassifyRequest(model="m", input=["x", "y"], labels=["a", "b"]))
    assert (labelled.capability, labelled.task, labelled.units, labelled.prompt_tokens) == (
        Capability.CLASSIFY,
        Task.CLASSIFY,
        2,
        4,
    )
    heard = read.read_transcription(TranscriptionRequest(model="m", file=bytes(480_000), translate=True))
    assert (heard.capability, heard.units, heard.languages) == (Capability.TRANSLATE, 1.0, frozenset())
    spoken = read.read_speech(SpeechRequest(model="m", input="hello"), {"x-roundhouse-local-only": "1"})
    assert (spoken.capability, spoken.units, spoken.intent.local_only) == (Capability.SPEAK, 5.0, True)
    drawn = read.read_image(ImageRequest(model="m", prompt="a cat", n=3))
    assert (drawn.capability, drawn.units) == (Capability.IMAGE, 3.0)
    assert (
        read.read_image(ImageRequest(model="m", prompt="a cat " * 500)).prompt_tokens
        > 500
        > drawn.prompt_tokens
        > 0
    )
    split = read.read_tokens(TokenizeRequest(content="a b c"))
    joined = read.read_tokens(DetokenizeRequest(tokens=[1, 2]))
    assert split.tokens_only
    assert joined.prompt_tokens == 2


def test_languages_of_speech_are_read_without_regions_and_in_two_letters() -> None:
    asked = TranscriptionRequest(model="m", file=b"x", language="pt-BR", languages=("DEU", "haw", "en"))
    assert read.read_transcription(asked).languages == {"pt", "de", "haw", "en"}


def test_parameters_are_those_that_the_caller_set() -> None:
    assert facts(temperature=0.1, seed=4).parameters == {"temperature", "seed"}


class CountedText(str):
    """A text that counts the characters which its methods and slices read."""

    read: int

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("__") and name != "read":
            self.read += len(self)
        return super().__getattribute__(name)

    def __iter__(self) -> Iterator[str]:
        self.read += len(self)
        return super().__iter__()

    def __getitem__(self, key: Any) -> str:
        part = super().__getitem__(key)
        self.read += len(part)
        return part


class CountedPattern:
    """A regular expression that counts the characters of what it searches."""

    searched = 0

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self._pattern = pattern

    def __getattr__(self, name: str) -> Any:
        def search(text: str, *rest: Any) -> Any:
            CountedPattern.searched += len(text)
            return getattr(self._pattern, name)(text, *rest)

        return search


def work_of_reading(text: str) -> tuple[int, int, int]:
    """Characters read (beyond once each, for the digest), characters searched by patterns, and function calls."""
    counted = CountedText(text)
    counted.read = 0
    asked = chat().model_copy(update={"messages": [Message.model_construct(role="user", content=counted)]})
    CountedPattern.searched = 0
    with counted_calls() as calls:
        read_chat(asked)
    return counted.read - len(text), CountedPattern.searched, calls.number


@pytest.mark.parametrize(
    "text", ["word " * 210_000, "日本語のとても長い文章です。" * 75_000, "([{" * 350_000, "\n" * 1_000_000]
)
def test_the_work_of_reading_a_prompt_does_not_grow_with_it_but_for_its_digest(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_chat(chat(text))
    for pattern in [name for name, value in vars(shape).items() if isinstance(value, re.Pattern)]:
        monkeypatch.setattr(shape, pattern, CountedPattern(getattr(shape, pattern)))
    read, searched, calls = work_of_reading(text)
    assert read <= 100_000, "a sample and the head"
    assert searched <= 100_000, "the head, by each pattern"
    assert calls <= 500
    assert work_of_reading(text[: len(text) // 2]) == (read, searched, calls)


def test_no_pattern_takes_more_than_a_pass_over_a_prompt() -> None:
    patterns = [value for value in vars(shape).values() if isinstance(value, re.Pattern)]
    assert patterns
    for pattern in patterns:
        check_pattern(pattern.pattern)


def test_a_long_text_is_sampled_and_estimated_alike() -> None:
    text = STORY * 300
    assert estimate_tokens(text) == pytest.approx(300 * estimate_tokens(STORY), rel=0.03)


def test_lone_surrogates_do_not_break_anything() -> None:
    assert estimate_tokens("\ud800 abc") > 0


@pytest.mark.parametrize(
    ("extra", "hosted"),
    [
        ({}, False),
        ({"store": False}, False),
        ({"web_search_options": {}}, True),
        ({"plugins": []}, True),
        ({"plugins": [{"id": "web"}]}, True),
    ],
)
def test_a_request_that_the_provider_may_search_for_is_told_apart(extra: dict[str, Any], hosted: bool) -> None:
    body = ChatRequest.model_validate({"messages": [{"role": "user", "content": "hi"}], **extra})
    assert (most_prompt_tokens(read_chat(body)) == MOST_TOKENS) is hosted


def test_the_results_of_a_search_are_read_and_paid_but_make_no_question_harder() -> None:
    plain, searched = facts("How fast is a fox?"), facts("How fast is a fox?", web_search_options={})
    assert searched.prompt_tokens > plain.prompt_tokens + 1000
    assert searched.complexity is plain.complexity is Complexity.SIMPLE


@pytest.mark.parametrize(
    "field", [{"max_cost": 0.3}, {"local_only": True}, {"tags": ["eu"]}, {"mode": "cheap"}, {"task": "code"}]
)
def test_a_field_of_routing_among_the_bodys_own_is_refused_with_its_place(field: dict[str, Any]) -> None:
    (name,) = field
    embedding = EmbeddingRequest.model_validate({"model": "m", "input": "x", **field})
    misreads: tuple[Callable[[], Facts], ...] = (lambda: facts(**field), lambda: read.read_embedding(embedding))
    for misread in misreads:
        with pytest.raises(InvalidRequest, match=f"'{name}' belongs in 'routing'") as refused:
            misread()
        assert refused.value.param == name
    assert facts(routing=field)


def test_a_servers_own_field_of_the_same_name_passes() -> None:
    assert facts(task="retrieval.query", mode="turbo", max_cost=None)
