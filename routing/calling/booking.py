"""Books calls that were made without an attempt, such as a response that a provider began by itself."""

from __future__ import annotations

from typing import Any

from catalog.model import Model
from routing.accounts.costs import most_decoded, to_nano
from routing.accounts.windows import day_of
from routing.calling.context import AttemptContext
from routing.calling.job import Job
from routing.outcomes import Outcome, Result, Usage


def booked(context: AttemptContext, job: Job[Any], model: Model, usage: Usage, came: int = 0) -> Outcome:
    """Charge a call that is over, whatever is left of the caller's caps; returns its outcome.

    An answer without its usage is estimated by the tokens that came.
    """
    facts, spend = job.facts, context.spend
    cost, unknown = spend.cost(model.price, usage, facts.capability)
    estimate = spend.cost_so_far(model.price, facts, most_decoded(came, facts))
    if not usage.known:
        usage = Usage(input=facts.prompt_tokens, output=came, known=False)
    known = 0 if cost is None else to_nano(cost)
    open_part = bool(unknown) or cost is None
    rest = max(0, to_nano(estimate) - known) if open_part and estimate is not None else 0
    call = spend.reserve(key=facts.key, model=model.id, endpoint=model.endpoint_name, amount=estimate)
    call.day = day_of(now := spend.now())
    spend.charge(call, spend.counters_of(facts.key, now), None, known, rest, usage, unknown=open_part)
    return Outcome(
        trace=job.trace,
        attempt=1,
        model=model.id,
        endpoint=model.endpoint_name,
        facts=facts,
        result=Result.CANCELLED,
        at=context.clock.wall(),
        usage=usage,
        cost=cost,
        unknown_parts=unknown,
    )
