"""Chat in the browser: streams, stop, two models, pictures, tools, verdicts, and answers that attack the page."""

from __future__ import annotations

import base64
import json

import pytest

from tests.fakes.openai_chat import CITED
from tests.fakes.openai_media import png
from tests.fakes.server import Call
from tests.ui.conftest import NARROW, Open, Picture
from tests.ui.upstream import BROKEN, SLOWLY, Lab, eventually

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make test-ui installs it")

from playwright.sync_api import Locator, Page, expect


def say(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_role("button", name="Send").click()


def pick(page: Page, model: str, label: str = "Model") -> None:
    page.get_by_label(label, exact=True).select_option(model)


def answers(page: Page) -> Locator:
    return page.get_by_role("article", name="Answer")


def ended(page: Page, count: int = 1) -> Locator:
    """The answers, once this many have ended and their costs are known."""
    expect(answers(page).locator(".cost")).to_have_count(count)
    return answers(page)


def test_an_answer_streams_and_says_who_gave_it_why_and_for_how_much(opened: Open, picture: Picture) -> None:
    page = opened()
    pick(page, "auto:best")
    say(page, "What is a turntable?")
    expect(answers(page)).to_have_attribute("aria-busy", "true")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    answer = ended(page)
    expect(answer.locator("strong").first).to_have_text("lab/deep")
    expect(answer.locator("table td").first).to_have_text("Bridge")
    expect(answer.locator("ol li")).to_have_count(3)
    expect(answer.locator(".cost")).to_contain_text("$0.00")
    expect(answer.locator("footer")).to_contain_text("tokens")
    expect(answer.locator("footer")).to_contain_text("first after")
    answer.get_by_role("button", name="Why this model?").click()
    expect(answer.get_by_role("region", name="Candidates")).to_contain_text("lab/quick")
    picture(page, "chat")


def test_a_stopped_answer_ends_at_the_provider_and_keeps_what_came(opened: Open, lab: Lab) -> None:
    page = opened()
    pick(page, "lab/quick")
    say(page, f"Count {SLOWLY}.")
    expect(answers(page)).to_contain_text("3 4 5")
    page.get_by_role("button", name="Stop").click()
    expect(answers(page)).to_contain_text("stopped")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    expect(answers(page)).to_contain_text("3 4 5")
    expect(answers(page)).not_to_contain_text("399")
    assert eventually(chats(lab)[-1].cancelled.is_set), "the provider was left"


def test_escape_stops_and_enter_sends(opened: Open) -> None:
    page = opened()
    pick(page, "lab/quick")
    page.get_by_label("Message", exact=True).fill(f"Count {SLOWLY}.")
    page.keyboard.press("Shift+Enter")
    expect(answers(page)).to_have_count(0)
    page.keyboard.press("Enter")
    expect(answers(page)).to_contain_text("2")
    page.keyboard.press("Escape")
    expect(answers(page)).to_contain_text("stopped")


def test_two_models_answer_side_by_side(opened: Open, picture: Picture, lab: Lab) -> None:
    page = opened()
    page.get_by_role("button", name="Compare").click()
    pick(page, "lab/quick", "First model")
    pick(page, "lab/deep", "Second model")
    say(page, "A function that merges two sorted lists, please.")
    both = ended(page, 2)
    expect(both.nth(0)).to_contain_text("lab/quick")
    expect(both.nth(1)).to_contain_text("lab/deep")
    left, right = both.nth(0).bounding_box(), both.nth(1).bounding_box()
    assert left is not None
    assert right is not None
    assert left["x"] + left["width"] <= right["x"]
    picture(page, "chat-compare")
    say(page, "Thank you.")
    ended(page, 4)
    asked = {call.body["model"]: call.body["messages"] for call in chats(lab)[-2:]}
    assert asked.keys() == {"quick", "deep"}
    assert all([said["role"] for said in messages] == ["user", "assistant", "user"] for messages in asked.values())


@pytest.mark.parametrize(("name", "accepted"), [("Good answer", True), ("Bad answer", False)])
def test_a_verdict_becomes_an_outcome(opened: Open, name: str, accepted: bool) -> None:
    page = opened()
    pick(page, "lab/quick")
    say(page, "When does the train leave?")
    answer = ended(page)
    with page.expect_response("**/v1/outcomes") as told:
        answer.get_by_role("button", name=name).click()
    assert told.value.status == 200
    assert json.loads(told.value.request.post_data or "")["accepted"] is accepted
    expect(answer).to_contain_text("lab/quick is now expected")
    expect(answer.get_by_role("button", name=name)).to_be_disabled()


def test_a_tool_call_is_shown_and_its_result_goes_on(opened: Open, lab: Lab) -> None:
    page = opened()
    pick(page, "lab/quick")
    page.get_by_role("button", name="Settings").click()
    page.get_by_role("button", name="Insert an example").click()
    page.get_by_role("button", name="Settings").click()
    say(page, "How warm is it in Paris?")
    call = page.locator(".tool-call")
    expect(call).to_contain_text("get_weather")
    expect(call).to_contain_text("Paris")
    page.get_by_label("Result of get_weather").fill('{"celsius": 21}')
    page.get_by_role("button", name="Send the result").click()
    expect(answers(page)).to_contain_text("platform four")
    assert [said["role"] for said in chats(lab)[-1].body["messages"]] == ["user", "assistant", "tool"]
    assert chats(lab)[-1].body["messages"][-1]["content"] == '{"celsius": 21}'


def test_a_picture_is_sent_with_the_message(opened: Open, lab: Lab) -> None:
    page = opened()
    pick(page, "lab/deep")
    page.get_by_label("Pictures", exact=True).set_input_files(
        [{"name": "red.png", "mimeType": "image/png", "buffer": png()}]
    )
    expect(page.get_by_role("img", name="red.png")).to_be_visible()
    say(page, "What is this?")
    ended(page)
    text, image = chats(lab)[-1].body["messages"][0]["content"]
    assert text == {"type": "text", "text": "What is this?"}
    assert image["image_url"]["url"] == f"data:image/png;base64,{base64.b64encode(png()).decode()}"


def test_a_file_that_is_no_picture_is_refused_in_words(opened: Open) -> None:
    page = opened()
    files = [{"name": "a.zip", "mimeType": "application/zip", "buffer": b"PK"}]
    page.get_by_label("Pictures", exact=True).set_input_files(files)
    expect(page.get_by_role("alert")).to_contain_text("'a.zip' is no picture")


def test_the_settings_of_a_conversation_reach_the_model(opened: Open, lab: Lab) -> None:
    page = opened()
    pick(page, "lab/quick")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("System prompt").fill("Speak like a conductor.")
    page.get_by_label("Temperature").fill("0.3")
    page.get_by_label("Most tokens of an answer").fill("4")
    say(page, "Hello")
    expect(ended(page)).to_contain_text("cut at the bound of tokens")
    body = chats(lab)[-1].body
    assert body["messages"][0] == {"role": "system", "content": "Speak like a conductor."}
    assert (body["temperature"], body.get("max_completion_tokens") or body.get("max_tokens")) == (0.3, 4)


def test_an_answer_cannot_take_the_page(opened: Open) -> None:
    page = opened()
    pick(page, "lab/quick")
    say(page, "Be hostile.")
    answer = ended(page)
    expect(answer).to_contain_text("onerror")
    expect(answer).to_contain_text("<b>")
    assert page.title() == "Chat · Roundhouse"
    assert answer.locator("img, script, b").count() == 0
    links = [link.get_attribute("href") for link in answer.locator(".markdown a").all()]
    assert links == ["https://elsewhere.example/spy.png"], "a picture elsewhere is a link that a person may follow"


def test_the_sources_of_an_answer_are_links(opened: Open) -> None:
    page = opened()
    pick(page, "lab/quick")
    say(page, "When does the train leave? Give sources.")
    expect(ended(page).get_by_role("link", name=str(CITED["title"]))).to_have_attribute("href", str(CITED["url"]))


def test_an_answer_that_breaks_off_is_told(opened: Open) -> None:
    page = opened()
    pick(page, "lab/quick")
    say(page, f"Please {BROKEN}.")
    expect(answers(page).get_by_role("alert")).to_be_visible()
    expect(answers(page).get_by_role("alert")).not_to_be_empty()
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def test_a_conversation_outlives_other_pages_and_a_reload_but_not_the_tab(opened: Open) -> None:
    page = opened()
    pick(page, "lab/quick")
    say(page, "When does the train leave?")
    ended(page)
    page.get_by_role("link", name="Traces").click()
    expect(page.get_by_role("heading", name="Traces")).to_be_visible()
    page.get_by_role("link", name="Chat").click()
    expect(answers(page)).to_contain_text("platform four")
    page.reload()
    expect(answers(page)).to_contain_text("platform four")
    assert page.evaluate("localStorage.length") == 0
    page.get_by_role("button", name="New").click()
    expect(answers(page)).to_have_count(0)


def test_an_answer_is_given_again(opened: Open, lab: Lab) -> None:
    page = opened()
    pick(page, "lab/quick")
    say(page, "When does the train leave?")
    ended(page)
    before = len(chats(lab))
    page.get_by_role("button", name="Answer again").click()
    ended(page)
    assert len(chats(lab)) == before + 1
    assert [said["role"] for said in chats(lab)[-1].body["messages"]] == ["user"]


def test_chat_on_a_telephone(opened: Open, picture: Picture) -> None:
    page = opened("ui/", NARROW, scheme="dark")
    pick(page, "lab/deep")
    say(page, "What is a turntable?")
    ended(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
    expect(page.get_by_label("Message", exact=True)).to_be_in_viewport()
    picture(page, "chat-phone")


def chats(lab: Lab) -> list[Call]:
    """The chats that the provider got."""
    return [call for call in lab.calls if call.path.endswith("/chat/completions")]
