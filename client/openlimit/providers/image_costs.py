"""What an image costs, by its width and height in pixels: the providers' formulas.

An image whose size is not known counts as the largest that the model is shown, if there is one.
"""

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, prod

_LARGEST = (2048, 768)  # no other shape has more tiles
_PHOTO = 12_000  # patches of 32 pixels


@dataclass(frozen=True, slots=True)
class Tiles:
    """A base and an amount per tile of 512 pixels, after fitting into 2048 and 768 pixels.

    Source: OpenAI, "Images and vision", calculating costs.
    """

    base: int
    per_tile: int

    def tokens(self, size: tuple[int, int] | None, detail: object = None) -> int:
        """Low detail costs the base alone, whatever the size."""
        if detail == "low":
            return self.base
        size = size or _LARGEST
        # Exactly: a side that comes out at a whole number of tiles must not take one more.
        scale = min(Fraction(2048, max(2048, *size)), Fraction(768, max(768, min(size))))
        return self.base + self.per_tile * prod(ceil(side * scale / 512) for side in size)


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

    def tokens(self, size: tuple[int, int] | None, detail: object = None) -> int:
        """Low detail costs the same as high. Where nothing bounds an image whose size is not known,
        it counts as a photo of twelve megapixels."""
        is_full = detail == "original" or (self.in_full and detail not in ("low", "high"))
        budget = max(self.budget, self.original if is_full else 0)
        patches = ceil(size[0] / self.side) * ceil(size[1] / self.side) if size else _PHOTO
        # Not for a rounding's sake one more.
        return ceil(round(min(budget, patches) * self.per_patch, 6))
