"""What files, recordings and sealed content cost: by what they contain where that can be read, else
by their size. Nothing is ever fetched, and of a file no more is read than it takes.

Text is counted. A PDF counts by its pages, each as if it were full of text and shown as an image
too, so thin pages count several times too high. An encrypted PDF and any other file count by their
size, as scanned pages do: too low for compressed text, such as a Word document. A file given by its
id or address counts as one page: too low if it has more.
"""

import re
import zlib
from binascii import a2b_base64
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable
from urllib.parse import unquote

PAGE = 4500
"""A page with 3,000 tokens of text (Anthropic, "PDF support": 1,500 to 3,000) and its image."""
_AUDIO_BYTES_PER_SECOND = 8000
_FILE_BYTES_PER_TOKEN = 40  # a scanned page of 100 kB
_NO_TEXT = bytes([*range(7), 11, *range(14, 27), *range(28, 32), 127])  # as `file` tells them apart
_BYTE_ORDER_MARKS = (BOM_UTF16_LE, BOM_UTF16_BE)
_NO_TEXT_MEDIA = re.compile(r"data:(application/pdf|image/(?!svg)|audio/|video/)", re.IGNORECASE)

_PDF = b"%PDF-"
_PDF_PAGE = re.compile(rb"/Type\s*/Page(?![A-Za-z])")
# Objects are packed into such streams from PDF 1.5 on, and pages are objects.
_PDF_OBJECTS = re.compile(rb"/Type\s*/ObjStm\b.{0,500}?\bstream\r?\n", re.DOTALL)
_MOST_UNPACKED = 16_000_000  # bytes of one file


def sealed_tokens(sealed: object) -> int:
    """Text that the provider handed out encrypted: 4 bytes a token, 4 characters for 3 bytes."""
    return -(-len(sealed) * 3 // 16) if isinstance(sealed, str) else 0


def audio_tokens(encoded: object, per_second: int) -> int:
    """A recording in base64, from its size: too low if it has less than 8 kB a second."""
    return _size(encoded) * per_second // _AUDIO_BYTES_PER_SECOND


def file_tokens(source: object, count: Callable[[str], int]) -> int:
    """A file in base64 or a data URL; one page for what is neither. ``count`` counts a text.

    Blocks while it counts, about 0.1 s per megabyte of text.
    """
    if not isinstance(source, str):
        return PAGE
    data, pages = _decoded(source), 1
    if data.startswith(_PDF):
        pages = _pages(data)
    elif data and _is_text(data) and not _NO_TEXT_MEDIA.match(source):
        return count(_text(data))
    return max(PAGE * pages, _size(source) // _FILE_BYTES_PER_TOKEN)


def _size(encoded: object) -> int:
    """Bytes of a base64 text, or of the one in a data URL."""
    return len(encoded) * 3 // 4 if isinstance(encoded, str) else 0


def _decoded(source: str) -> bytes:
    """The file's bytes; none where it is not a file that is carried along."""
    is_url = source.startswith("data:")
    header, comma, payload = source.partition(",") if is_url else ("", "", source)
    try:
        if comma and not header.rstrip().lower().endswith(";base64"):
            return unquote(payload).encode("utf-8", "surrogatepass")
        return a2b_base64(payload)
    except ValueError:
        return b""


def _is_text(data: bytes) -> bool:
    return data.startswith(_BYTE_ORDER_MARKS) or len(data.translate(None, _NO_TEXT)) == len(data)


def _text(data: bytes) -> str:
    return data.decode("utf-16" if data.startswith(_BYTE_ORDER_MARKS) else "utf-8", "replace")


def _pages(data: bytes) -> int:
    """The page objects in a PDF, also those that are packed; at least one."""
    pages, left, position = len(_PDF_PAGE.findall(data)), _MOST_UNPACKED, 0
    while left > 0 and (stream := _PDF_OBJECTS.search(data, position)):
        position = data.find(b"endstream", stream.end())  # what is within it is no stream
        if position < 0:
            break
        try:
            unpacked = zlib.decompressobj().decompress(data[stream.end() : position], left)
        except zlib.error:  # not packed, encrypted or damaged
            continue
        pages += len(_PDF_PAGE.findall(unpacked))
        left -= len(unpacked)
    return max(1, pages)
