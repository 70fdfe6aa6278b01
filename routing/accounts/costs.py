"""Costs of calls in whole nano-dollars, from prices and usage.

Prices are dollars. A kind of usage whose price is missing is an unknown part of the cost; the other parts are
known. Whole nano-dollars neither drift nor depend on the order of addition.
"""

from __future__ import annotations

import math
from dataclasses import replace
from decimal import ROUND_HALF_EVEN, Decimal
from typing import NamedTuple

from catalog.model import UNITS, Capability, Price
from catalog.prices.rates import Rate, Rates
from routing.facts import Facts
from routing.outcomes import Usage, UsageDetails
from routing.state.protocol import NANO

PROMPT_MARGIN = 1.15
"""The error of an estimated prompt, as a factor; see :mod:`routing.reading.tokens`."""
SEARCHES = 5
"""Web searches assumed of an answer that may search, without a bound of the caller's."""
_PROMPT_OVERHEAD = 16
"""Tokens that a provider's template may add to any prompt."""
_OUTPUT_MARGIN = 1.25
"""The error of an output estimated by its characters, as a factor."""
_UNNOTICED = 16
"""Tokens that a provider decodes until it notices that its stream is closed: about a quarter of a second."""
_THOUGHT_PER_SECOND = 100
"""Tokens a second of reasoning that is not shown."""
_MILLION = 1_000_000
_UNITS = tuple(dict.fromkeys(UNITS.values()))
_NO_DETAILS = UsageDetails()
_PER_THOUSAND = NANO // 1_000
_EXACT_BELOW = 2.0**50
"""Nano-dollars (about a million dollars) below which the rounding error of a float is far less than a quarter."""


class Cost(NamedTuple):
    """The cost of a call: the known part in nano-dollars, and the parts whose price is unknown.

    ``nano`` is ``None`` if nothing of it is known. The parts are names of prices, ``tier NAME``, or ``usage``.
    """

    nano: int | None
    unknown_parts: tuple[str, ...] = ()

    @property
    def exact(self) -> int | None:
        """The whole cost in nano-dollars; ``None`` if a part is unknown."""
        return None if self.unknown_parts else self.nano


_FREE = Cost(0)
_NO_USAGE = Cost(None, ("usage",))


def to_nano(dollars: float) -> int:
    """Whole nano-dollars of a number as it is written: 0.1 is a tenth, not the float nearest to it."""
    scaled = dollars * NANO
    if scaled < _EXACT_BELOW and abs(scaled - (whole := round(scaled))) < 0.25:
        return whole  # not near a half, where the rounding error of the float would matter
    return int((Decimal(str(dollars)) * NANO).to_integral_value(ROUND_HALF_EVEN))


def cost_nano(price: Price, usage: Usage, capability: Capability | None = None) -> int | None:
    """The whole cost of a call in nano-dollars; ``None`` when the usage or a price that it needs is unknown."""
    return cost_of(price, usage, capability).exact


def cost_of(price: Price, usage: Usage, capability: Capability | None = None) -> Cost:
    """The cost of a call, by its length, tier of service and kinds of tokens.

    ``usage.input`` contains ``cached``, ``cache_write`` and the details of the prompt, ``usage.output`` contains
    ``reasoning`` and the details of the answer. Cached tokens count as text, as far as the prompt has text. Units
    are priced by the capability's unit; without a capability, by the only unit that has a price.
    """
    if not usage.known:
        return _FREE if price.free else _NO_USAGE
    card, details = price.rates, usage.details
    plain = card.plain if details is None and usage.input <= card.long_above else None
    if plain is not None and not (usage.cached or usage.cache_write or usage.units):
        return Cost(usage.input * plain[0] + usage.output * plain[1])
    unknown: list[str] = []
    if details is None:
        rates = card.standard if usage.input <= card.long_above else card.long
    else:
        rates, tiers = card.of(details.tiers, usage.input)
        unknown += [f"tier {tier}" for tier in tiers]
    tokens = _tokens(rates, usage, details, unknown)
    units: Decimal | None = None
    if usage.units or capability is Capability.VIDEO:  # one that failed has no second, and costs nothing
        counted = usage.input or usage.output
        if not (counted and rates.priced) or not _OF_ANSWERS.isdisjoint(unknown):
            units = _units(price, usage, capability)
        if units is not None:
            unknown = [part for part in unknown if rates.priced and part not in _OF_ANSWERS]
        elif capability in UNITS and not counted:
            unknown.append(UNITS[capability].field)
    tools = 0 if details is None else _tools(price, details, unknown)
    total = tokens + (units or 0) + tools
    if not total and (unknown or (units is None and not rates.priced)):
        return Cost(None, tuple(unknown) or ("price",))
    return Cost(total if isinstance(total, int) else int(total.to_integral_value(ROUND_HALF_EVEN)), tuple(unknown))


_OF_ANSWERS = frozenset({"output", "audio_output", "image_output"})
"""Parts that the price of a unit covers."""


def longest_prompt(estimate: int) -> int:
    """The tokens that a prompt with this estimate may have, where a limit must hold."""
    return math.ceil(estimate * PROMPT_MARGIN) + _PROMPT_OVERHEAD


def most_decoded(came: int, facts: Facts, thought: float = 0.0) -> int:
    """The output tokens that a provider may bill for an answer which was cut after an estimate of ``came``.

    It may have decoded some more until it noticed, and for ``thought`` seconds before the first token a reasoning
    model may have decoded what it does not show. The caller's bound holds for all of it.
    """
    tokens = math.ceil(came * _OUTPUT_MARGIN + thought * _THOUGHT_PER_SECOND) + _UNNOTICED
    return tokens if facts.output_tokens is None else min(tokens, facts.output_tokens * facts.choices)


