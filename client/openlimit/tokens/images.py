"""Reads just enough of each image format to know an image's size from its first bytes."""

from binascii import a2b_base64

Size = tuple[int, int]  # width and height in pixels

# The size stands after a JPEG's metadata, seldom more than some dozen segments of it.
_JPEG_SEGMENTS = 1000
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


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
            packed = int.from_bytes(data[24:30], "little")
            return (packed & 0xFFFFFF) + 1, (packed >> 24) + 1
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
