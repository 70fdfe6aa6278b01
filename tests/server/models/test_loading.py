"""Errors of a load's options name the field that gave them."""

from __future__ import annotations

import pytest

from backends.workers.engines.registry import builtin_engines
from catalog.catalog import Catalog
from catalog.errors import InvalidRequest, UnsupportedParameter
from catalog.store.settings import ModelSettings
from server.models.guard import RowGuard
from server.models.loading import load_options, named_as_given


def load(**given: object) -> InvalidRequest:
    """The refusal of a load of a chat model with these fields, of which the rest is not given."""
    row = Catalog.load().resolve("smollm2-135m-instruct")
    fields = dict.fromkeys(("context", "slots", "kv_cache", "quantization", "options")) | given
    options = load_options(row, **fields)
    assert options
    guard = RowGuard(ModelSettings(), builtin_engines(), at_home=True)
    chosen = row.model_copy(update={"options": {**row.options, **options}})
    with pytest.raises(InvalidRequest) as refused:  # noqa: SIM117 - the error is that of the inner one
        with named_as_given(row, kv_cache=fields["kv_cache"], quantization=None):
            guard.check_options(chosen, options)
    return refused.value


def test_a_wrong_number_format_of_the_cache_is_the_field_kv_caches() -> None:
    error = load(kv_cache="q99")
    assert error.param == "kv_cache"
    assert error.message.startswith("'kv_cache': it must be ")
    assert "cache_type_k" not in error.message


@pytest.mark.parametrize("name", ["kokoro", "doodle", "all-minilm-l6-v2"])
def test_a_context_is_refused_where_the_engine_has_none(name: str) -> None:
    row = Catalog.load().resolve(name)
    guard = RowGuard(ModelSettings(), builtin_engines(), at_home=True)
    with pytest.raises(UnsupportedParameter, match="llamacpp") as refused:
        guard.check_context(row.model_copy(update={"options": {**row.options, "context": 128}}))
    assert refused.value.param == "context"
    guard.check_context(row)
    chat = Catalog.load().resolve("smollm2-135m-instruct")
    guard.check_context(chat.model_copy(update={"options": {"context": 128}}))


def test_a_context_is_told_as_the_engine_rounds_it() -> None:
    chat = Catalog.load().resolve("smollm2-135m-instruct")
    engines = builtin_engines()
    for asked, held in ((128, 256), (300, 512), (512, 512)):
        assert engines.context(chat.model_copy(update={"options": {"context": asked}}), 8192) == held


def test_the_engines_own_option_keeps_its_name() -> None:
    error = load(options={"cache_type_k": "q99"})
    assert error.param == "options.cache_type_k"
    assert error.message.startswith("Option 'cache_type_k' of engine llamacpp: ")
