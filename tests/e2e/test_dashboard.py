"""The page as a person sees it, in a real browser: log in, the fleet, and a change that shows without a reload."""

import re

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.e2e.scene import PASSWORD

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"]


@pytest.fixture(scope="module")
def page():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS)
        opened = browser.new_page(viewport={"width": 1400, "height": 800})
        # An edge that starts on a busy machine takes as long as it takes.
        opened.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        yield opened
        browser.close()


def test_the_page_shows_the_fleet_live(scene, page):
    problems = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(f"{scene.platform.api}/")
    page.get_by_label("Name").fill("admin")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).not_to_be_empty()
    problems.clear()  # the browser logs the refused login itself
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("status")).to_have_text("live")
    row = page.locator("tr[data-device=edge-1]")
    expect(row).to_contain_text("online")
    expect(row).to_contain_text("sentiment-zh@1.0.0")
    before = row.locator("td").nth(2).inner_text()
    assert re.match(r"\d+\.\d+ applied", before)
    scene.run(scene.change_policy(888))
    expect(row.locator("td").nth(2)).not_to_have_text(before)
    scene.run(scene.platform.edges["edge-2"].kill())
    expect(page.locator("tr[data-device=edge-2]")).to_contain_text("lost")
    scene.run(scene.platform.start_edge("edge-2", token=None))
    expect(page.locator("tr[data-device=edge-2]")).to_contain_text("online")
    assert problems == []
