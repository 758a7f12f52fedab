"""The page in a real Chromium: what it shows, and whether everybody can use it."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from openlimit import OpenLimitError, RemoteLimiter
from tests.support.api_keys import a_key, token_of, write_keys
from tests.support.browser import DARK, DESK, PHONE, browsing, obstacles, opened
from tests.support.calls import a_call
from tests.support.scraping import HTTP, http_port, scrape, value
from tests.support.server_process import ServerProcess, serving_policies
from tests.support.watching import page_url

HOSTILE = "<script>document.title='taken'</script>\u202e" + "x" * 200
POLICIES = """
policies:
  - name: shared
    models: [gpt-4o]
    limits: {requests: 6000/minute burst 10s, tokens: 600000/minute burst 10s}
    concurrent: 3
    levels:
      - label: team
        weights: {search: 4, batch: 0.5}
        limits: {tokens: 300000/minute burst 10s}
      - label: user
  - name: slow
    models: ["claude-*"]
    split_by: [model]
    limits: {requests: 6/minute burst 10s, tokens: 60000/minute burst 10s}
  - name: idle
    models: ["*"]
    limits: {requests: 60/minute}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as browser:
        yield browser


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with serving_policies(tmp_path, POLICIES, *HTTP) as server:
        yield server


@pytest.fixture
def busy(server: ServerProcess) -> Iterator[ServerProcess]:
    """A server at which calls start, wait in line, are refused and paused."""
    over = Event()
    with RemoteLimiter(server.address) as limiter, ExitStack() as held:

        def go_on_calling() -> None:
            while not over.wait(0.05):
                for model in ("claude-a", "claude-b"):
                    call = a_call(model, {"requests": 1, "tokens": 10})._replace(max_wait=0.5)
                    with suppress(OpenLimitError):
                        limiter.acquire(call)

        def wait() -> None:
            with limiter.limit(model="gpt-4o", tokens=100, labels={"team": "batch"}):
                pass

        for user in ("ann", "bob", HOSTILE):
            labels = {"team": "search", "user": user}
            held.enter_context(limiter.limit(model="gpt-4o", tokens=20_000, labels=labels))
        threads = [Thread(target=work) for work in (go_on_calling, wait, wait)]
        for thread in threads:
            thread.start()
        limiter.penalize(600, model="claude-c")
        yield server
        over.set()
        held.close()
        for thread in threads:
            thread.join()


def explain(page: Page, model: str, **fields: str) -> None:
    """Fill in the form and send it."""
    page.get_by_label("Model").fill(model)
    for name, text in fields.items():
        page.get_by_label(name, exact=True).fill(text)
    page.get_by_role("button", name="Explain").click()


def test_it_shows_what_happens(browser: Browser, busy: ServerProcess) -> None:
    """Policies with their figures, nodes, levels, lines, pauses and refusals; what waits comes
    first."""
    with opened(browser, page_url(busy)) as page:
        expect(page.locator("#connection")).to_have_text("live")
        shared = page.get_by_role("article", name="shared")
        expect(shared.get_by_role("row", name="all calls")).to_contain_text("3 / 3")
        expect(shared.get_by_role("row", name="all calls")).to_contain_text("when a slot is free")
        batch = shared.get_by_role("row", name=re.compile("^team=batch tokens"))
        expect(batch).to_contain_text("at its turn")
        expect(shared.get_by_role("row", name=re.compile("user=ann"))).to_contain_text("33.3 %")
        expect(shared.get_by_role("meter").first).to_have_attribute("aria-valuemax", "1000")
        expect(shared.locator(".figures")).to_contain_text("In line2")
        expect(shared.get_by_role("columnheader", name="Used")).to_be_visible()
        slow = page.get_by_role("article", name="slow")
        expect(slow.locator(".refusals")).to_contain_text("wait too long, requests")
        expect(slow.get_by_role("row", name="model=claude-c")).to_contain_text("paused")
        expect(slow.locator(".badges")).to_contain_text("1 bucket paused, ")
        expect(slow.locator(".figures")).to_contain_text(re.compile(r"Next startup to (9|10).min"))
        attention = page.get_by_role("region", name="What needs attention")
        expect(attention).to_contain_text("shared has 2 in line")
        expect(attention).to_contain_text(re.compile(r"slow refuses [\d.]+/s: wait too long"))
        expect(attention).to_contain_text("slow is paused at model=claude-c for")
        expect(page).to_have_title(re.compile(r"^\(\d+\) openlimit$"))
        expect(page.get_by_text("Not used yet: idle.")).to_be_visible()


