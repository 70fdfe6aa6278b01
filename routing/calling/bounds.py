"""Bounds the length of an answer by the limits on its cost and on its caller's tokens.

Such a limit holds only if the upstream itself ends the answer: it is sent a smaller ``max_tokens``, and the answer
ends with the finish reason ``length``. Callers read the bound in ``x-roundhouse-bound`` and in the trace.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

from backends.base import Upstream
from backends.wire.chat import ChatRequest, TranslatedChat
from backends.wire.common import WireModel
from backends.wire.responses import LEAST_OUTPUT
from catalog.errors import BudgetExceeded, PriceUnknown, UnsupportedParameter
from catalog.model import Capability, Model, Price
from catalog.types import Json
from routing.accounts.costs import PROMPT_MARGIN, SEARCHES, affordable_output, longest_prompt, searches_of
from routing.accounts.spend import Spend
from routing.facts import Facts

MAX_COST, CAP, SPENDING, KEY = "max_cost", "request_cap", "spending_cap", "key_tokens"
LIMITS = {
    MAX_COST: "routing.max_cost",
    CAP: "the spending cap of one request",
    SPENDING: "what is left of the spending cap",
    KEY: "the limit on this API key's tokens",
}
"""The limits that a bound can follow from, as they are named to callers."""
_OLDER, _NEWER, _RESPONSES = "max_tokens", "max_completion_tokens", "max_output_tokens"
BOUNDING = frozenset({_OLDER, _NEWER, _RESPONSES})
"""The names of an answer's bound in each API."""
SEARCH_BOUND = "web_search_options.max_uses"
_LONGEST = 131_072
"""Tokens of the longest answer of a model whose row names no limit. Servers refuse a bound beyond their own."""


_SHARE = 4
"""An answer without a bound gets this part of what is left of a cap, or the assumed length if that is more."""


class Bound(NamedTuple):
    """The most tokens of each choice of an answer, and the name of the limit that sets it."""

    tokens: int
    limit: str

    def __str__(self) -> str:
        return f"{_OLDER}={self.tokens}; {self.limit}"


def as_run(facts: Facts) -> Facts:
    """The facts of a call whose provider gets the caller's own request, with the tools that it runs for money."""
    paid = facts.paid
    features = facts.features if paid.searches == 0 else facts.features | {Capability.WEB_SEARCH}
    return replace(
        facts, features=features, searches=paid.searches, containers=paid.containers, uncounted=paid.others
    )


def check_counted(facts: Facts, dropped: tuple[str, ...], model: Model, spend: Spend) -> None:
    """Raises PriceUnknown if a limit on cost applies to tools or tiers of service whose cost is unknown.

    Raises UnsupportedParameter if ``max_cost`` relies on a bound on searches that the provider is not sent.
    """
    if model.price.free:
        return
    names = [name for name in facts.uncounted if name not in dropped]
    limited = bool(names or facts.tiers) and (facts.intent.max_cost is not None or _is_capped(facts, spend))
    tiers = model.price.rates.of(facts.tiers, facts.prompt_tokens)[1] if limited else ()
    if len(tiers) > len(_TIERED.intersection(dropped)):
        raise _unpriced(model, tiers)
    if names and limited:
        raise PriceUnknown(
            f"'{model.id}' may run {', '.join(names)[:200]}, whose cost cannot be told beforehand, and a limit on "
            "cost applies. Leave them out, or ask without the limit.",
            param="routing.max_cost" if facts.intent.max_cost is not None else "tools",
        )
    if facts.intent.max_cost is not None and SEARCH_BOUND in dropped and (facts.searches or SEARCHES) < SEARCHES:
        raise UnsupportedParameter(
            f"'{model.id}' takes no bound on its searches, so they cannot be held to routing.max_cost. Leave the "
            "bound out, or choose another model.",
            param=SEARCH_BOUND,
        )


_TIERED = frozenset({"service_tier", "speed", "inference_geo"})
"""The parameters that name tiers of service."""


def _unpriced(model: Model, tiers: tuple[str, ...]) -> PriceUnknown:
    return PriceUnknown(
        f"'{model.id}' has no price for {', '.join(tiers)[:200]} service, and a limit on cost applies. Leave "
        "'service_tier' out, or ask without the limit. The operator can give the price in the row's 'tiers'.",
        param="service_tier",
    )


