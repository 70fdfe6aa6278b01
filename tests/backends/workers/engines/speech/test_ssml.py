"""SSML: pauses, words that are spelled or replaced, and what has no effect."""

from __future__ import annotations

import pytest

from backends.workers.engines.speech.ssml import Break, Script, script_of
from catalog.errors import InvalidRequest


@pytest.mark.parametrize("text", ["Hello <there>.", "a < b", "speak", "The <speak> tag.", "<spe", "&amp;"])
def test_a_text_without_the_root_is_spoken_as_it_stands(text: str) -> None:
    assert script_of(text) == Script((text,))


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ("One.<break time='500ms'/>Two.", ("One.", Break(0.5), "Two.")),
        ("One.<break time=' 1.5s '/>", ("One.", Break(1.5))),
        ("<break/>One", (Break(0.4), "One")),
        ("A<break strength='x-strong'/>B", ("A", Break(1.2), "B")),
        ("<say-as interpret-as='characters'>usb</say-as>!", (" U, S, B !",)),
        ("<say-as interpret-as='telephone'>555-12</say-as>", (" 5 5 5, 1 2 ",)),
        ("the <say-as interpret-as='ordinal'>22</say-as>", ("the 22nd",)),
        ("the <say-as interpret-as='ordinal'>12</say-as>", ("the 12th",)),
        ("<say-as interpret-as='date'>1 May 2024</say-as>", ("1 May 2024",)),
        ("<sub alias='World Wide Web'>WWW</sub> &amp; more", ("World Wide Web & more",)),
        ("<p><s>One</s><s>Two</s></p>", ("\n\nOne\n\nTwo\n\n",)),
        ("<metadata>hidden</metadata>One", ("One",)),
    ],
)
def test_elements_become_what_is_spoken(body: str, parts: tuple[str | Break, ...]) -> None:
    assert script_of(f"<speak>{body}</speak>") == Script(parts)


def test_a_namespace_and_a_declaration_change_nothing() -> None:
    text = '<?xml version="1.0"?>\n<speak xmlns="http://www.w3.org/2001/10/synthesis" version="1.1">Hi</speak>'
    assert script_of(text) == Script(("Hi",))


def test_what_has_no_effect_is_spoken_and_named_once() -> None:
    text = "<speak><prosody rate='slow'>a</prosody> <prosody>b</prosody> <emphasis>c</emphasis></speak>"
    assert script_of(text) == Script(("a b c",), ("prosody", "emphasis"))
    assert script_of("<speak><say-as interpret-as='klingon'>a</say-as></speak>").unknown == ("say-as",)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<speak>One", "well-formed"),
        ("<speak><break time='11s'/>a</speak>", "10s at most"),
        ("<speak><break time='soon'/>a</speak>", "500ms"),
        ("<speak><break strength='loud'/>a</speak>", "x-strong"),
        ("<speak>" + "<break time='10s'/>" * 7 + "a</speak>", "60 seconds"),
        ("<speak>" + "<p>" * 40 + "a" + "</p>" * 40 + "</speak>", "levels"),
        ("<speak><!-- x -->a</speak>", "document type"),
        ('<!DOCTYPE s [<!ENTITY a "b">]><speak>&a;</speak>', None),
        ('<speak><!ENTITY a "b">&a;</speak>', "document type"),
    ],
)
def test_what_is_no_good_ssml_is_refused(text: str, reason: str | None) -> None:
    if reason is None:
        assert script_of(text) == Script((text,)), "its first tag is another"
        return
    with pytest.raises(InvalidRequest, match=reason) as refused:
        script_of(text)
    assert refused.value.param == "input"