def test_a_file_that_is_invalid_is_told(
    browser: Browser, server: ServerProcess, tmp_path: Path
) -> None:
    """For as long as it is."""
    [config] = tmp_path.glob("*.yaml")
    good = config.read_text()
    with opened(browser, page_url(server)) as page:
        told = page.get_by_text("A changed file is invalid")
        expect(page.locator("#connection")).to_have_text("live")
        expect(told).to_be_hidden()
        config.write_text("policies: [")
        expect(told).to_be_visible()
        config.write_text(good)
        expect(told).to_be_hidden()


def test_it_shows_news_within_seconds(browser: Browser, server: ServerProcess) -> None:
    """Without being loaded again: from nothing at all to a curve."""
    with opened(browser, page_url(server)) as page:
        expect(page.get_by_text("No call has come yet.")).to_be_visible()
        assert not obstacles(page)
        with RemoteLimiter(server.address) as limiter:
            limiter.acquire(a_call("claude-a", {"requests": 1, "tokens": 10}))
            card = page.get_by_role("article", name="slow")
            expect(card).to_be_visible()
            for _ in range(5):
                limiter.acquire(a_call("claude-a", {"requests": 1, "tokens": 10}))
        expect(page.locator("#totals")).to_contain_text(re.compile(r"Starts/s\d\.[1-9]"))
        expect(card.locator("canvas")).to_be_visible()
        drawn = "canvas => canvas.getContext('2d').getImageData(0, 0, 300, 50).data.some(Boolean)"
        assert card.locator("canvas").evaluate(drawn)


def test_a_call_is_explained(browser: Browser, busy: ServerProcess) -> None:
    """Path, levels and verdict; nothing is charged."""
    with opened(browser, page_url(busy)) as page:
        expect(page.locator("#connection")).to_have_text("live")
        before = value(scrape(busy), "reserved_units_total", policy="shared")
        explain(page, "gpt-4o", Tokens="500", Labels="team=search\nuser=ann")
        answer = page.get_by_role("status", name="What would become of the call")
        expect(answer).to_contain_text("It would wait in line")
        expect(answer.get_by_role("listitem")).to_have_count(3)
        expect(answer).to_contain_text("holds it up: concurrent")
        explain(page, "gpt-4o", Tokens="900000", Labels="")
        expect(answer).to_contain_text("It could never start")
        assert not obstacles(page)
        assert value(scrape(busy), "reserved_units_total", policy="shared") == before


def test_what_is_wrong_with_a_call_is_said(browser: Browser, server: ServerProcess) -> None:
    """At the field, or by the server."""
    with opened(browser, page_url(server)) as page:
        explain(page, "gpt-4o", Labels="team")
        labels = page.get_by_label("Labels", exact=True)
        expect(labels).to_have_attribute("aria-invalid", "true")
        expect(labels).to_be_focused()
        expect(page.locator("#answer")).to_contain_text("not team")


def test_hostile_labels_are_only_shown(browser: Browser, busy: ServerProcess) -> None:
    """No script runs, nothing is turned around, and no row is wider than the page."""
    for options in (DESK, PHONE):
        with opened(browser, page_url(busy), **options) as page:
            shown = page.locator("bdi", has_text="<script>")
            expect(shown).to_contain_text("</script>\\u{202e}xxx")
            expect(page).to_have_title(re.compile("openlimit"))
            assert fits(page)


def fits(page: Page) -> bool:
    """Nothing has to be scrolled sideways."""
    found: bool = page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    return found


