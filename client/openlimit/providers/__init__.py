"""What differs between the providers of models: one file for each, and its place in a list here."""

import functools
from fnmatch import fnmatchcase

from openlimit.providers.anthropic import ANTHROPIC
from openlimit.providers.bedrock import BEDROCK
from openlimit.providers.gemini import GEMINI
from openlimit.providers.openai import OPENAI
from openlimit.providers.provider import Family

PROVIDERS = (OPENAI, ANTHROPIC, GEMINI, BEDROCK)

_FAMILIES = [
    (pattern, family)
    for provider in PROVIDERS
    for patterns, family in provider.families.items()
    for pattern in patterns.split()
]


@functools.lru_cache(maxsize=256)
def family_of(model: str) -> Family:
    """The family of a model, by the name that ``base_model`` gives it."""
    name = model.lower()
    return next((family for pattern, family in _FAMILIES if fnmatchcase(name, pattern)), Family())
