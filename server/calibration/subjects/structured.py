"""Extraction to a schema, the choice of a tool, and classification."""

from __future__ import annotations

import json
import re
from random import Random
from typing import Any

from catalog.model import Capability
from catalog.types import Json
from server.calibration.examinee import Examinee

_PEOPLE = ("Ada Marsh", "Ben Okafor", "Cleo Lindt", "Dan Petrov", "Eva Sato")
_CITIES = ("Paris", "Oslo", "Lima", "Cairo", "Kyoto")
_THINGS = ("lamps", "chairs", "notebooks", "kettles")
_OBJECT = re.compile(r"\{.*\}", re.DOTALL)


def order(dice: Random) -> tuple[str, Json]:
    """A text about an order, and the fields in it."""
    person, city, thing = dice.choice(_PEOPLE), dice.choice(_CITIES), dice.choice(_THINGS)
    count, price = dice.randint(2, 9), dice.randint(10, 99)
    text = dice.choice(
        (
            f"{person} from {city} ordered {count} {thing} at {price} euros each.",
            f"Please send {count} {thing} ({price} euros a piece) to {person}, who lives in {city}.",
            f"We spoke with {person} in {city} today: the order is for {count} {thing}, {price} euros per item.",
        )
    )
    return text, {"name": person, "city": city, "item": thing, "quantity": count, "unit_price": price}


def schema_of(fields: Json) -> Json:
    """The JSON schema of such fields."""
    kinds = {name: {"type": "integer" if isinstance(value, int) else "string"} for name, value in fields.items()}
    return {"type": "object", "properties": kinds, "required": list(kinds), "additionalProperties": False}


def object_in(text: str) -> Json:
    """The JSON object of a text; empty if there is none."""
    found = _OBJECT.search(text)
    try:
        value = json.loads(found.group()) if found else {}
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def share_of_fields(told: Json, right: Json) -> float:
    """The share of the fields that are right; strings compare without regard to case."""
    return sum(_same(told.get(name), value) for name, value in right.items()) / len(right)


def _same(told: Any, right: Any) -> bool:
    if isinstance(right, str) and isinstance(told, str):
        return told.strip().casefold() == right.casefold()
    return not isinstance(told, bool) and bool(told == right)


async def extraction(dice: Random, model: Examinee) -> float:
    """Extract five fields, by a JSON schema where the model takes one."""
    text, right = order(dice)
    prompt = f"Extract the fields {', '.join(right)} from this text as one JSON object: {text}"
    if Capability.JSON_SCHEMA in model.row.capabilities:
        schema = {"name": "order", "schema": schema_of(right), "strict": True}
        told = await model.text(prompt, tokens=160, response_format={"type": "json_schema", "json_schema": schema})
    else:
        told = await model.text(f"{prompt}\nQuantity and unit_price are whole numbers.", tokens=160)
    return share_of_fields(object_in(told), right)


def _tool(name: str, told: str, **parameters: str) -> Json:
    properties = {each: {"type": kind} for each, kind in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"type": "function", "function": {"name": name, "description": told, "parameters": schema}}


TOOLS: tuple[Json, ...] = (
    _tool("get_weather", "The weather in a city now", city="string"),
    _tool("convert_currency", "Converts an amount of US dollars to euros", amount="number"),
    _tool("set_timer", "Starts a timer", minutes="number"),
    _tool("translate_word", "Translates an English word to French", word="string"),
)


def call(dice: Random) -> tuple[str, str | None, Json]:
    """A prompt, the tool that it calls for (``None``: none), and the arguments."""
    kind = dice.randrange(5)
    if kind == 0:
        city = dice.choice(_CITIES)
        return f"Do I need an umbrella in {city} right now?", "get_weather", {"city": city}
    if kind == 1:
        amount = dice.randint(11, 99)
        return f"What are {amount} US dollars in euros?", "convert_currency", {"amount": amount}
    if kind == 2:
        minutes = dice.randint(3, 55)
        return f"Remind me when {minutes} minutes are over, please.", "set_timer", {"minutes": minutes}
    if kind == 3:
        word = dice.choice(("bread", "window", "river"))
        return f"How do I say '{word}' in French?", "translate_word", {"word": word}
    return dice.choice(("Thank you, that was all!", "Good morning! How are you?")), None, {}


def score_of_calls(message: Json, name: str | None, arguments: Json) -> float:
    """1 for the right tool with the right arguments, a half for the right tool alone, else 0."""
    calls = message.get("tool_calls") or []
    if name is None:
        return float(not calls)
    if len(calls) != 1 or calls[0]["function"]["name"] != name:
        return 0.0
    told = object_in(calls[0]["function"]["arguments"] or "")
    return 0.5 + 0.5 * share_of_fields(told, arguments)


async def tools(dice: Random, model: Examinee) -> float:
    """Call the right one of four tools, or none."""
    prompt, name, arguments = call(dice)
    message = await model.chat(prompt, tokens=120, tools=list(TOOLS), tool_choice="auto")
    return score_of_calls(message, name, arguments)


_LABELLED: tuple[tuple[tuple[str, ...], tuple[tuple[str, str], ...]], ...] = (
    (
        ("positive", "negative"),
        (
            ("I would buy this again without a second thought.", "positive"),
            ("It was not positive at all: two hours that I will not get back.", "negative"),
            ("Never have I been less disappointed by a hotel.", "positive"),
            ("The screen was dark after a week, and nobody answers my letters.", "negative"),
            ("Not a single thing went wrong.", "positive"),
            ("I had hoped to like it. I did not.", "negative"),
        ),
    ),
    (
        ("sports", "politics", "cooking", "astronomy"),
        (
            ("The keeper saved the penalty in the last minute.", "sports"),
            ("The minister resigned after the vote on the budget.", "politics"),
            ("Let the dough rest for an hour, then fold it twice.", "cooking"),
            ("The probe sent back pictures of the rings of Saturn.", "astronomy"),
            ("She broke the record over four hundred metres.", "sports"),
            ("Both chambers must agree before the law takes effect.", "politics"),
        ),
    ),
    (
        ("question", "complaint", "order", "praise"),
        (
            ("When do you open on Sundays?", "question"),
            ("The parcel came three weeks late, and it was open.", "complaint"),
            ("I would like two of the blue ones, please, to the same address.", "order"),
            ("Your colleague on the phone was wonderful!", "praise"),
        ),
    ),
)


def labelled(dice: Random) -> tuple[str, tuple[str, ...], str]:
    """A text, the labels to choose from, and the right one."""
    labels, rows = dice.choice(_LABELLED)
    text, right = dice.choice(rows)
    return text, tuple(dice.sample(labels, len(labels))), right


def names_alone(text: str, labels: tuple[str, ...], right: str) -> bool:
    """Whether a text names the right label and no other."""
    told = text.casefold()
    return [label for label in labels if re.search(rf"\b{label}\b", told)] == [right]


async def classification(dice: Random, model: Examinee) -> float:
    """Choose a label: by the endpoint of classification where the model has it, else in a chat."""
    text, labels, right = labelled(dice)
    if Capability.CLASSIFY in model.row.capabilities:
        return float(await model.classify(text, labels) == right)
    prompt = f"Which of these labels fits the text: {', '.join(labels)}? Answer with the label alone.\n\n{text}"
    return float(names_alone(await model.text(prompt, tokens=40), labels, right))
