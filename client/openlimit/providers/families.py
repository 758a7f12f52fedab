"""What differs between models beside their encoding: framing, images, and Claude.

The framing is that of OpenAI's cookbook, notebook "How to count tokens with tiktoken".
"""

import functools
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import ceil, inf

from openlimit.tokens.claude import LATER, PER_TOKEN, Claude
from openlimit.tokens.images import ImageCost, Patches, Tiles

__all__ = ["Family", "family_of"]

_GPT_4O = Tiles(85, 170)


@dataclass(frozen=True, slots=True)
class Family:
    """In tokens."""

    per_message: int = 3
    per_name: int = 1
    per_function: int = 7
    image: ImageCost = _GPT_4O
    per_second: int = 10
    """Of a recording."""
    claude: Claude | None = None


# Patches since GPT-5.2, as users measured them: OpenAI's guide does not say all of it. From 5.4 on
# the budget is larger (https://community.openai.com/t/1377015; the small models cost less there
# than by the factors of the guide, which stand here). From 5.5 on an image is shown in full unless
# high detail is asked for, from 6 on without a bound
# (https://huggingface.co/datasets/JOHNISKING/image-token-cost and, for 6.1,
# https://docs.apiyi.com/en/faq/vision-image-too-large).
_LARGER = 2500
_ORIGINAL = 10_000

# Gemini's highest resolution, four times what Gemini 3 was measured to take by default, and more
# than six tiles of Gemini 2 cost; a recording takes 32 tokens a second. Google, "Media resolution"
# and "Audio understanding".
_GEMINI = Tiles(2240, 0)

_OLDER = Claude(PER_TOKEN, 346)  # up to 4.6; Claude 3 has longer prompts
_CLAUDE_3 = Claude(PER_TOKEN, 530)
_NEWER = Claude(PER_TOKEN * LATER, ceil(346 * LATER))


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
    "gpt-5.4-mini*": Family(image=Patches(32, _LARGER, 1.62, original=_ORIGINAL)),
    "gpt-5.4-nano*": Family(image=Patches(32, _LARGER, 2.46, original=_ORIGINAL)),
    "gpt-[5-9]*-mini*": Family(image=Patches(32, _LARGER, 1.62, original=inf, in_full=True)),
    "gpt-[5-9]*-nano*": Family(image=Patches(32, _LARGER, 2.46, original=inf, in_full=True)),
    "gpt-5": Family(image=Tiles(70, 140)),
    "gpt-5-*": Family(image=Tiles(70, 140)),
    "gpt-5.1": Family(image=Tiles(70, 140)),
    "gpt-5.1-*": Family(image=Tiles(70, 140)),
    "gpt-5.[23]": Family(image=Patches(32, 1536, 1.2, original=_ORIGINAL)),
    "gpt-5.[23]-*": Family(image=Patches(32, 1536, 1.2, original=_ORIGINAL)),
    "gpt-5.4": Family(image=Patches(32, _LARGER, 1.2, original=_ORIGINAL)),
    "gpt-5.4-*": Family(image=Patches(32, _LARGER, 1.2, original=_ORIGINAL)),
    "gpt-5.[5-9]*": Family(image=Patches(32, _LARGER, 1.2, original=_ORIGINAL, in_full=True)),
    "gpt-[5-9]*": Family(image=Patches(32, _LARGER, 1.2, original=inf, in_full=True)),
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
    "*gemini*": Family(image=_GEMINI, per_second=32),
    "*": Family(),
}


@functools.lru_cache(maxsize=256)
def family_of(model: str) -> Family:
    """The family of a model, by the name that ``base_model`` gives it."""
    name = model.lower()
    return next(family for pattern, family in _FAMILIES.items() if fnmatchcase(name, pattern))
