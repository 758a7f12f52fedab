"""The files of the page: whole, with nothing from elsewhere, and safe by how they are written."""

import re
from hashlib import sha256
from importlib.resources import files

import pytest

FILES = {path.name: path for path in (files("openlimit_server.observe.page") / "files").iterdir()}
OWN = sorted(name for name in FILES if not name.startswith("uPlot"))
UPLOT = {
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}


def text(name: str) -> str:
    return FILES[name].read_text(encoding="utf-8")


@pytest.mark.parametrize("name", UPLOT)
def test_uplot_is_as_it_was_published(name: str) -> None:
    """The files of uPlot 1.6.32, byte for byte."""
    assert sha256(FILES[name].read_bytes()).hexdigest() == UPLOT[name]


def test_uplot_comes_with_its_licence() -> None:
    """As the licence asks."""
    assert text("uPlot.LICENSE").startswith("The MIT License (MIT)")
    assert "v1.6.32" in text("uPlot.iife.min.js")[:100]


def test_all_that_is_loaded_lies_beside_it() -> None:
    """The page and its modules name files that are there, and no other address."""
    html = text("index.html")
    loaded = re.findall(r'(?:src|href)="([^#"]+)"', html)
    assert {path.removeprefix("page/") for path in loaded} <= {*FILES}
    assert all(path.startswith("page/") for path in loaded)
    for name in OWN:
        imports = re.findall(r'from "\./([^"]+)"', text(name))
        assert {*imports} <= {*FILES}
        addresses = re.findall(r"https?://[^\s\"']+", text(name))
        assert {*addresses} <= {"http://www.w3.org/2000/svg"}


def test_the_policy_of_the_page_holds() -> None:
    """No script or style stands in the page, and no element handles events by an attribute."""
    html = text("index.html")
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=", html)
    assert not re.search(r"<script(?![^>]*\ssrc=)", html)


@pytest.mark.parametrize("name", [name for name in OWN if name.endswith(".js")])
def test_nothing_is_parsed_as_html(name: str) -> None:
    """What callers have written is only ever set as text."""
    forbidden = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|Function\("
    )
    assert not re.search(forbidden, text(name))
