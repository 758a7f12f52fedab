"""OpenAI, Azure, and everybody who imitates OpenAI's interface."""

import re
from math import inf

from openlimit.providers.provider import Family, Names, Patches, Provider, Tiles

# Patches since GPT-5.2, as users measured them: OpenAI's guide does not say all of it. From 5.4 on
# the budget is larger (https://community.openai.com/t/1377015; the small models cost less there
# than by the factors of the guide, which stand here). From 5.5 on an image is shown in full unless
# high detail is asked for, from 6 on without a bound
# (https://huggingface.co/datasets/JOHNISKING/image-token-cost and, for 6.1,
# https://docs.apiyi.com/en/faq/vision-image-too-large).
_LARGER = 2500
_ORIGINAL = 10_000

_FAMILIES = {
    "gpt-3.5-turbo-0301*": Family(per_message=4, per_name=-1, per_call=4, per_function=10),
    "gpt-4o-mini*": Family(image=Tiles(2833, 5667)),
    "gpt-4.1-mini* gpt-5-mini* gpt-5.1-codex-mini*": Family(image=Patches(32, 1536, 1.62)),
    "gpt-4.1-nano* gpt-5-nano*": Family(image=Patches(32, 1536, 2.46)),
    "gpt-4[o.]*": Family(),
    "gpt-3* gpt-4*": Family(per_function=10),
    "gpt-5.4-mini*": Family(image=Patches(32, _LARGER, 1.62, original=_ORIGINAL)),
    "gpt-5.4-nano*": Family(image=Patches(32, _LARGER, 2.46, original=_ORIGINAL)),
    "gpt-[5-9]*-mini*": Family(image=Patches(32, _LARGER, 1.62, original=inf, in_full=True)),
    "gpt-[5-9]*-nano*": Family(image=Patches(32, _LARGER, 2.46, original=inf, in_full=True)),
    "gpt-5 gpt-5-* gpt-5.1 gpt-5.1-*": Family(image=Tiles(70, 140)),
    "gpt-5.[23] gpt-5.[23]-*": Family(image=Patches(32, 1536, 1.2, original=_ORIGINAL)),
    "gpt-5.4 gpt-5.4-*": Family(image=Patches(32, _LARGER, 1.2, original=_ORIGINAL)),
    "gpt-5.[5-9]*": Family(image=Patches(32, _LARGER, 1.2, original=_ORIGINAL, in_full=True)),
    "gpt-[5-9]*": Family(image=Patches(32, _LARGER, 1.2, original=inf, in_full=True)),
    "o[13]*": Family(image=Tiles(75, 150)),
    "o4-mini* codex-mini*": Family(image=Patches(32, 1536, 1.72)),
}

OPENAI = Provider(
    # Azure has the model in the path.
    path=re.compile(
        r"^(?s:.*?/deployments/(?P<model>[^/]+)(?=/))?+(?s:.*)"
        r"/(?:chat/completions|completions|embeddings|responses)/?$"
    ),
    headers="x-ratelimit-{}-(requests|tokens)",
    usage=Names(
        prompt=("prompt_tokens",),
        input=("input_tokens",),
        output=("completion_tokens", "output_tokens"),
        total=("total_tokens",),
    ),
    # Chat completions, responses, Groq's and Moonshot's.
    usages=("usage", "response.usage", "x_groq.usage", "choices.usage"),
    last_events=("response.completed", "response.failed", "response.incomplete"),
    families=_FAMILIES,
)
