"""Which models moderate: those made for it, and a chat model only where there is none."""

from __future__ import annotations

from catalog.model import Capability, Model
from routing.facts import Facts, Task
from tests.routing.catalogue import remote, world
from tests.routing.choosing.plans import choose

CHATTING = remote("chatting", capabilities=frozenset({Capability.CHAT, Capability.MODERATE}))
MADE = remote("made-for-it", capabilities=frozenset({Capability.MODERATE}))
SEEING = remote("seeing", capabilities=frozenset({Capability.MODERATE, Capability.VISION}))


def chosen(*rows: Model, features: frozenset[Capability] = frozenset()) -> set[str]:
    facts = Facts(capability=Capability.MODERATE, task=Task.CLASSIFY, features=features)
    return {candidate.model.id for candidate in choose(facts, world(list(rows))).candidates}


def test_a_chat_model_moderates_only_where_no_model_made_for_it_can() -> None:
    assert chosen(CHATTING, MADE) == {"made-for-it"}
    assert chosen(CHATTING) == {"chatting"}


def test_a_picture_goes_to_a_model_that_sees() -> None:
    assert chosen(CHATTING, MADE, SEEING, features=frozenset({Capability.VISION})) == {"seeing"}
    assert chosen(CHATTING, MADE, features=frozenset({Capability.VISION})) == set()