def searches_of(price: Price, facts: Facts) -> int:
    """The web searches to reckon with for an answer: 0 if it may not search, and for a free model.

    They are the caller's bound, :data:`SEARCHES` without one. Without a price for them the cost is unknown.
    """
    if Capability.WEB_SEARCH not in facts.features or (price.web_search is None and price.free):
        return 0
    return SEARCHES if facts.searches is None else facts.searches


def has_sound(facts: Facts) -> bool:
    """Whether a prompt may be sound."""
    return facts.capability is Capability.REALTIME or Capability.AUDIO_INPUT in facts.features


def dearest_prompt(price: Price, facts: Facts) -> Usage:
    """The usage of the :func:`longest_prompt` of a request, all of whose tokens are of the kind that costs most.

    A token may be plain text, or written to a cache, for long too; of a prompt with sound or pictures it may be
    one of those. Sound without a price of its own stays an unknown part of the cost, as does text without one.
    """
    tokens = longest_prompt(facts.prompt_tokens) + facts.media_margin
    rates = price.rates.of((), tokens)[0]
    plain = math.inf if rates.input is None else rates.input
    written = max(rates.cache_write or 0, rates.cache_write_long or 0)
    drawn = (rates.image_input or 0) if Capability.VISION in facts.features else 0
    if has_sound(facts) and (rates.audio_input is None or rates.audio_input >= max(plain, written, drawn)):
        return Usage(tokens, details=UsageDetails(audio_input=tokens))
    if drawn > max(plain, written):
        return Usage(tokens, details=UsageDetails(image_input=tokens))
    if written > plain:
        for_long = tokens if written == rates.cache_write_long else 0
        return Usage(tokens, cache_write=tokens, details=UsageDetails(cache_write_long=for_long))
    return Usage(tokens)


def affordable_output(price: Price, facts: Facts, dollars: float) -> float | None:
    """The most output tokens with which a request costs at most ``dollars``; below 0 if its prompt costs more.

    The prompt's tokens are an estimate, which counts as :func:`longest_prompt`, each at the dearest that it may
    cost (:func:`dearest_prompt`). The service is the dearest that may answer, and it searches the web as often as
    :func:`searches_of` tells, and runs its containers. Infinite if the output is free, ``None`` if a price is
    unknown.
    """
    prompt = longest_prompt(facts.prompt_tokens) + facts.media_margin
    if price.rates.of(facts.tiers, prompt)[1] and not price.free:
        return None
    asked = dearest_prompt(price, facts)
    searches, containers = searches_of(price, facts), facts.containers
    if searches or containers:
        details = replace(asked.details or _NO_DETAILS, web_searches=searches, containers=containers)
        asked = replace(asked, details=details)
    alone = cost_nano(price, asked)
    with_million = cost_nano(price, replace(asked, output=_MILLION))
    if alone is None or with_million is None:
        return None
    room = to_nano(dollars / price.rates.dearest(facts.tiers)) - alone
    if with_million == alone:
        return math.inf if room >= 0 else -1
    return room * _MILLION // (with_million - alone)


def _tokens(rates: Rates, usage: Usage, details: UsageDetails | None, unknown: list[str]) -> int | Decimal:
    total: int | Decimal = 0
    for name, tokens, rate in _parts(rates, usage, details):
        if tokens:
            if rate is None:
                unknown.append(name)
            else:
                total += tokens * rate
    return total


def _parts(rates: Rates, usage: Usage, details: UsageDetails | None) -> tuple[tuple[str, int, Rate], ...]:
    if details is None:
        if not (usage.cached or usage.cache_write):
            return ("input", usage.input, rates.input), ("output", usage.output, rates.output)
        details = _NO_DETAILS
    # Sound and pictures without a price other than text's are text: the usage does not say which were cached.
    audio = 0 if rates.audio_input == rates.input else min(details.audio_input, usage.input)
    image = 0 if rates.image_input is None else min(details.image_input, usage.input - audio)
    text = usage.input - audio - image
    written = min(usage.cache_write, text)
    cached = min(usage.cached, text - written)
    long = min(details.cache_write_long, written)
    spoken = min(details.audio_output, usage.output)
    drawn = min(details.image_output, usage.output - spoken)
    return (
        ("input", text - written - cached, rates.input),
        ("cache_read", cached, rates.cache_read),
        ("cache_write", written - long, rates.cache_write),
        ("cache_write_long", long, rates.cache_write_long),
        ("audio_input", audio, rates.audio_input),
        ("image_input", image, rates.image_input),
        ("output", usage.output - spoken - drawn, rates.output),
        ("audio_output", spoken, rates.audio_output),
        ("image_output", drawn, rates.image_output),
    )


def _units(price: Price, usage: Usage, capability: Capability | None) -> Decimal | None:
    units = _UNITS if capability is None else tuple(filter(None, [UNITS.get(capability)]))
    rates = {Decimal(str(rate)) / per for name, per in units if (rate := getattr(price, name)) is not None}
    if len(rates) != 1:
        return None
    tiers = usage.details.tiers if capability is Capability.VIDEO and usage.details is not None else ()
    return Decimal(str(usage.units)) * rates.pop() * NANO * (price.rates.factor(tiers) if tiers else 1)


def _tools(price: Price, details: UsageDetails, unknown: list[str]) -> int | Decimal:
    total: int | Decimal = 0
    unknown += details.unpriced
    ran = (("web_search", details.web_searches, _PER_THOUSAND), ("container", details.containers, NANO))
    for name, count, per in ran:
        if count:
            dollars = getattr(price, name)
            if dollars is None:
                unknown.append(name)
            else:
                total += count * Decimal(str(dollars)) * per
    return total