def _is_capped(facts: Facts, spend: Spend) -> bool:
    if spend.unknown_price_allowed:
        return False
    return spend.request_cap(facts.key) is not None or spend.left(facts.key) is not None


def needs_search_bound(facts: Facts, price: Price, spend: Spend) -> bool:
    """Whether a limit on the cost of one request holds only if the provider gets a bound on its searches."""
    if Capability.WEB_SEARCH not in facts.features or facts.searches is not None or not searches_of(price, facts):
        return False
    return facts.intent.max_cost is not None or spend.request_cap(facts.key) is not None


def search_bounded(request: WireModel) -> WireModel:
    """The request with :data:`SEARCHES` as its bound on searches; a translation's own request has it, too."""
    if not isinstance(request, ChatRequest):
        return request
    changed = request
    if request.web_search_options is not None:
        options = request.web_search_options.model_copy(update={"max_uses": SEARCHES})
        changed = request.model_copy(update={"web_search_options": options})
    if isinstance(changed, TranslatedChat) and (own := changed.original) is not None:
        update: Json = {"max_tool_calls": SEARCHES}
        if own.wire == "messages":
            tools = getattr(own.request, "tools", None) or ()
            update = {"tools": [{**tool, "max_uses": SEARCHES} if _searches(tool) else tool for tool in tools]}
        return changed.with_original(replace(own, request=own.request.model_copy(update=update)))
    return changed


def _searches(tool: Json) -> bool:
    return str(tool.get("type")).startswith("web_search_") and tool.get("max_uses") is None


def bound_of(model: Model, facts: Facts, spend: Spend, given: Bound | None, spent: float = 0.0) -> Bound | None:
    """The lowest bound by ``max_cost``, the caps on spending and ``given``.

    ``spent`` are the dollars of earlier attempts at the request. ``None`` if the caller's own bound or the model's
    limits are lower. Raises PriceUnknown if a price is, BudgetExceeded and UnsupportedParameter if the prompt may
    cost as much as the limit.
    """
    if facts.tokens_only:
        return None
    most, limits, price = facts.intent.max_cost, [] if given is None else [given], spend.now_of(model.price)
    if facts.capability not in (Capability.CHAT, Capability.COMPLETION):
        if most is not None and facts.capability is Capability.REALTIME:
            _check_spoken(model, spend.estimate(model.price, facts, LONGEST_SPOKEN), most)
        if most is not None and spent:
            _check_rest(model, spend.estimate(model.price, facts), most, spent)
        return None
    if most is not None:
        limits += _by_cost(model, price, facts, most, MAX_COST, spent=spent, unknown_allowed=False)
    cap, left, allowed = spend.request_cap(facts.key), spend.left(facts.key), spend.unknown_price_allowed
    if cap is not None:
        limits += _by_cost(model, price, facts, cap, CAP, spent=spent, unknown_allowed=allowed)
    if left is not None and facts.output_tokens is None:
        whole = _by_cost(
            model, price, facts, left.dollars, SPENDING, unknown_allowed=allowed, retry_after=left.until
        )
        share = affordable_output(price, facts, left.dollars / _SHARE) or 0
        fair = max(spend.assumed, math.floor(share / facts.choices)) if whole else 0
        limits += (bound._replace(tokens=min(bound.tokens, fair)) for bound in whole)
    lowest = min(limits, default=None)
    if lowest is None or lowest.tokens >= _own_bound(model, facts):
        return None
    return lowest._replace(tokens=min(lowest.tokens, _room(model, facts)))


def reserved_answer(model: Model, facts: Facts, spend: Spend, bound: Bound | None) -> int | None:
    """Tokens of each choice of an answer without a bound of its caller's, for which money is reserved.

    Under a cap of a window they are all that it may become, so that answers in progress together never pass the
    cap. ``None``: as many as are assumed.
    """
    if facts.output_tokens is not None or facts.capability not in (Capability.CHAT, Capability.COMPLETION):
        return None
    if spend.left(facts.key) is None:
        return None if bound is None else min(bound.tokens, spend.assumed)
    return math.floor(_own_bound(model, facts)) if bound is None else bound.tokens


def usual_part(
    reserved: float | None, model: Model, facts: Facts, spend: Spend, bound: Bound | None
) -> float | None:
    """The dollars of an answer of the assumed length, of those that were reserved for the longest.

    Pictures, sound and videos are not of any length: all that was reserved counts.
    """
    if not reserved or facts.capability not in (Capability.CHAT, Capability.COMPLETION, Capability.REALTIME):
        return reserved
    assumed = spend.assumed if bound is None else min(spend.assumed, bound.tokens)
    return min(reserved, spend.estimate(model.price, facts, assumed) or reserved)


