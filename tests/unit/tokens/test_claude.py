"""Claude's tokens: the documented figures are reached, and the last public tokenizer's passed."""

# ruff: noqa: RUF001 - letters of other scripts are what is counted

from importlib.metadata import files
from unicodedata import normalize

import pytest
from tokenizers import Tokenizer

from openlimit.tokens.counting import count_split

WEATHER = {
    "name": "get_weather",
    "description": "Get the current weather in a given location",
    "input_schema": {
        "type": "object",
        "properties": {
            "location": {
                "type": "string",
                "description": "The city and state, e.g. San Francisco, CA",
            }
        },
        "required": ["location"],
    },
}
ASKING = [{"role": "user", "content": "What's the weather like in San Francisco?"}]
TEXTS = {
    "English": "Leaving keeps the charge of what was not settled, also after an exception. " * 4,
    "capitals": "RATE LIMITS CAN ALSO BE USED FOR ASYNCHRONOUS REQUESTS. ",
    "German": "Die Ratenbegrenzung kann auch für asynchrone Anfragen verwendet werden. ",
    "French": "La limitation de débit peut également être utilisée pour les requêtes. ",
    "Russian": "Ограничение скорости можно применять и к асинхронным запросам. ",
    "Greek": "Το όριο ρυθμού μπορεί να χρησιμοποιηθεί και για ασύγχρονα αιτήματα. ",
    "Hebrew": "ניתן להשתמש במגבלות קצב גם עבור בקשות אסינכרוניות. ",
    "Arabic": "يمكن استخدام حدود المعدل أيضًا للطلبات غير المتزامنة. ",
    "Hindi": "दर सीमाएँ अतुल्यकालिक अनुरोधों के लिए भी उपयोग की जा सकती हैं। ",
    "Thai": "ขีดจำกัดอัตราสามารถใช้กับคำขอแบบอะซิงโครนัสได้ด้วย ",
    "Amharic": "የፍጥነት ገደቦች ለተመሳሰሉ ጥያቄዎችም ጥቅም ላይ ሊውሉ ይችላሉ። ",
    "Chinese": "速率限制也可以用于异步请求，默认情况下使用内存存储来跟踪。",
    "Japanese": "速度制限は非同期リクエストにも使用できます。",
    "Korean": "속도 제한은 비동기 요청에도 사용할 수 있습니다. ",
    "emoji": "😀🦊🎉👩‍👩‍👧‍👦🏳️‍🌈🧑🏽‍🚀",
    "symbols": "∑∫√≠≤≥∞∂∇⊗⊕∈∉⊂⊃∪∩αβγδεζηθ",
    "numbers": "31415926535897932384626433832795028841971693993751 550e8400-e29b-41d4-a716 ",
    "code": "async def areserve(self, model: str, costs: Mapping[str, int]) -> None:\n    ...\n",
}


def input_of(model: str = "claude-sonnet-4-5", **params: object) -> int:
    return count_split({"model": model, "messages": ASKING, **params}).input


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """That of Claude 2, which LiteLLM carries."""
    [file] = [each for each in files("litellm") or () if each.name == "anthropic_tokenizer.json"]
    return Tokenizer.from_file(str(file.locate()))


def test_the_documented_example_counts_no_less() -> None:
    """403 tokens with the tool, of which a quarter more is counted at most; 14 for a greeting."""
    assert 403 <= input_of(tools=[WEATHER]) < 403 * 1.25
    function = {"name": "get_weather", "parameters": WEATHER["input_schema"]}
    assert input_of(tools=[{"type": "function", "function": function}]) > 346 + 43
    greeting = [{"role": "user", "content": "Hello, Claude"}]
    assert input_of(system="You are a scientist", messages=greeting) >= 14


def test_tools_bring_their_system_prompt_once() -> None:
    """With the first tool, whatever is said about their use; none without any."""
    assert input_of(tools=[]) == input_of()
    one = input_of(tools=[WEATHER])
    assert one - input_of() >= 346 + 43
    assert input_of(tools=[WEATHER] * 2) - one < 200
    for choice in ("auto", "any", "none", "tool"):
        assert input_of(tools=[WEATHER], tool_choice={"type": choice}) >= one


@pytest.mark.parametrize(
    ("model", "prompt"),
    [
        ("claude-3-opus-20240229", 530),
        ("anthropic.claude-3-5-sonnet-20240620-v1:0", 294),
        ("claude-3-7-sonnet-latest", 346),
        ("claude-sonnet-4@20250514", 346),
        ("us.anthropic.claude-opus-4-1-20250805-v1:0", 346),
        ("anthropic/claude-haiku-4.5", 346),
        ("claude-opus-4-7", 346 * 1.47),
        ("claude-something-9", 346 * 1.47),
    ],
)
def test_the_prompt_is_that_of_the_model(model: str, prompt: float) -> None:
    """As its documentation tells it; a later one's is as much longer as its tokens are more."""
    assert prompt <= input_of(model, tools=[WEATHER]) - input_of(model) < 2 * max(prompt, 346)


@pytest.mark.parametrize(
    ("kind", "tokens"),
    [
        ("bash_20250124", 245),
        ("text_editor_20250124", 700),
        ("text_editor_20250728", 700),
        ("computer_20250124", 735),
        ("computer_20251124", 735),
        ("web_search_20250305", 1000),
        ("mcp_toolset", 1000),
    ],
)
def test_built_in_tools_add_what_is_documented(kind: str, tokens: int) -> None:
    """And those of which nothing is said more than most."""
    tool = {"type": kind, "name": "x"}
    assert input_of(tools=[tool]) - input_of() >= 346 + tokens
    assert input_of(tools=[{**WEATHER, "type": "custom"}]) - input_of() < 346 + 200
    assert input_of("gpt-4o", tools=[tool]) - input_of("gpt-4o") < 60


@pytest.mark.parametrize("script", TEXTS)
def test_text_counts_no_less_than_the_last_public_tokenizer(
    tokenizer: Tokenizer, script: str
) -> None:
    """With a margin, for what later models count more; and not absurdly more."""
    text = TEXTS[script]
    known = len(tokenizer.encode(normalize("NFKC", text)).ids)
    messages = [{"role": "user", "content": text}]
    counted = input_of(messages=messages) - input_of(messages=[{"role": "user"}])
    assert 1.15 * known <= counted <= 3.5 * known
    later = input_of("claude-opus-4-7", messages=messages)
    assert later > input_of(messages=messages)
