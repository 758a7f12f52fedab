"""Anthropic, also on Vertex and Bedrock: there, with paths of Google and AWS.

The tokenizer of Claude is not public, so what a call costs it are estimates that err high.

Text counts as so many times its o200k tokens, and more outside the Latin script. The factors are
estimates, not checked at the provider. In models up to 4.6 text in Latin letters is known to take
more than 1.15 times o200k at times: 1.6 leaves room above that. From 4.7 on the same text takes up
to 1.35 times as many, says Anthropic, and 1.47 times, say users who asked its token counter
(https://www.claudecodecamp.com/p/i-measured-claude-4-7-s-new-tokenizer-here-s-what-it-costs-you).
Claude 2's tokenizer, the last public one, takes up to 4 times o200k in other scripts, which is what
the additions for these are for. So English and code should count about a third too high, other
scripts up to three times. The count can be too low for what nobody has published, such as a long
run of one letter, and for tools that run at the provider, whose definitions are not public.

Sources: Anthropic's documentation, "Tool use with Claude" (the system prompt that tools bring, what
the built-in ones add) and "Token counting" (its weather example, 403 tokens).
"""

import re
from collections.abc import Mapping
from functools import partial
from math import ceil
from typing import Any

from openlimit.providers.provider import Family, Names, Patches, Provider

_PER_TOKEN = 1.6  # of o200k, up to 4.6
_LATER = 1.47  # times that from 4.7 on
_TOOL_BLOCK = 40  # the markup around a call of a tool, or around its result: a guess

# Further tokens per character, by script: Greek to Arabic; Indic, Thai and other scripts with
# letters of three bytes, and symbols; Chinese, Japanese and Korean; what is beyond, as emoji.
_SCRIPTS = (
    (re.compile("[\u0370-\u07ff]+"), 1.0),
    (re.compile("[\u0800-\u1fff\u2070-\u2fff]+"), 2.0),
    (re.compile("[\u3000-\uffff]+"), 0.5),
    (re.compile("[\U00010000-\U0010ffff]+"), 2.0),
)

# What the documentation says that they add, for the tokenizer of before 4.7. A computer's system
# prompt of 466 to 499 tokens ("Computer use tool") is longer than that of other tools.
_BUILT_IN = {"bash": 245, "text_editor": 700, "computer": 735 + 499 - 346}
_OTHER_BUILT_IN = 2500  # a guess, for web search and the like, of which it says nothing
_VERSION = re.compile(r"_\d{8}$")


def _text(per_token: float, text: str, tokens: int) -> int:
    scaled = tokens * per_token
    if not text.isascii():
        for script, more in _SCRIPTS:
            scaled += more * sum(map(len, script.findall(text)))
    return ceil(scaled)


def _tool(per_token: float, tool: Mapping[Any, Any]) -> int:
    """What one adds that is named by its type; 0 for one that is defined in the call."""
    kind = tool.get("type")
    if not isinstance(kind, str) or kind in {"custom", "function"}:
        return 0
    tokens = _BUILT_IN.get(_VERSION.sub("", kind), _OTHER_BUILT_IN)
    return ceil(tokens * per_token / _PER_TOKEN)


def _claude(per_token: float, tools_prompt: int) -> Family:
    """`tools_prompt` is the system prompt that the first tool brings, whatever ``tool_choice``."""
    return Family(
        per_call=_TOOL_BLOCK,
        per_result=_TOOL_BLOCK,
        per_tools=tools_prompt,
        image=Patches(28, 4784),  # the largest budget among its models
        text=partial(_text, per_token),
        tool=partial(_tool, per_token),
    )


_OLDER = _claude(_PER_TOKEN, 346)  # up to 4.6; Claude 3 has longer prompts
_CLAUDE_3 = _claude(_PER_TOKEN, 530)
_NEWER = _claude(_PER_TOKEN * _LATER, ceil(346 * _LATER))

_FAMILIES = {
    "*claude-3[-.]7*": _OLDER,
    "*claude-[123]* *claude-instant*": _CLAUDE_3,
    "*claude-4-[a-z]* *claude-*-4 *claude-*-4@* *claude-*-4[-.][0-6]*": _OLDER,
    "*claude*": _NEWER,
}

ANTHROPIC = Provider(
    # OpenAI's threads have messages as well, at another place.
    path=re.compile(r"/v\d+/messages/?$"),
    headers="anthropic-ratelimit-(requests|tokens|input-tokens|output-tokens)-{}",
    # Cache reads do not count towards its limits: https://docs.anthropic.com/en/api/rate-limits
    usage=Names(
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