def most_asked(facts: Facts, bound: Bound | None) -> int | None:
    """The tokens of all choices beyond which a server ignored the bound on its answer; ``None`` without one."""
    if facts.capability not in (Capability.CHAT, Capability.COMPLETION):
        return None
    least = min((each for each in (facts.output_tokens, bound and bound.tokens) if each is not None), default=None)
    return None if least is None else (least + _ENDS) * facts.choices


_ENDS = 4
"""Tokens of an answer's end, which some servers count too."""


def _check_rest(model: Model, estimate: float | None, most: float, spent: float) -> None:
    """Raises UnsupportedParameter if a request may not be paid from what earlier attempts left of ``max_cost``."""
    if estimate is None or spent + estimate > most:
        raise UnsupportedParameter(
            f"The attempts before '{model.id}' have cost ${spent:.6f} of the ${most:.6f} allowed for this "
            "request, and the rest may not pay for another. Allow more.",
            param="routing.max_cost",
        )


def _check_spoken(model: Model, estimate: float | None, most: float) -> None:
    """Raises UnsupportedParameter for a response of a provider's session that may cost more than ``max_cost``."""
    if estimate is None or estimate > most:
        costs = "has an unknown price" if estimate is None else f"may cost ${estimate:.6f}"
        raise UnsupportedParameter(
            f"A response of '{model.id}' {costs}, and ${most:.6f} are allowed. Bound it with max_output_tokens, "
            "or allow more.",
            param="routing.max_cost",
        )


LONGEST_SPOKEN = 4096
"""Tokens of the longest response of a realtime model. Source: OpenAI's ``max_output_tokens`` of a session."""


def _by_cost(
    model: Model,
    price: Price,
    facts: Facts,
    dollars: float,
    limit: str,
    *,
    spent: float = 0.0,
    unknown_allowed: bool,
    retry_after: float | None = None,
) -> list[Bound]:
    tokens = affordable_output(price, facts, dollars - spent)
    if tokens is None:
        if unknown_allowed:
            return []
        tiers = price.rates.of(facts.tiers, facts.prompt_tokens)[1]
        if tiers and affordable_output(price, replace(facts, tiers=()), dollars) is not None:
            raise _unpriced(model, tiers)
        raise PriceUnknown(f"'{model.id}' cannot answer: {PriceUnknown.reason}.", param="model")
    each = tokens / facts.choices
    if each >= 1:
        return [] if math.isinf(each) else [Bound(math.floor(each), limit)]
    alone = f"The prompt{_beside(price, facts)} alone may cost more with '{model.id}' than the ${dollars:.6f} "
    before = f", of which earlier attempts have cost ${spent:.6f}" if spent else ""
    if limit == CAP:
        raise BudgetExceeded(f"{alone}that one request may cost{before}. Shorten it, or choose a cheaper model.")
    if limit == SPENDING:
        raise BudgetExceeded(
            f"{alone}that are left of the spending cap. Shorten it, or choose a cheaper model.",
            retry_after=retry_after,
        )
    raise UnsupportedParameter(
        f"{alone}allowed for this request{before}. Shorten it, allow more, or choose a cheaper model.",
        param="routing.max_cost",
    )


def _beside(price: Price, facts: Facts) -> str:
    """Parts of the prompt beside the caller's own text."""
    if Capability.WEB_SEARCH not in facts.features:
        return ""
    fee = searches_of(price, facts)
    return f" with what its web searches may read{f' and {fee} searches' if fee else ''}"


def _own_bound(model: Model, facts: Facts) -> float:
    """The most tokens of a choice by the caller's bound and the model's limits, beside the shortest prompt."""
    window, most = model.limits.context_window, model.limits.max_output_tokens
    room = math.inf if window is None else window - facts.prompt_tokens / PROMPT_MARGIN
    return min(room, most or _LONGEST, math.inf if facts.output_tokens is None else facts.output_tokens)


def _room(model: Model, facts: Facts) -> int:
    """Tokens that the context window surely has room for: some servers refuse a bound that it cannot hold."""
    window = model.limits.context_window
    sure = 0 if window is None else window - longest_prompt(facts.prompt_tokens)
    return sure if sure > 0 else _LONGEST


