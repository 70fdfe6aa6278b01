"""Fits a request to the upstream that gets it, and tells what that does not take."""

from __future__ import annotations

from typing import Any, NamedTuple

from backends.adapting.efforts import is_silent_on_effort
from backends.adapting.marks import with_own_reasoning
from backends.base import Backend, Upstream
from backends.constraints.request import FIELDS as FORMS
from backends.native import original_for
from backends.translation import BOOKKEEPING
from catalog.errors import UnsupportedParameter
from catalog.model import Model
from routing.accounts.spend import Spend
from routing.calling.bounds import (
    BOUNDING,
    SEARCH_BOUND,
    Bound,
    bounded,
    check_counted,
    check_least,
    check_longest,
    check_taken,
    needs_search_bound,
    search_bounded,
    shortened,
)
from routing.calling.job import Job
from routing.choosing.effort import MUCH, ROOM
from routing.facts import Facts
from routing.plan import Candidate

_RESTATED = BOUNDING | {*FORMS}
"""Fields of chats that other APIs have by names of their own."""


class Fitted(NamedTuple):
    """The request as the upstream gets it, and the names of what is left out of it.

    ``effort`` is the reasoning effort that it asks for by the router's choice.
    """

    request: Any
    dropped: tuple[str, ...]
    effort: str | None


def fit(
    job: Job[Any],
    candidate: Candidate,
    bound: Bound | None,
    spend: Spend,
    backend: Backend,
    upstream: Upstream,
    facts: Facts,
) -> Fitted:
    """The request of a job for one candidate, within ``bound``; ``facts`` as its upstream runs it.

    Raises UnsupportedParameter for a limit on cost or tokens that cannot be kept, and InvalidRequest.
    """
    request, model = job.request, candidate.model
    if bound is not None:
        check_least(upstream, bound, model)
        request = bounded(request, bound, upstream)
    request, foreign = with_own_reasoning(request, model.id)
    translated = original_for(backend, request, upstream) is None
    silent = translated and is_silent_on_effort(request)
    effort = _within(candidate.effort, bound) if silent else None
    if effort is not None:
        request = request.model_copy(update={"reasoning_effort": effort})
    if needs_search_bound(facts, model.price, spend):
        held = search_bounded(request)
        if not translated or SEARCH_BOUND not in backend.dropped(held, upstream):
            request = held
    dropped = unsent = backend.dropped(request, upstream)
    if effort is not None:  # the nearest that the model has is as good
        dropped = tuple(name for name in dropped if name != "reasoning_effort")
    shorter = shortened(request, model) if translated else None
    if shorter is not None:
        request = shorter
    elif translated:
        check_longest(model, facts)
    if translated:
        dropped = job.left_out + dropped + ("input.reasoning",) * foreign
    if facts.uncounted or facts.tiers or (facts.searches is not None and translated):
        check_counted(facts, dropped, model, spend)
    dropped = job.without_kept(dropped)
    if unsent:
        check_taken(request, unsent, bound, job.facts, model, upstream)
    if shorter is not None:
        dropped += ("max_tokens",)
    return Fitted(request, dropped, effort)


def _within(effort: str | None, bound: Bound | None) -> str | None:
    """The effort, or ``None`` for much of it in an answer that a limit on cost or tokens leaves no room for."""
    return None if effort == MUCH and bound is not None and bound.tokens < ROOM else effort


def refuse_lost(dropped: tuple[str, ...], job: Job[Any], model: Model) -> None:
    """Raises UnsupportedParameter for a dropped form of the answer; under ``strict``, for all else, too."""
    if job.facts.intent.strict and (lost := [name for name in dropped if name not in BOOKKEEPING]):
        _refuse_foreign(lost[0], job)
        raise UnsupportedParameter(
            f"'{model.id}' cannot honour: {', '.join(lost)}. Remove them, or do not ask for strict.",
            param=lost[0],
        )
    form = next((name for name in dropped if name in FORMS), None)
    if form is not None:
        _refuse_foreign(form, job)
        raise UnsupportedParameter(
            f"'{model.id}' cannot give its answer the form that {form} asks for. Remove it, or choose "
            "another model.",
            param=form,
        )


def _refuse_foreign(name: str, job: Job[Any]) -> None:
    """Raises UnsupportedParameter, which blames no model, for a chat's field in a request of another API."""
    if name in job.left_out and name in _RESTATED:
        raise UnsupportedParameter(
            f"'{name}' is a field of chats, not of this API. Remove it, or use this API's own field for it.",
            param=name,
        )
