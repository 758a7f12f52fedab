"""How many tokens an image costs: the providers' formulas, and just enough of each image format
to know an image's size from its first bytes.

An image whose size is not known here, such as one given by its address, counts as the largest that
the model is shown, if there is one. Nothing is ever fetched.
"""

from binascii import a2b_base64
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Protocol

__all__ = ["ImageCost", "Patches", "Tiles", "image_size"]

Size = tuple[int, int]  # width and height in pixels

# The size stands after a JPEG's metadata, seldom more than some dozen segments of it.
_JPEG_SEGMENTS = 1000
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class ImageCost(Protocol):
    """What one image costs for a family of models."""

    def tokens(self, size: Size | None, detail: object = None) -> int:
        """Tokens of an image of that size, None where it is not known, in the detail asked for."""


_LARGEST: Size = (2048, 768)  # no other shape has more tiles
_PHOTO = 12_000  # patches of 32 pixels


@dataclass(frozen=True, slots=True)
class Tiles:
    """A base and an amount per tile of 512 pixels, after fitting into 2048 and 768 pixels.

    Source: OpenAI, "Images and vision", calculating costs.
    """

    base: int
    per_tile: int

    def tokens(self, size: Size | None, detail: object = None) -> int:
        """Low detail costs the base alone, whatever the size."""
        if detail == "low":
            return self.base
        width, height = size or _LARGEST
        # Exactly: a side that comes out at a whole number of tiles must not take one more.
        fits = Fraction(1), Fraction(2048, max(width, height)), Fraction(768, min(width, height))
        scale = min(fits)
        return self.base + self.per_tile * ceil(width * scale / 512) * ceil(height * scale / 512)


@dataclass(frozen=True, slots=True)
class Patches:
    """An amount per square patch, up to a budget to which larger images are shrunk.

    Sources: OpenAI, "Images and vision" (patches of 32 pixels, 1536 at most, times a factor per
    model; for later models see providers/openai.py); Anthropic, "Vision" (patches of 28 pixels, one
    token each).
    """

    side: int
    budget: int
    per_patch: float = 1.0
    original: float = 0
    """The budget in original detail, where the model has one; inf where nothing bounds it."""
    in_full: bool = False
    """Whether an image without a detail is shown in original detail."""

    def tokens(self, size: Size | None, detail: object = None) -> int:
        """Low detail costs the same as high. Where nothing bounds an image whose size is not known,
        it counts as a photo of twelve megapixels."""
        is_full = detail == "original" or (self.in_full and detail not in ("low", "high"))
        budget = max(self.budget, self.original if is_full else 0)
        patches = ceil(size[0] / self.side) * ceil(size[1] / self.side) if size else _PHOTO
        # Not for a rounding's sake one more.
        return ceil(round(min(budget, patches) * self.per_patch, 6))


def image_size(source: str) -> Size | None:
    """Width and height of a PNG, JPEG, GIF or WebP image, from a data URL or bare base64.

    None when that is not what `source` is. Decodes headers only, whatever the image's length.
    """
    start = source.find(",", 0, 256) + 1 if source.startswith("data:") else 0
    header = _bytes_at(source, start, 0)
    size = _jpeg_size(source, start) if header.startswith(b"\xff\xd8") else _size_of(header)
    return size if size and min(size) > 0 else None


def _bytes_at(source: str, start: int, offset: int) -> bytes:
    """At least 30 bytes of what begins at `start` in base64, from byte `offset` on, if it has so
    many: 4 characters are 3 bytes, so there is no need to decode what comes before.
    """
    first = start + offset // 3 * 4
    try:
        return a2b_base64(source[first : first + 44])[offset % 3 :]
    except ValueError:
        return b""


def _size_of(data: bytes) -> Size | None:
    """The size of an image whose format keeps it at a fixed place."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if data.startswith((b"GIF87a", b"GIF89a")):
        return int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp_size(data)
    return None


def _webp_size(data: bytes) -> Size | None:
    match data[12:16]:
        case b"VP8 ":  # lossy: 14 bits each, the two above them are a scale
            packed = int.from_bytes(data[26:30], "little")
            return packed & 0x3FFF, packed >> 16 & 0x3FFF
        case b"VP8L":  # lossless: 14 bits each, less one
            packed = int.from_bytes(data[21:25], "little")
            return (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
        case b"VP8X":  # extended: 24 bits each, less one
            return (
                int.from_bytes(data[24:27], "little") + 1,
                int.from_bytes(data[27:30], "little") + 1,
            )
    return None


def _jpeg_size(source: str, start: int) -> Size | None:
    """Goes from segment to segment up to the start of a frame, which holds the size."""
    offset = 2
    for _ in range(_JPEG_SEGMENTS):
        segment = _bytes_at(source, start, offset)
        if len(segment) < 9 or segment[0] != 0xFF:
            break
        if segment[1] in _START_OF_FRAME:
            height = int.from_bytes(segment[5:7], "big")
            return int.from_bytes(segment[7:9], "big"), height
        padded = segment[1] == 0xFF
        offset += 1 if padded else 2 + int.from_bytes(segment[2:4], "big")
    return None
