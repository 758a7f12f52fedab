"""Image tokens: the published formulas, and sizes read from the first bytes of real images."""

import struct
from base64 import b64encode
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openlimit.providers.provider import Patches, Tiles
from openlimit.tokens.images import image_size

# Images of 3 x 2 pixels.
PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAMAAAACCAIAAAASFvFNAAAAHUlEQVR4nGP4ujFVySti+8T7TKUOxXxfOMW+PgEAW/4J"
    "G8Ve4kUAAAAASUVORK5CYII="
)
GIF = "R0lGODdhAwACAIIAAPWxZWrx2LeR382GwyJKWDA+YQAAAAAAACwAAAAAAwACAAAICQABEBAQoMCAgAA7"
WEBP_LOSSY = (
    "UklGRkoAAABXRUJQVlA4ID4AAABQAgCdASoDAAIAAUAmJZACdEcAZIACzZviEQAA/mRV/2n/4AXPv/MXoH5O+TiP8yuJ"
    "ayPpd38dHfPoMAAAAA=="
)
WEBP_LOSSLESS = (
    "UklGRk4AAABXRUJQVlA4TEEAAAAvAkAAAC+gpm0DBlAR9yvFyUUxI0lw1GCew3DtoqzIEmYbPZf5GxzVAZzBCcx/+FuH"
    "c6Dg3iAISMhUXHNARP8jFgA="
)
WEBP_WITH_ALPHA = (
    "UklGRmwAAABXRUJQVlA4WAoAAAAQAAAAAgAAAQAAQUxQSAcAAAAATU1NTU1NAFZQOCA+AAAAUAIAnQEqAwACAAFAJiWQ"
    "AnRHAGSAAs2b4hEAAP5kVf9p/+AFz7/zF6B+Tvk4j/MriWsj6Xd/HR3z6DAAAAA="
)


def jpeg(*metadata: int, frame: int = 0xC0) -> str:
    """The beginning of a JPEG of 640 x 481 pixels, after metadata of these lengths, in base64."""
    segments = [struct.pack(">HH", 0xFFE1, size + 2) + bytes(size) for size in metadata]
    start_of_frame = struct.pack(">BBHBHH", 0xFF, frame, 17, 8, 481, 640)
    return b64encode(b"\xff\xd8" + b"".join(segments) + start_of_frame + bytes(40)).decode()


@pytest.mark.parametrize("image", [PNG, GIF, WEBP_LOSSY, WEBP_LOSSLESS, WEBP_WITH_ALPHA])
def test_the_size_stands_in_the_header(image: str) -> None:
    """Every format that the providers take tells its size, bare or in a data URL, even cut off."""
    assert image_size(image) == (3, 2)
    assert image_size("data:image/any;base64," + image) == (3, 2)
    assert image_size(image[:44]) == (3, 2)


@pytest.mark.parametrize("frame", [0xC0, 0xC1, 0xC2])
@pytest.mark.parametrize("metadata", [(), (0,), (1, 2), (60_000, 65_000, 65_000, 7)])
def test_a_jpeg_tells_its_size_after_its_metadata(metadata: tuple[int, ...], frame: int) -> None:
    """However long a JPEG's metadata is, the size after it is found."""
    assert image_size(jpeg(*metadata, frame=frame)) == (640, 481)
    assert image_size("data:image/jpeg;base64," + jpeg(*metadata)) == (640, 481)


def test_a_table_of_a_jpeg_is_not_its_frame() -> None:
    """The Huffman tables' marker, which looks like a frame's, is passed over."""
    tables = b"\xff\xd8\xff\xc4" + struct.pack(">H", 12) + bytes(10)
    image = tables + b"\xff" + bytes.fromhex("ffc000110801e10280") + bytes(40)
    assert image_size(b64encode(image).decode()) == (640, 481)


