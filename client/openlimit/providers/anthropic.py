"""Anthropic, also on Vertex and Bedrock: there, with paths of Google and AWS."""

import re
from math import ceil

from openlimit.providers.provider import Family, Provider, UsageNames
from openlimit.tokens.claude import LATER, PER_TOKEN, Claude
from openlimit.tokens.images import Patches

__all__ = ["ANTHROPIC"]

_OLDER = Claude(PER_TOKEN, 346)  # up to 4.6; Claude 3 has longer prompts
_CLAUDE_3 = Claude(PER_TOKEN, 530)
_NEWER = Claude(PER_TOKEN * LATER, ceil(346 * LATER))


def _claude(claude: Claude) -> Family:
    return Family(image=Patches(28, 4784), claude=claude)  # the largest budget among its models


_FAMILIES = {
    "*claude-3[-.]7*": _claude(_OLDER),
    "*claude-[123]*": _claude(_CLAUDE_3),
    "*claude-instant*": _claude(_CLAUDE_3),
    "*claude-4-[a-z]*": _claude(_OLDER),
    "*claude-*-4": _claude(_OLDER),
    "*claude-*-4@*": _claude(_OLDER),
    "*claude-*-4[-.][0-6]*": _claude(_OLDER),
    "*claude*": _claude(_NEWER),
}

ANTHROPIC = Provider(
    # OpenAI's threads have messages as well, at another place.
    path=re.compile(r"/v\d+/messages/?$"),
    headers="anthropic-ratelimit-(requests|tokens|input-tokens|output-tokens)-{}",
    # Cache reads do not count towards its limits: https://docs.anthropic.com/en/api/rate-limits
    usage=UsageNames(
        input=("input_tokens",),
        output=("output_tokens",),
        cache_reads=("cache_read_input_tokens",),
        cache_writes=("cache_creation_input_tokens",),
    ),
    # The last usage repeats only some of the numbers of the first, or has zeros there.
    opening=("message.usage",),
    usages=("usage",),
    last_events=("message_stop",),
    families=_FAMILIES,
)