def bounded(request: WireModel, bound: Bound, upstream: Upstream) -> WireModel:
    """The request with this bound; if it is a translation, the caller's own request has it, too."""
    tokens = {_name(request, upstream): bound.tokens}
    if isinstance(request, TranslatedChat) and (own := request.original) is not None:
        name = _RESPONSES if own.wire == "responses" else _OLDER
        return request.with_original(
            replace(own, request=own.request.model_copy(update={name: bound.tokens}))
        ).model_copy(update=tokens)
    return request.model_copy(update=tokens)


def check_least(upstream: Upstream, bound: Bound | None, model: Model) -> None:
    """Raises UnsupportedParameter for a bound below the least that the server takes."""
    least = _least(upstream)
    if bound is not None and bound.tokens < least:
        raise UnsupportedParameter(
            f"'{model.id}' takes no bound below {least} tokens, and {LIMITS[bound.limit]} allows an answer of "
            f"{bound.tokens}. Allow more, shorten the prompt, or choose another model.",
            param="routing.max_cost" if bound.limit == MAX_COST else "max_tokens",
        )


def check_longest(model: Model, facts: Facts) -> None:
    """Raises UnsupportedParameter for a bound of the caller's beyond the longest answer of the model."""
    longest = model.limits.max_output_tokens
    if longest is None or facts.output_tokens is None or facts.output_tokens <= longest or facts.tokens_only:
        return
    if facts.capability in (Capability.CHAT, Capability.COMPLETION):
        raise UnsupportedParameter(
            f"max_tokens is too large: {facts.output_tokens}. '{model.id}' gives at most {longest} tokens; ask "
            "for no more, or choose another model.",
            param="max_tokens",
        )


def shortened(request: WireModel, model: Model) -> WireModel | None:
    """A request with the longest answer of the model as its bound; None if it needs none or has to be refused.

    A local model's answer ends there anyway. The Messages API demands a bound, and its agents send every model the
    same.
    """
    longest = model.limits.max_output_tokens
    if longest is None or not (model.local or _from_messages(request)):
        return None
    given = {name: getattr(request, name, None) for name in (_OLDER, _NEWER)}
    too_long = {name: longest for name, tokens in given.items() if tokens is not None and tokens > longest}
    return request.model_copy(update=too_long) if too_long else None


def _from_messages(request: WireModel) -> bool:
    own = request.original if isinstance(request, TranslatedChat) else None
    return own is not None and own.wire == "messages"


def as_sent(facts: Facts, target: Upstream | None) -> Facts:
    """The facts with the caller's bound as the server gets it: :data:`LEAST_OUTPUT` at least, if it wants that."""
    least = 0 if target is None else _least(target)
    return facts if (facts.output_tokens or math.inf) >= least else replace(facts, output_tokens=least)


def _least(upstream: Upstream) -> int:
    return LEAST_OUTPUT if upstream.wire == "responses" else 0


def check_taken(
    request: WireModel,
    dropped: tuple[str, ...],
    bound: Bound | None,
    facts: Facts,
    model: Model,
    upstream: Upstream,
) -> None:
    """Raises UnsupportedParameter if a limit needs a bound, also the caller's own, and the server is sent none.

    The caller's own bound below the least that the server takes is raised to that.
    """
    if bound is None and (facts.output_tokens or math.inf) < _least(upstream):
        return
    given = {name for name in (_OLDER, _NEWER) if getattr(request, name, None) is not None}
    if not {_OLDER, _NEWER}.intersection(dropped) or given.difference(dropped):  # one of two names is enough
        return
    if (bound is None and facts.intent.max_cost is None) or model.price.free:
        return
    limit = MAX_COST if bound is None else bound.limit
    raise UnsupportedParameter(
        f"'{model.id}' does not take max_tokens, so its answer cannot be held to {LIMITS[limit]}. "
        "Choose another model.",
        param="routing.max_cost" if limit == MAX_COST else "max_tokens",
    )


def _name(request: WireModel, upstream: Upstream) -> str:
    """The caller's own name of the bound, else the one that the model's row has, of the two that chats have."""
    taken = upstream.parameters
    if isinstance(request, ChatRequest) and request.max_completion_tokens is not None:
        return _NEWER
    return _NEWER if taken is not None and _OLDER not in taken and _NEWER in taken else _OLDER