@pytest.mark.parametrize("options", [DESK, DARK, PHONE, {**PHONE, "color_scheme": "dark"}])
def test_everybody_can_read_it(
    browser: Browser, busy: ServerProcess, options: dict[str, Any]
) -> None:
    """Contrast, names, roles and order are as they should be, in both modes and on a phone."""
    with opened(browser, page_url(busy), **options) as page:
        expect(page.get_by_role("article", name="slow").locator(".refusals")).to_be_visible()
        explain(page, "gpt-4o", Labels="team=search")
        expect(page.locator(".path li")).to_have_count(3)
        assert not obstacles(page)
        assert fits(page)
        figures = page.locator(".now .figures dd")
        assert figures.evaluate_all("all => all.every(one => one.scrollWidth <= one.clientWidth)")
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        is_dark = sum(map(int, re.findall(r"\d+", ground)[:3])) < 200
        assert is_dark == ("color_scheme" in options)


def test_the_keyboard_is_enough(browser: Browser, busy: ServerProcess) -> None:
    """Every part is reached in the order in which it is read, and a call explained."""
    with opened(browser, page_url(busy)) as page:
        expect(page.get_by_role("article", name="shared")).to_be_visible()
        seen = []
        for _ in range(20):
            page.keyboard.press("Tab")
            focused = page.evaluate("document.activeElement.id || document.activeElement.tagName")
            seen.append(focused)
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none" or focused == "BODY"
            if focused == "model":
                break
        assert seen[:2] == ["A", "filter"]
        page.keyboard.type("gpt-4o")
        page.keyboard.press("Enter")
        expect(page.locator("#answer")).to_contain_text("It would wait in line")
        page.locator("#filter").focus()
        page.keyboard.type("slow")
        expect(page.get_by_role("article")).to_have_count(1)


def test_nothing_moves_for_those_who_want_that(browser: Browser, busy: ServerProcess) -> None:
    """With prefers-reduced-motion."""
    for motion, takes in (("reduce", "0s"), ("no-preference", "0.25s")):
        with opened(browser, page_url(busy), reduced_motion=motion) as page:
            filled = page.locator(".filled").first
            expect(filled).to_have_css("transition-duration", takes)


def test_a_lost_connection_is_told(browser: Browser, tmp_path: Path) -> None:
    """Since when nothing is known; and the page goes on by itself once the server is back."""
    with serving_policies(tmp_path, POLICIES, *HTTP) as server:
        port = http_port(server)
        url = page_url(server)
        context = browser.new_context(**DESK)
        page = context.new_page()
        page.goto(url)
        expect(page.locator("#connection")).to_have_text("live")
    lost = re.compile(r"^no news since \d\d:\d\d:\d\d: .*; trying again$")
    expect(page.locator("#connection")).to_have_text(lost)
    with serving_policies(tmp_path, POLICIES, "--http", f"127.0.0.1:{port}"):
        expect(page.locator("#connection")).to_have_text("live", timeout=20_000)
    context.close()


def test_a_key_is_asked_for(browser: Browser, tmp_path: Path) -> None:
    """One that may admin opens the page, in this tab and until it is forgotten; others are told
    why not."""
    keys = tmp_path / "keys.yaml"
    write_keys(keys, a_key("operator", "admin"), a_key("worker", "acquire"))
    with serving_policies(tmp_path, POLICIES, *HTTP, "--keys", str(keys)) as server:
        context = browser.new_context(**DESK)
        page = context.new_page()
        page.goto(page_url(server))
        door = page.get_by_role("form", name="This server has API keys")
        field = page.get_by_label("A key that may admin")
        expect(field).to_be_focused()
        assert not obstacles(page)
        for key, said in (
            ("olk_unknown", "does not know this API key"),
            (token_of("worker"), "may not admin"),
            ("schlüssel", "no letters but those of ASCII"),
        ):
            field.fill(key)
            field.press("Enter")
            expect(door).to_contain_text(said)
        field.fill(token_of("operator"))
        field.press("Enter")
        expect(page.locator("#connection")).to_have_text("live")
        expect(door).to_be_hidden()
        explain(page, "gpt-4o")
        expect(page.locator("#answer")).to_contain_text("It would start at once")
        page.reload()
        expect(page.locator("#connection")).to_have_text("live")
        page.get_by_role("button", name="Forget the key").click()
        expect(door).to_be_visible()
        context.close()
