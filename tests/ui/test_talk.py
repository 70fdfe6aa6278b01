"""The console's page for talking: a spoken file is the browser's microphone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from server.realtime.sound import wav
from tests.e2e.serving import Served
from tests.server.realtime.conversing import spoken
from tests.ui.conftest import WIDE, find_browser
from tests.ui.test_pages import settled

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make test-ui installs it")

from playwright.sync_api import Page, expect

if TYPE_CHECKING:
    from playwright.sync_api import Browser

import numpy as np


@pytest.fixture
def talking(browser: Browser, console: Served, tmp_path: Path) -> Iterator[Page]:
    """The page, with a microphone that asks a question again and again, with pauses."""
    question = np.frombuffer(spoken("question"), "<i2")
    sound = np.concatenate((question, np.zeros(5 * 24_000, np.int16)))
    file = tmp_path / "question.wav"
    file.write_bytes(wav(sound, 24_000))
    own = browser.browser_type.launch(
        executable_path=find_browser(),
        args=[
            "--no-sandbox",
            "--autoplay-policy=no-user-gesture-required",
            "--use-fake-ui-for-media-stream",
            "--use-fake-device-for-media-stream",
            f"--use-file-for-fake-audio-capture={file}",
        ],
    )
    context = own.new_context(viewport=WIDE, permissions=["microphone"])
    page = context.new_page()
    page.set_default_timeout(20_000)
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(f"{console.url}/ui/#/talk")
    settled(page)
    page.get_by_label("Model", exact=True).select_option("lab/quick")
    yield page
    context.close()
    own.close()
    assert not faults, "\n".join(faults)


def lines(page: Page, role: str) -> str:
    return f".talk li.{role}"


def test_an_open_microphone_is_heard_answered_and_spoken(talking: Page) -> None:
    page = talking
    page.get_by_role("button", name="Begin").click()
    expect(page.locator(lines(page, "user")).first).to_contain_text(re.compile(r"\w{3}"))
    expect(page.locator(lines(page, "assistant")).first).to_contain_text(re.compile(r"\w{3}"))
    page.get_by_role("button", name="End the conversation").click()
    expect(page.get_by_role("status")).to_contain_text("Ended")
    expect(page.get_by_role("button", name="Begin")).to_be_visible()


def test_push_to_talk_sends_while_the_button_is_held(talking: Page) -> None:
    page = talking
    page.get_by_label("Microphone").select_option("push")
    page.get_by_role("button", name="Begin").click()
    button = page.get_by_role("button", name="Hold to talk")
    expect(button).to_be_visible()
    box = button.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    expect(page.get_by_role("button", name="Let go to send")).to_be_visible()
    page.wait_for_timeout(1500)
    page.mouse.up()
    expect(page.locator(lines(page, "user")).first).to_contain_text(re.compile(r"\w{3}"))
    expect(page.locator(lines(page, "assistant")).first).to_contain_text(re.compile(r"\w{3}"))
    page.get_by_role("button", name="End the conversation").click()


def test_one_may_write_instead(talking: Page) -> None:
    page = talking
    page.get_by_label("Microphone").select_option("push")
    page.get_by_role("button", name="Begin").click()
    page.get_by_label("Or write").fill("What is a turntable?")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(lines(page, "user")).first).to_contain_text("What is a turntable?")
    expect(page.locator(lines(page, "assistant")).first).to_contain_text(re.compile(r"\w{3}"))
    page.get_by_role("button", name="End the conversation").click()
