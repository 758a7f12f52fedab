"""What differs between models beside their encoding: framing, images, and Claude.

The framing is that of OpenAI's cookbook, notebook "How to count tokens with tiktoken".
"""

import functools
from dataclasses import dataclass
from fnmatch import fnmatchcase

from openlimit.claude_tokens import Claude
from openlimit.image_tokens import ImageCost, Patches, Tiles

__all__ = ["Family", "family_of"]

_GPT_4O = Tiles(85, 170)


@dataclass(frozen=True, slots=True)
class Family:
    """In tokens."""

    per_message: int = 3
    per_name: int = 1
    per_function: int = 7
    image: ImageCost = _GPT_4O
    claude: Claude | None = None


# From GPT-5.2 on; from GPT-5.4 on with a larger budget (measured: a square of 1600 pixels costs
# 2500 patches times 1.2). The factors of the small models are those of the guide: what they are
# charged with was measured as less.
_LARGER = 2500
_ORIGINAL = 10_000

_OLDER = Claude(1.6, 346)  # up to 4.6; Claude 3 has longer prompts
_CLAUDE_3 = Claude(1.6, 530)
_NEWER = Claude(2.35, 510)  # the tokenizer of 4.7: up to 1.47 times as many, prompts alike


def _claude(claude: Claude) -> Family:
    return Family(image=Patches(28, 4784), claude=claude)  # the largest budget among its models


# The first pattern that the model's name, in lower case, matches; the last matches all.
_FAMILIES = {
    "gpt-3.5-turbo-0301*": Family(per_message=4, per_name=-1, per_function=10),
    "gpt-3*": Family(per_function=10),
    "gpt-4o-mini*": Family(image=Tiles(2833, 5667)),
    "gpt-4.1-mini*": Family(image=Patches(32, 1536, 1.62)),
    "gpt-4.1-nano*": Family(image=Patches(32, 1536, 2.46)),
    "gpt-4[o.]*": Family(),
    "gpt-4*": Family(per_function=10),
    "gpt-5-mini*": Family(image=Patches(32, 1536, 1.62)),
    "gpt-5-nano*": Family(image=Patches(32, 1536, 2.46)),
    "gpt-5.1-codex-mini*": Family(image=Patches(32, 1536, 1.62)),
    "gpt-[5-9]*-mini*": Family(image=Patches(32, _LARGER, 1.62, original=_ORIGINAL)),
    "gpt-[5-9]*-nano*": Family(image=Patches(32, _LARGER, 2.46, original=_ORIGINAL)),
    "gpt-5": Family(image=Tiles(70, 140)),
    "gpt-5-*": Family(image=Tiles(70, 140)),
    "gpt-5.1": Family(image=Tiles(70, 140)),
    "gpt-5.1-*": Family(image=Tiles(70, 140)),
    "gpt-5.[23]": Family(image=Patches(32, 1536, 1.2, original=_ORIGINAL)),
    "gpt-5.[23]-*": Family(image=Patches(32, 1536, 1.2, original=_ORIGINAL)),
    "gpt-[5-9]*": Family(image=Patches(32, _LARGER, 1.2, original=_ORIGINAL)),
    "o[13]*": Family(image=Tiles(75, 150)),
    "o4-mini*": Family(image=Patches(32, 1536, 1.72)),
    "codex-mini*": Family(image=Patches(32, 1536, 1.72)),
    "*claude-3[-.]7*": _claude(_OLDER),
    "*claude-[123]*": _claude(_CLAUDE_3),
    "*claude-instant*": _claude(_CLAUDE_3),
    "*claude-4-[a-z]*": _claude(_OLDER),
    "*claude-*-4": _claude(_OLDER),
    "*claude-*-4@*": _claude(_OLDER),
    "*claude-*-4[-.][0-6]*": _claude(_OLDER),
    "*claude*": _claude(_NEWER),
    "*": Family(),
}


@functools.lru_cache(maxsize=256)
def family_of(model: str) -> Family:
    """The family of a model, by the name that ``base_model`` gives it."""
    name = model.lower()
    return next(family for pattern, family in _FAMILIES.items() if fnmatchcase(name, pattern))