@pytest.mark.parametrize(
    "source",
    [
        "",
        "data:",
        "data:image/png;base64,",
        "data:image/svg+xml,<svg/>",
        "data:image/png;base64,iVBORw0KGgo=",
        "data:image/png;base64,é" + PNG,
        "/9j/" * 20_000,
        "/9j/" + "////" * 20_000,
        "https://example.com/cat.png",
        jpeg(60_000)[:1000],
    ],
)
def test_what_is_no_image_has_no_size(source: str) -> None:
    """An address, a damaged image or something else has no size, and no error."""
    assert image_size(source) is None


@given(st.text() | st.binary().map(lambda data: b64encode(data).decode()))
def test_any_text_may_be_given(source: str) -> None:
    """No text raises, and a size is never empty."""
    for prefix in ("", "data:image/jpeg;base64,/9j/"):
        size = image_size(prefix + source)
        assert size is None or min(size) > 0


@pytest.mark.parametrize(
    ("size", "tokens"),
    [
        ((1024, 1024), 765),
        ((2048, 4096), 1105),
        ((512, 512), 255),
        ((512, 513), 425),
        ((1092, 2184), 1105),
        ((1100, 2200), 1105),
        ((1, 1), 255),
        ((2048, 768), 1445),
        (None, 1445),
    ],
)
def test_tiles_follow_the_guide(size: tuple[int, int] | None, tokens: int) -> None:
    """OpenAI's own examples for gpt-4o, a single tile, and the most for an unknown size."""
    assert Tiles(85, 170).tokens(size, "high") == tokens
    assert Tiles(85, 170).tokens(None) >= tokens


def test_low_detail_costs_the_base() -> None:
    """In low detail an image of tiles costs the base, whatever its size."""
    assert Tiles(85, 170).tokens((2048, 4096), "low") == 85


@pytest.mark.parametrize(
    ("cost", "size", "tokens"),
    [
        (Patches(32, 1536, 1.2), (1024, 1024), 1229),
        (Patches(32, 1536, 1.2), (1600, 1600), 1844),
        (Patches(32, 1536, 1.2), None, 1844),
        (Patches(32, 1536), (1024, 1024), 1024),
        (Patches(32, 1536, 1.62), (4000, 1474), 2489),
        (Patches(32, 1536, 2.46), (1, 1), 3),
        (Patches(28, 1568), (1568, 728), 1456),
        (Patches(28, 1568), (9000, 9000), 1568),
    ],
)
def test_patches_are_counted_up_to_their_budget(
    cost: Patches, size: tuple[int, int] | None, tokens: int
) -> None:
    """Each patch begun costs its share, and a large image no more than the budget."""
    for detail in (None, "auto", "low", "high", "original", ["high"]):
        assert cost.tokens(size, detail) == tokens


@pytest.mark.parametrize(
    ("size", "tokens"),
    [((320, 320), 120), ((1600, 1600), 3000), ((4000, 4000), 12_000), (None, 12_000)],
)
def test_original_detail_has_a_budget_of_its_own(size: tuple[int, int] | None, tokens: int) -> None:
    """It is never less than that of high detail."""
    cost = Patches(32, 1536, 1.2, original=10_000)
    assert cost.tokens(size, "original") == tokens
    assert cost.tokens(size, "high") == min(tokens, 1844)


@pytest.mark.parametrize(
    ("size", "tokens"),
    [((256, 256), 77), ((1920, 1080), 2448), ((3840, 2160), 9792), ((4032, 3024), 14_364)],
)
def test_an_image_is_shown_in_full_unless_another_detail_is_asked_for(
    size: tuple[int, int], tokens: int
) -> None:
    """As measured with GPT-6: https://huggingface.co/datasets/JOHNISKING/image-token-cost."""
    cost = Patches(32, 2500, 1.2, original=inf, in_full=True)
    assert [cost.tokens(size, detail) for detail in (None, "auto", "original")] == [tokens] * 3
    assert cost.tokens(size, "high") == cost.tokens(size, "low") == min(tokens, 3000)
