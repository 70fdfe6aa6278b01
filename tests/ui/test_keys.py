"""Keys in the browser: asked for, refused, kept or forgotten, and made."""

from __future__ import annotations

import re

import pytest

from tests.e2e.serving import Served
from tests.fakes.hub import FakeHub
from tests.ui.accessible import violations
from tests.ui.conftest import FILE, REPOSITORY, Open, Picture

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make test-ui installs it")

from playwright.sync_api import Page, expect

REFUSED = ("401", "403")


def enter(page: Page, key: str, *, keep: bool = False) -> None:
    page.get_by_label("API key").fill(key)
    if keep:
        page.get_by_label("Keep it in this browser").check()
    page.get_by_role("button", name="Use this key").click()


@pytest.mark.parametrize("path", ["ui/", "ui/#/traces", "docs"])
def test_a_key_is_asked_for_and_a_wrong_one_refused_in_words(opened: Open, locked: Served, path: str) -> None:
    page = opened(path, server=locked, expects=REFUSED)
    expect(page.get_by_role("heading", name="A key, please")).to_be_visible()
    assert violations(page) == []
    enter(page, "wrong-key")
    expect(page.get_by_role("heading", name="The key was refused")).to_be_visible()
    expect(page.locator("form")).to_contain_text("unknown, expired or revoked")
    enter(page, "admin-key")
    expect(page.get_by_label("API key")).to_have_count(0)
    expect(page.locator("main h1").first).to_be_attached()


def test_a_key_is_of_its_tab_unless_it_is_kept(opened: Open, locked: Served) -> None:
    page = opened("ui/#/usage", server=locked, expects=REFUSED)
    enter(page, "reader-key")
    expect(page.get_by_role("heading", name="Usage")).to_be_visible()
    assert page.evaluate("localStorage.length") == 0
    page.reload()
    expect(page.get_by_role("heading", name="Usage")).to_be_visible()
    other = page.context.new_page()
    other.goto(page.url)
    expect(other.get_by_label("API key")).to_be_visible()
    enter(other, "reader-key", keep=True)
    third = page.context.new_page()
    third.goto(page.url)
    expect(third.get_by_role("heading", name="Usage")).to_be_visible()
    third.get_by_role("button", name="Change the key").click()
    third.get_by_role("button", name="Forget the present key").click()
    expect(third.get_by_label("API key")).to_be_visible()
    assert third.evaluate("localStorage.length") == 0


def test_pages_for_administrators_say_so_to_other_keys(opened: Open, locked: Served) -> None:
    page = opened("ui/#/logs", server=locked, expects=REFUSED)
    enter(page, "reader-key")
    expect(page.get_by_role("alert")).to_contain_text("admin key")
    page.get_by_role("button", name="Use another key").click()
    enter(page, "admin-key")
    expect(page.get_by_role("log")).to_contain_text("listening")
    page.get_by_role("button", name="Change the key").click()
    enter(page, "reader-key")
    page.goto(f"{locked.url}/ui/#/models")
    expect(page.locator("main")).to_contain_text("are for administrators")
    expect(page.get_by_role("button", name="lab/quick")).to_be_visible()


def test_a_model_is_pulled_with_progress_and_removed(
    opened: Open, locked: Served, hub: FakeHub, picture: Picture
) -> None:
    page = opened("ui/#/models", server=locked, expects=REFUSED)
    enter(page, "admin-key")
    page.get_by_label("Name, or repository").fill(f"hf.co/{REPOSITORY}:Q4_K_M")
    page.get_by_role("button", name="Pull", exact=True).first.click()
    progress = page.get_by_role("meter", name=re.compile(FILE))
    expect(progress).to_have_attribute("aria-valuetext", re.compile(r"MB of 3\.\d MB"), timeout=60_000)
    assert 10 < int(progress.get_attribute("aria-valuenow") or 0) < 90
    picture(page, "models-pull")
    page.reload()
    expect(progress).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    pulled = page.locator(".line", has_text=REPOSITORY).first
    expect(pulled).to_contain_text("cancelled")
    hub.gates[FILE].set()
    pulled.get_by_role("button", name="Go on").click()
    expect(page.locator(".line", has_text=REPOSITORY).first).to_contain_text("completed")
    tile = page.locator(".catalogue .tile", has=page.get_by_role("button", name="tiny-q4_k_m"))
    expect(tile).to_be_visible()
    tile.get_by_role("button", name="Remove").click()
    tile.get_by_role("button", name="Delete its files").click()
    expect(tile).to_have_count(0)


def test_an_administrator_makes_a_key_and_revokes_it(opened: Open, locked: Served) -> None:
    page = opened("ui/#/usage", server=locked, expects=REFUSED)
    enter(page, "admin-key")
    page.get_by_role("button", name="Create a key").click()
    dialog = page.get_by_role("dialog", name="Create a key")
    dialog.get_by_label("Name").fill("laptop")
    dialog.get_by_label("Models").fill("lab/*")
    dialog.get_by_label("Dollars per month").fill("5")
    assert violations(page) == []
    dialog.get_by_role("button", name="Create", exact=True).click()
    secret = page.get_by_role("status").locator("code")
    expect(secret).to_have_text(re.compile(r"^rh-[\w-]{43}$"))
    row = page.get_by_role("row", name=re.compile("laptop"))
    expect(row).to_contain_text("lab/*")
    expect(row).to_contain_text("$0.00 of $5.00 per month")
    other = page.context.new_page()
    other.goto(f"{locked.url}/ui/#/usage")
    enter(other, secret.inner_text())
    expect(other.locator("main")).to_contain_text("laptop")
    expect(other.get_by_role("meter")).to_be_visible()
    expect(other.get_by_role("button", name="Create a key")).to_have_count(0)
    row.get_by_role("button", name="Revoke…").click()
    row.get_by_role("button", name="Revoke", exact=True).click()
    expect(row).to_contain_text("revoked")
    other.reload()
    expect(other.get_by_role("heading", name="The key was refused")).to_be_visible()
