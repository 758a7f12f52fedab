"""Files: text is counted, a PDF by its pages, and nothing that is sent can hold a caller up."""

import time
import zlib
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openlimit.tokens.counting import count_tokens
from openlimit.tokens.files import PAGE, file_tokens, sealed_tokens

CSV = "name,population\r\n" + "".join(f"Ciudad {i},{i * 7919}\r\n" for i in range(2000))


def encoded(data: bytes, media: str = "") -> str:
    return (f"data:{media};base64," if media else "") + b64encode(data).decode()


def tokens_of(part: dict[str, Any], model: str = "gpt-4o") -> int:
    """What a part adds to a response's input."""
    call = {"model": model, "input": [{"role": "user", "content": [part]}]}
    empty = {"model": model, "input": [{"role": "user", "content": []}]}
    return count_tokens(**call) - count_tokens(**empty)


def counted(text: str, model: str = "gpt-4o") -> int:
    return tokens_of({"type": "input_text", "text": text}, model)


@pytest.mark.parametrize(
    "data",
    [
        encoded(CSV.encode(), "text/csv"),
        encoded(CSV.encode(), "text/plain"),
        encoded(CSV.encode(), "application/octet-stream"),
        encoded(CSV.encode()),
        encoded(b"\xff\xfe" + CSV.encode("utf-16-le"), "text/csv"),
    ],
)
@pytest.mark.parametrize("model", ["gpt-4o", "claude-sonnet-4-5"])
def test_a_file_of_text_counts_as_its_text(data: str, model: str) -> None:
    """In each API's form, whatever it is said to be; by its size it would count a tenth."""
    expected = counted(CSV, model)
    assert expected > 15_000
    source = {"type": "base64", "media_type": "text/plain", "data": data}
    for part in (
        {"type": "input_file", "file_data": data},
        {"type": "file", "file": {"file_data": data}},
        {"type": "document", "source": source},
    ):
        assert expected <= tokens_of(part, model) <= expected + 2
    named = {"type": "input_file", "file_data": data, "filename": "cities.csv"}
    assert tokens_of(named, model) > expected


def test_text_that_is_odd_counts_no_less() -> None:
    """Of another encoding, unpacked in the address itself, or tiny."""
    latin = "cañón,población\n" * 1000
    part = {"type": "input_file", "file_data": encoded(latin.encode("latin-1"), "text/csv")}
    assert tokens_of(part) >= counted(latin)
    part = {"type": "input_file", "file_data": "data:text/csv,name%2Cpopulation"}
    assert tokens_of(part) == counted("name,population")
    assert tokens_of({"type": "input_file", "file_data": encoded(b"hello world")}) == 2


def pdf(pages: int, *, packed: bool) -> bytes:
    """The objects of a PDF, in the clear or packed into a stream, as since version 1.5."""
    page = b"<< /Type /Page /Parent 2 0 R >>\n"
    tree = b"%PDF-1.7\n2 0 obj << /Type /Pages /Count 1 >> endobj\n"
    if not packed:
        return tree + b"3 0 obj " + page * pages + b"endobj"
    stream = zlib.compress(page * pages)
    dictionary = b"<< /Type /ObjStm /N %d /Filter /FlateDecode >>\nstream\r\n" % pages
    return tree + b"9 0 obj " + dictionary + stream + b"\nendstream endobj"


@pytest.mark.parametrize("packed", [False, True])
def test_a_pdf_counts_by_its_pages(packed: bool) -> None:
    """A document of text alone has many pages in few bytes."""
    for pages in (1, 3, 300):
        data = encoded(pdf(pages, packed=packed), "application/pdf")
        assert tokens_of({"type": "input_file", "file_data": data}) == pages * PAGE
    assert file_tokens(encoded(pdf(0, packed=False)), len) == PAGE
    scan = encoded(pdf(2, packed=packed) + bytes(1_000_000))
    assert file_tokens(scan, len) == 25_000 + len(pdf(2, packed=packed)) // 40


def test_a_hostile_pdf_is_read_in_no_time() -> None:
    """Streams that unpack to gigabytes, or that are many, or that are none."""
    bomb = b"/Type/ObjStm>>stream\n" + zlib.compress(bytes(30_000_000)) + b"endstream "
    header = b"%PDF-1.7\n"
    begun = b"/Type/ObjStm>>stream\nx" * 40_000
    for data in (bomb * 20, b"/Type/ObjStm" * 20_000, begun, begun + b"endstream"):
        began = time.process_time()
        assert file_tokens(encoded(header + data), len) >= PAGE
        assert time.process_time() - began < 2


@given(st.text() | st.binary().map(encoded))
def test_any_text_may_be_given(source: str) -> None:
    """It has a count that is not negative, and none raises."""
    assert file_tokens(source, len) >= 0
    assert file_tokens("data:text/csv;base64," + source, len) >= 0
    assert file_tokens("data:," + source, len) >= 0
    assert (
        file_tokens(encoded(b"%PDF-/Type/ObjStm stream\n" + source.encode("utf-8", "replace")), len)
        >= 0
    )


def test_sealed_content_is_rounded_up() -> None:
    """And what is no text seals nothing."""
    assert [sealed_tokens("A" * length) for length in (0, 1, 16, 17)] == [0, 1, 3, 4]
    assert sealed_tokens(None) == sealed_tokens(["A"]) == 0
