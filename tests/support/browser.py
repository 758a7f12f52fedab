"""A Chromium without a window, and what it says of a page."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

PHONE: dict[str, Any] = {
    "viewport": {"width": 360, "height": 740},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}
DESK: dict[str, Any] = {"viewport": {"width": 1440, "height": 900}}
DARK = {**DESK, "color_scheme": "dark"}
_AXE = (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


def chromium() -> str:
    """The program; as root on Debian it is fetched."""
    if not _found() and os.getuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "update", "-q"], check=True)
        install = ["apt-get", "install", "-q", "-y", "--no-install-recommends", "chromium"]
        subprocess.run([*install, "fonts-dejavu-core"], check=True)
    if not (found := _found()):
        pytest.fail(
            "no chromium here: put it on the PATH, or run this as root on Debian, where it can be "
            "fetched"
        )
    return found


def _found() -> str | None:
    return shutil.which("chromium") or shutil.which("google-chrome")


@contextmanager
def browsing() -> Iterator[Browser]:
    """A browser, while the block runs."""
    with sync_playwright() as playwright:
        # Root has no sandbox; and this browser sees nothing but the server of the test.
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, url: str, **options: Any) -> Iterator[Page]:
    """The page at an address, in a window of its own; fails for whatever it says in the console."""
    said: list[str] = []
    context = browser.new_context(**(options or DESK))
    page = context.new_page()
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.goto(url)
    yield page
    context.close()
    assert not said


def obstacles(page: Page) -> list[str]:
    """What axe finds that keeps people from using a page, contrast included."""
    page.evaluate(_AXE)
    found = page.evaluate("axe.run(document)")
    return [
        f"{violation['id']}: {node['target']} {node['failureSummary']}"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]
