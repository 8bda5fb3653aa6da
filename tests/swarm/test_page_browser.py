"""The page in a real Chromium: clicked through, followed live, in both themes, on a phone and wide."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from places import TESTS
from playwright.sync_api import expect, sync_playwright
from watching import OpenPage, Watched, open_page, watched

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
AXE = TESTS / "vendored" / "axe.min.js"
THEMES = ("light", "dark")
SIZES = ((390, 844), (1440, 900))
PAGES = ("/", "/peers", "/rounds", "/rounds/30", "/recipe", "/api", "/peers/{peer}", "/nowhere")
PATIENCE_MS = 60_000  # for anything awaited: this bounds a failing test, nothing is decided by it
SERIOUS = ("serious", "critical")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not here (Debian: apt install chromium)"),
]


@pytest.fixture(scope="module")
def run() -> Watched:
    run = watched(8, name="count", goal_tokens=10**9)
    run.grow(run.swarm.keys, 40)
    for number in range(0, 41, 4):
        run.watch.validated(number, 2.0 + 3.0 / (1 + number), at=run.now)
    return run


@pytest.fixture(scope="module")
def page(run: Watched) -> Iterator[OpenPage]:
    with open_page(run, most_followers=32) as opened:
        yield opened


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def visit(
    chromium: Any,
    page: OpenPage,
    path: str = "/",
    *,
    theme: str = "light",
    width: int = 1440,
    height: int = 900,
    script: bool = True,
) -> Iterator[Any]:
    """Open a page, and fail if the browser complains of anything on it.

    What it gave up by itself, because a link was followed while it still fetched something, is no fault.
    """
    context = chromium.new_context(
        viewport={"width": width, "height": height}, color_scheme=theme, java_script_enabled=script
    )
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=page.address)
    context.set_default_timeout(PATIENCE_MS)
    tab = context.new_page()
    complaints: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text) if message.type != "log" else None)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("requestfailed", lambda request: complaints.append(f"{request.url}: {request.failure}"))
    tab.goto(page.address + path)
    try:
        yield tab
        ignored = ("/events", "404", "net::ERR_ABORTED")
        left = [one for one in complaints if not any(word in one for word in ignored)]
        assert left == []
    finally:
        context.close()


def path_of(path: str, run: Watched) -> str:
    return path.format(peer=run.swarm.keys[2].peer_id)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("path", PAGES)
def test_every_page_fits_and_anybody_can_read_it(
    chromium: Any, page: OpenPage, run: Watched, path: str, width: int, height: int, theme: str
) -> None:
    with visit(chromium, page, path_of(path, run), theme=theme, width=width, height=height) as tab:
        if path == "/":
            tab.wait_for_selector(".uplot canvas")
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.evaluate("document.body.innerText").strip()
        tab.evaluate(AXE.read_text())  # not by a script element, which the page's policy forbids
        found = tab.evaluate("axe.run()")
        serious = [
            f"{one['id']}: {one['help']}: {one['nodes'][0]['html'][:120]}"
            for one in found["violations"]
            if one["impact"] in SERIOUS
        ]
        assert serious == []


def test_from_the_first_page_to_a_volunteers_last_contribution_and_back(
    chromium: Any, page: OpenPage, run: Watched
) -> None:
    with visit(chromium, page) as tab:
        assert tab.inner_text("h1").startswith("Training. 8 peers, round 40")
        tab.click("#peers .roll a >> nth=2")
        assert "cuts" in tab.inner_text("h1")
        tab.click("#contributions tbody a >> nth=0")
        assert tab.inner_text(".over").startswith("Round 40")
        tab.click("text=Round 39")
        assert tab.inner_text(".over").startswith("Round 39")
        for name, words in (
            ("Peers", "8 training"),
            ("Rounds", "40 rounds"),
            ("Recipe", "Learns to count."),
            ("API", "as JSON"),
        ):
            tab.click(f"nav >> text={name}")
            assert words in tab.inner_text("h1")
            assert tab.get_attribute(f"nav >> text={name}", "aria-current") == "page"
        tab.click("text=Manyhands >> nth=0")
        assert tab.url == page.address + "/"


def test_a_round_that_ends_shows_itself_without_a_reload(chromium: Any) -> None:
    run = watched(5, goal_tokens=10**9)
    run.grow(run.swarm.keys, 4)
    run.watch.validated(2, 3.0, at=run.now)
    with open_page(run) as page, visit(chromium, page) as tab:
        tab.wait_for_selector("#live:not([hidden])")
        tab.wait_for_selector(".uplot canvas")
        tab.evaluate("window.same = true")
        run.grow(run.swarm.keys)
        run.watch.validated(5, 2.0, at=run.now)
        page.publish(run.picture())
        expect(tab.locator("h1")).to_contain_text("round 5", timeout=PATIENCE_MS)
        tab.wait_for_selector("#rounds tbody a[href='/rounds/5']")
        assert "Loss 2.00, falling." in tab.inner_text("h1")
        expect(tab.locator("#loss .u-legend")).to_contain_text("2.000", timeout=PATIENCE_MS)
        assert tab.evaluate("window.same")


def test_what_has_the_focus_keeps_it_when_something_new_comes(chromium: Any) -> None:
    run = watched(5, goal_tokens=10**9)
    run.grow(run.swarm.keys, 4)
    with open_page(run) as page, visit(chromium, page) as tab:
        tab.wait_for_selector("#live:not([hidden])")
        tab.focus("#rounds a[href='/rounds/4']")
        run.grow(run.swarm.keys)
        page.publish(run.picture())
        tab.wait_for_selector("#rounds tbody a[href='/rounds/5']")
        assert tab.evaluate("document.activeElement.getAttribute('href')") == "/rounds/4"


def test_everything_is_reached_by_the_keyboard(chromium: Any, page: OpenPage) -> None:
    with visit(chromium, page) as tab:
        tab.keyboard.press("Tab")
        assert tab.evaluate("document.activeElement.textContent") == "To the content"
        tab.keyboard.press("Enter")
        assert tab.evaluate("document.activeElement.id") == "main"
        reached = set()
        for _ in range(120):
            tab.keyboard.press("Tab")
            reached.add(
                tab.evaluate(
                    "document.activeElement.id || document.activeElement.getAttribute('href')"
                    " || document.activeElement.getAttribute('aria-label')"
                )
            )
        assert {"Last blocks", "/rounds/40", "/rounds", "join-command"} <= reached


def test_the_line_to_join_is_copied(chromium: Any, page: OpenPage) -> None:
    with visit(chromium, page) as tab:
        tab.click("button[data-copy]")
        tab.wait_for_selector("button:has-text('Copied')")
        copied = tab.evaluate("navigator.clipboard.readText()")
        assert copied.startswith("python -m trainer.join ")


def test_without_script_the_page_says_the_same_and_renews_itself(chromium: Any, page: OpenPage) -> None:
    with visit(chromium, page, script=False) as tab:
        assert tab.inner_text("h1").startswith("Training. 8 peers, round 40")
        assert tab.locator("svg.drawn polyline").count() == 2
        assert tab.locator("#rounds tbody tr").count() == 12
        assert tab.locator("button:visible").count() == 0
        assert "http-equiv" in tab.content()


def test_a_page_whose_observer_is_gone_says_so(chromium: Any) -> None:
    run = watched(4)
    run.grow(run.swarm.keys, 2)
    context = chromium.new_context()
    context.set_default_timeout(PATIENCE_MS)
    tab = context.new_page()
    with open_page(run) as page:
        tab.goto(page.address)
        tab.wait_for_selector("#live:not([hidden])")
    tab.wait_for_selector("#live.away")
    assert tab.inner_text("#live") == "waiting for the observer"
    context.close()
