"""The API reference: every operation of the document, searched, read and tried."""

from __future__ import annotations

import httpx
import pytest

from tests.e2e.serving import Served
from tests.ui.accessible import violations
from tests.ui.conftest import NARROW, Open, Picture

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make test-ui installs it")

from playwright.sync_api import expect


def test_every_operation_of_the_document_is_shown(opened: Open, console: Served) -> None:
    paths = httpx.get(f"{console.url}/openapi.json", trust_env=False).json()["paths"]
    page = opened("docs")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Roundhouse")
    links = page.locator("nav a.operation")
    expect(links).to_have_count(sum(len(methods) for methods in paths.values()))
    assert violations(page) == []
    for address in [link.get_attribute("href") for link in links.all()]:
        page.evaluate("address => { location.hash = address }", address)
        expect(page.locator("nav [aria-current=page]")).to_have_attribute("href", address or "")
        expect(page.get_by_role("heading", name="Answer", exact=True)).to_be_visible()


def test_an_operation_is_found_read_and_tried(opened: Open, picture: Picture) -> None:
    page = opened("docs")
    page.get_by_label("Search").fill("chat/completions")
    page.locator("nav").get_by_role("link", name="post /v1/chat/completions", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(page.locator(".schema").first.locator("code", has_text="messages").first).to_be_visible()
    assert violations(page) == []
    picture(page, "reference-operation")
    body = page.get_by_label("Body")
    body.fill('{"model": "lab/quick", "messages": [{"role": "user", "content": "Hello"}]}')
    page.get_by_text("The same with curl").click()
    expect(page.locator("main")).to_contain_text("curl -X POST")
    page.get_by_role("button", name="Send").click()
    answer = page.locator("section", has_text="Try it")
    expect(answer).to_contain_text("platform four")
    expect(answer).to_contain_text("200")
    body.fill("{")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("alert")).to_contain_text("not JSON")


def test_a_stream_is_shown_as_it_comes(opened: Open) -> None:
    page = opened("docs#" + "post%2Fv1%2Fchat%2Fcompletions")
    asked = '{"model": "lab/quick", "stream": true, "messages": [{"role": "user", "content": "Count slowly"}]}'
    page.get_by_label("Body").fill(asked)
    page.get_by_role("button", name="Send").click()
    expect(page.locator("section", has_text="Try it")).to_contain_text("chat.completion.chunk")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def test_parameters_of_the_path_are_filled_in(opened: Open) -> None:
    page = opened("docs#" + "get%2Fv1%2Fmodels%2F%7Bmodel_id%7D")
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    page.get_by_label("model_id (required)").fill("lab/quick")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("section", has_text="Try it")).to_contain_text('"context_window": 32000')


def test_the_reference_on_a_telephone(opened: Open) -> None:
    page = opened("docs#" + "post%2Fv1%2Fchat%2Fcompletions", NARROW, scheme="dark")
    expect(page.get_by_role("heading", name="Answer", exact=True)).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
    assert violations(page) == []
    page.get_by_role("button", name="Operations").click()
    page.get_by_label("Search").fill("embeddings")
    page.locator("nav").get_by_role("link", name="post /v1/embeddings", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_be_visible()
