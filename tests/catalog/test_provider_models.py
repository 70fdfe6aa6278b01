"""The built-in rows are those of the providers: complete by the SDKs' lists, with the ends that these tell."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from fnmatch import fnmatchcase

import pytest

from catalog.catalog import Catalog
from catalog.curated.collection import curated
from catalog.model import Capability, Model, Price
from tests.catalog.provider_models import LEFT_OUT, announced, ended, listed, missing, wrong_ends
from tests.live.test_live import PROVIDERS

CHECKED = date(2026, 11, 30)
"""The day on which the rows were last compared with the providers' pages; a later one may find more."""


@pytest.fixture(scope="module")
def rows() -> Sequence[Model]:
    return Catalog.builtin().models()


def test_every_model_that_an_sdk_lists_has_a_row_or_a_reason(rows: Sequence[Model]) -> None:
    assert missing(rows, CHECKED) == {}


def test_every_reason_is_of_a_model_that_an_sdk_lists() -> None:
    names = {name for each in listed().values() for name in each}
    unused = [pattern for pattern in LEFT_OUT if not any(fnmatchcase(name, pattern) for name in names)]
    assert unused == []


def test_the_rows_have_the_ends_that_the_sdks_tell(rows: Sequence[Model]) -> None:
    assert wrong_ends(rows) == {}


def test_no_row_is_of_a_model_that_was_shut_down(rows: Sequence[Model]) -> None:
    assert ended(rows, CHECKED) == {}


def test_a_missing_row_and_a_wrong_end_are_found(rows: Sequence[Model]) -> None:
    less = [row for row in rows if row.id != "gpt-6.2-sol"]
    assert missing(less, CHECKED) == {"gpt-6.2-sol": "openai"}
    other = [row.model_copy(update={"ends": date(2030, 1, 1)}) for row in rows if row.id == "gpt-5-mini"]
    assert wrong_ends(other) == {"gpt-5-mini": (date(2030, 1, 1), date(2026, 12, 11))}
    assert ended(other, date(2030, 1, 1)) == {"gpt-5-mini": date(2030, 1, 1)}


@pytest.mark.parametrize(
    ("model", "day"),
    [
        ("gpt-5-mini", date(2026, 12, 11)),
        ("whisper-1", date(2027, 2, 26)),
        ("tts-1-hd", date(2027, 1, 6)),
        ("gpt-image-1", date(2026, 10, 23)),
        ("dall-e-3", date(2026, 5, 12)),
        ("claude-opus-4-5", date(2027, 1, 22)),
    ],
)
def test_the_ends_are_read_from_every_sdk(model: str, day: date) -> None:
    assert announced()[model] == day


def test_the_successor_of_a_row_is_a_row_that_does_the_same_and_stays_longer(rows: Sequence[Model]) -> None:
    known = {row.id: row for row in rows}
    for row in rows:
        if row.local and row.successor is not None and row.successor not in known:
            assert curated().find(row.successor) is not None, row.id
        elif row.successor is not None:
            successor = known[row.successor]
            assert row.endpoints <= successor.endpoints | {Capability.TRANSLATE}, row.id
            assert successor.ends is None or (row.ends is not None and successor.ends > row.ends), row.id


def test_a_row_of_each_kind_stays(rows: Sequence[Model]) -> None:
    kinds = {Capability.CHAT, Capability.TOOLS, Capability.EMBED, Capability.IMAGE, Capability.TRANSCRIBE}
    lasting = [row for row in rows if row.endpoint_name == "openai" and row.ends is None]
    assert kinds <= {capability for row in lasting for capability in row.capabilities}


def test_the_models_of_the_live_tests_have_rows_that_stay_for_a_month(rows: Sequence[Model]) -> None:
    staying = {row.id for row in rows if row.ends is None or (row.ends - CHECKED).days > 30}
    kinds = ("chat", "thinks", "searches", "embed", "speak", "transcribe", "image", "responses")
    asked = {
        name
        for live in PROVIDERS
        if not live.settings
        for kind in kinds
        if (name := getattr(live, kind)) is not None
    }
    assert asked <= staying


def test_only_named_rows_of_providers_have_no_price(rows: Sequence[Model]) -> None:
    assert [row.id for row in rows if not row.local and row.price == Price()] == [
        "scribe_v3",
        "gemini-omni-1.2-flash",
    ]
