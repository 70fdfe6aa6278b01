"""Every other page of the console: what it shows and does, how it fits, and whether everybody can use it."""

from __future__ import annotations

import re
from typing import Any, Literal

import pytest

from tests.e2e.serving import Served
from tests.fakes.openai_media import wav
from tests.fakes.pictures import encoded, mask, quarters
from tests.ui.accessible import violations
from tests.ui.conftest import NARROW, WIDE, Open, Picture

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make test-ui installs it")

from playwright.sync_api import FilePayload, Page, expect

PAGES = ("chat", "models", "route", "talk", "voice", "images", "usage", "traces", "logs")
LOCAL = "smollm2-135m-instruct"


def settled(page: Page) -> None:
    """Wait until nothing is loading."""
    expect(page.locator("main h1").first).to_be_attached()
    expect(page.locator(".loading")).to_have_count(0)
    page.wait_for_load_state("networkidle")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["1280", "390"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_and_everybody_can_use_it(
    opened: Open, picture: Picture, name: str, size: dict[str, int], scheme: Literal["light", "dark"]
) -> None:
    page = opened(f"ui/#/{name}", size, scheme=scheme)
    settled(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    assert violations(page) == []


def test_the_pages_are_reached_by_links_and_by_the_keyboard(opened: Open) -> None:
    page = opened()
    for name in PAGES:
        page.get_by_role("link", name=name.title(), exact=True).click()
        settled(page)
        expect(page).to_have_title(f"{name.title()} · Roundhouse")
        expect(page.locator("nav [aria-current=page]")).to_have_text(re.compile(name.title()))
        assert page.evaluate("document.activeElement.id") == "main", "the focus is in the page"
    page.reload()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the page")).to_be_focused()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_the_menu_of_a_narrow_window_opens_and_closes(opened: Open) -> None:
    page = opened("ui/", NARROW)
    link = page.get_by_role("link", name="Usage", exact=True)
    expect(link).not_to_be_visible()
    page.get_by_role("button", name="Menu").click()
    link.click()
    settled(page)
    expect(link).not_to_be_visible()
    expect(page.get_by_role("heading", name="Usage")).to_be_visible()


def test_the_theme_is_chosen_and_kept(opened: Open) -> None:
    page = opened("ui/#/usage")
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    page.get_by_role("button", name="Dark").click()
    dark = page.evaluate(colour)
    assert light != dark
    page.reload()
    settled(page)
    assert page.evaluate(colour) == dark


def test_models_are_searched_filtered_and_described(opened: Open, picture: Picture) -> None:
    page = opened("ui/#/models")
    settled(page)
    expect(page.get_by_role("button", name="lab/quick")).to_be_visible()
    picture(page, "models")
    page.get_by_label("Can").select_option("image")
    expect(page.get_by_role("button", name="lab/quick")).to_have_count(0)
    expect(page.get_by_role("button", name="lab/painter")).to_be_visible()
    page.get_by_label("Can").select_option("")
    page.get_by_label("Search").fill("deep")
    expect(page.locator(".catalogue .tile")).to_have_count(1)
    expect(page.locator(".catalogue .tile")).to_contain_text("$3.00 / $15.00 per million")
    page.get_by_role("button", name="lab/deep").click()
    dialog = page.get_by_role("dialog", name="lab/deep")
    expect(dialog).to_contain_text("200,000")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    page.get_by_label("Search").fill("")
    page.get_by_label("Also those that lack").check()
    expect(page.locator(".catalogue .tile", has_text="not usable").first).to_be_visible()


def test_a_local_model_is_loaded_with_options_and_unloaded(
    opened: Open, console: Served, picture: Picture
) -> None:
    page = opened("ui/#/models")
    settled(page)
    tile = page.locator(".catalogue .tile", has=page.get_by_role("button", name=LOCAL, exact=True))
    if not tile.count():
        pytest.skip(f"{LOCAL} is not pulled here")
    page.get_by_role("button", name=LOCAL, exact=True).click()
    dialog = page.get_by_role("dialog", name=LOCAL)
    dialog.get_by_label("Tokens of a request").fill("1024")
    dialog.get_by_label("Requests at a time").fill("2")
    dialog.get_by_role("button", name="Load").click()
    expect(dialog).to_have_count(0, timeout=60_000)
    workers = page.request.get(f"{console.url}/v1/admin/workers").json()["workers"]
    assert [worker["slots"] for worker in workers if worker["model"] == LOCAL] == [2]
    expect(tile).to_contain_text("loaded", timeout=60_000)
    expect(page.locator("main .line", has_text=LOCAL)).to_contain_text("ready")
    expect(page.get_by_role("meter").first).to_be_visible()
    tile.get_by_role("button", name="Unload").click()
    expect(tile.get_by_role("button", name="Load", exact=True)).to_be_visible(timeout=30_000)
    expect(page.locator("main .line", has_text=LOCAL)).to_have_count(0)


def test_a_pull_of_nothing_says_what_is_wrong(opened: Open) -> None:
    page = opened("ui/#/models", expects=("404", "400"))
    settled(page)
    page.get_by_label("Name, or repository").fill("no-such-model")
    page.get_by_role("button", name="Pull", exact=True).first.click()
    expect(page.get_by_role("alert")).to_contain_text("no-such-model")


def test_a_route_is_explained_with_every_candidates_numbers(opened: Open, picture: Picture) -> None:
    page = opened("ui/#/route")
    settled(page)
    page.get_by_label("Prompt").fill("Prove that the square root of two is irrational.")
    page.get_by_label("Task").select_option("reasoning")
    page.get_by_role("button", name="Show the choice").click()
    table = page.get_by_role("region", name="Candidates")
    for model in ("lab/quick", "lab/deep"):
        row = table.locator("tr", has=page.locator("td:first-child", has_text=model))
        expect(row).to_contain_text("$0.0")
        expect(row).to_contain_text("%")
    expect(table.locator("tr.chosen")).to_have_count(1)
    expect(table.locator("tr:not(.chosen) td:nth-child(6)").first).to_have_text(re.compile(r"^\S\$0\.0"))
    page.get_by_role("heading", name="would answer").evaluate("heading => heading.scrollIntoView()")
    picture(page, "route")
    page.get_by_label("With a picture").check()
    page.get_by_role("button", name="Show the choice").click()
    expect(page.get_by_role("region", name="Models left out")).to_contain_text("lab/quick")


def test_a_text_is_spoken(opened: Open, picture: Picture) -> None:
    page = opened("ui/#/voice")
    settled(page)
    page.get_by_label("Voice", exact=True).select_option("lab/voice coral")
    page.get_by_label("Format").select_option("wav")
    picture(page, "voice")
    page.get_by_role("button", name="Speak", exact=True).click()
    sound = page.get_by_label("The spoken text")
    expect(sound).to_have_attribute("src", re.compile("^blob:"))
    expect(page.locator("main")).to_contain_text("lab/voice")
    assert page.evaluate("document.querySelector('audio').error") is None


def test_a_file_is_transcribed(opened: Open) -> None:
    page = opened("ui/#/voice")
    settled(page)
    files: list[FilePayload] = [{"name": "said.wav", "mimeType": "audio/wav", "buffer": wav()}]
    page.get_by_label("or a file").set_input_files(files)
    page.locator("section", has_text="Transcribe").get_by_label("Model").select_option("lab/ear")
    page.get_by_role("button", name="Transcribe", exact=True).click()
    expect(page.locator(".transcript")).to_have_text("The quick brown fox.")
    expect(page.locator("main")).to_contain_text("lab/ear")


def test_what_the_microphone_hears_is_recorded_and_transcribed(opened: Open) -> None:
    page = opened("ui/#/voice")
    settled(page)
    page.get_by_role("button", name="Record").click()
    expect(page.get_by_role("button", name="Stop after 1 s")).to_be_visible()
    page.get_by_role("button", name="Stop after").click()
    expect(page.get_by_label("What will be transcribed")).to_be_visible()
    page.locator("section", has_text="Transcribe").get_by_label("Model").select_option("lab/ear")
    page.get_by_role("button", name="Transcribe", exact=True).click()
    expect(page.locator(".transcript")).to_have_text("The quick brown fox.")


def test_a_picture_is_drawn(opened: Open) -> None:
    page = opened("ui/#/images")
    settled(page)
    page.get_by_label("Picture of").fill("A roundhouse from above, at dawn")
    page.get_by_role("button", name="Draw").click()
    drawn = page.get_by_role("img", name="A roundhouse from above, at dawn")
    expect(drawn).to_be_visible()
    assert drawn.evaluate("image => image.naturalWidth") == 320


def test_a_picture_is_changed(opened: Open) -> None:
    page = opened("ui/#/images")
    settled(page)
    picture: Any = {"name": "a.png", "mimeType": "image/png", "buffer": encoded(quarters(64, 48))}
    hole: Any = {"name": "m.png", "mimeType": "image/png", "buffer": mask(64, 48, (0, 0, 9, 9))}
    page.get_by_label("Pictures to change").set_input_files([picture])
    page.get_by_label("Mask").set_input_files([hole])
    page.get_by_label("Picture of").fill("A hat on the roof")
    page.get_by_role("button", name="Draw").click()
    changed = page.get_by_role("img", name="A hat on the roof")
    expect(changed).to_be_visible()
    assert changed.evaluate("image => image.naturalWidth") == 1


def test_usage_and_traces_tell_of_a_request(opened: Open, console: Served, picture: Picture) -> None:
    page = opened("ui/")
    body = {"model": "lab/deep", "messages": [{"role": "user", "content": "What is a turntable?"}]}
    asked = page.request.post(f"{console.url}/v1/chat/completions", data=body)
    trace = asked.headers["x-roundhouse-trace"]
    page.goto(f"{console.url}/ui/#/usage")
    settled(page)
    expect(page.get_by_role("region", name="By model")).to_contain_text("lab/deep")
    expect(page.locator(".figure-card").first).to_contain_text("$")
    picture(page, "usage")
    page.goto(f"{console.url}/ui/#/traces")
    settled(page)
    expect(page.get_by_role("region", name="Traces").get_by_role("row").nth(1)).to_contain_text("lab/deep")
    page.locator(f"a[href='#/traces/{trace}']").click()
    expect(page.get_by_role("heading", name="Answered by lab/deep")).to_be_visible()
    expect(page.locator(".attempt")).to_contain_text("success")


def test_the_log_is_followed_and_filtered(opened: Open) -> None:
    page = opened("ui/#/logs")
    settled(page)
    expect(page.get_by_role("log")).to_contain_text("listening")
    page.get_by_label("With", exact=True).fill("no such line at all")
    expect(page.locator("main")).to_contain_text("None matches.")
    page.get_by_label("With", exact=True).fill("listening")
    expect(page.get_by_role("log").locator("> span")).to_have_count(1)


def test_the_page_at_the_root_opens_the_doors(opened: Open, picture: Picture, console: Served) -> None:
    page = opened("")
    expect(page.locator("main")).to_contain_text("ready")
    expect(page.locator("main")).to_contain_text(f"{console.url}/v1")
    page.get_by_role("button", name="Python").click()
    expect(page.locator("pre")).to_contain_text("from openai import OpenAI")
    assert violations(page) == []
    picture(page, "welcome")
    page.get_by_role("link", name="Open the console").click()
    expect(page).to_have_title("Chat · Roundhouse")
