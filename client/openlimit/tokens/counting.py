"""The tokens a call may use, counted from the parameters it is about to be made with.

This module tells the kinds of calls apart and reserves their output. prompt.py counts what the
model is shown, encodings.py text and files.py files; images.py finds the sizes of images.

How far the count can be off: for OpenAI's models it is exact for plain messages and flat tools, and
too high for most else. For Claude it is an estimate that errs high, see providers/anthropic.py. For
models of other providers text counts as in OpenAI's newest encoding, which can be too low, most of
all outside the Latin script. What a caller cannot know is not counted, so any count can be too low:
a previous response, a hosted tool's results, files given by id or address.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from openlimit.errors import InvalidRequest, invalid, shown
from openlimit.tokens.encodings import base_model
from openlimit.tokens.prompt import PromptCounter, is_list, plain
from openlimit.units import INPUT_TOKENS, MAX_AMOUNT, OUTPUT_TOKENS, TOKENS, whole_number

DEFAULT_OUTPUT = 15  # what a call that sets no maximum is taken to write
_FORMATS = ["tool_choice", "function_call", "response_format", "text", "text_format"]
_FORMATS += ["output_format", "output_config"]  # Anthropic's
_MAXIMA = ("max_completion_tokens", "max_output_tokens", "max_tokens")


class TokenCount(NamedTuple):
    """Tokens of a call."""

    input: int
    output: int


def count_tokens(**params: Any) -> int:
    """Tokens that ``.limit(**params)`` charges, for exactly what the API call takes: its input, and
    the output it reserves. See ``count_split``."""
    return sum(count_split(params))


def count_costs(params: Mapping[str, Any]) -> dict[str, int]:
    """What ``.limit(**params)`` charges, by unit: ``tokens``, and of these ``input_tokens`` and
    ``output_tokens``. The last is absent for a call that sets no maximum. See ``count_split``.

    Raises InvalidRequest also for more tokens than can be sent."""
    split = count_split(params)
    if (tokens := sum(split)) > MAX_AMOUNT:
        raise invalid("tokens", f"{MAX_AMOUNT} at most", tokens)
    costs = {TOKENS: tokens, INPUT_TOKENS: split.input}
    if not split.output or _tells_output(params):  # else it is for a server to say
        costs[OUTPUT_TOKENS] = split.output
    return costs


def count_split(params: Mapping[str, Any]) -> TokenCount:
    """Tokens a call with these API parameters may use: its input, and the output it reserves.

    `params` is what the call itself gets. ``messages`` makes it a chat completion or an Anthropic
    message, ``prompt`` a completion, ``input`` an embedding (by the model's name, ``dimensions`` or
    ``encoding_format``, or if it is a list of texts or token ids), and anything else a response.
    SDK objects count as what they are sent as; ``None`` and the SDKs' marks for "not given" count
    as absent.

    The output is the first of ``max_completion_tokens``, ``max_output_tokens`` and ``max_tokens``
    that is a positive integer, else 15, for each choice (``n``, ``best_of``, prompts); an embedding
    has none. Of what is given by id or address, a file counts as one page and an image as the
    largest.

    Blocks while it counts, about 0.1 s per megabyte. The first count in an encoding loads it, about
    0.3 s, or looks for it on the network, a few seconds at most and once per process.

    Raises InvalidRequest where the API would refuse the call as well (``messages`` is not a list,
    a maximum is no whole number, a value cannot be written as JSON), and for an iterator, which
    counting would use up.
    """
    given = {name: value for name, value in params.items() if not is_absent(value)}
    counter = PromptCounter(given.get("model"))
    try:
        if "messages" in given:
            output = _output(given) * _positive(given, "n", 1)
            return TokenCount(_chat_input(counter, given), output)
        if "prompt" in given and not isinstance(given["prompt"], Mapping):
            output = _output(given) * _completions(given)
            shown = counter.texts(given["prompt"]) + counter.content(given.get("suffix"))
            return TokenCount(shown, output)
        if _is_embedding(given):
            return TokenCount(counter.texts(given["input"]), 0)
        return TokenCount(_response_input(counter, given), _output(given))
    except RecursionError:
        raise InvalidRequest("params", "nested too deeply, or containing itself") from None


def _tells_output(params: Mapping[str, Any]) -> bool:
    """Whether a call with these parameters says how much it may write at most."""
    return any((whole_number(params.get(name)) or 0) > 0 for name in _MAXIMA)


def is_absent(value: object) -> bool:
    """Whether a parameter is as good as not given."""
    # By name: each SDK has its own such class, and neither needs to be installed.
    return value is None or type(value).__name__ in {"NotGiven", "Omit"}


def _is_embedding(given: Mapping[str, Any]) -> bool:
    of_one = "embed" in base_model(given.get("model"))
    if of_one or given.keys() & {"dimensions", "encoding_format"}:
        return "input" in given
    items = given.get("input")
    first = items[0] if is_list(items) and len(items) else None
    return isinstance(first, str | int) or is_list(first)


def _chat_input(counter: PromptCounter, given: Mapping[str, Any]) -> int:
    system = [{"role": "system", "content": given["system"]}] if "system" in given else []
    messages = [*system, *_list(given, "messages")]
    return counter.conversation(messages) + _shared_input(counter, given)


def _response_input(counter: PromptCounter, given: Mapping[str, Any]) -> int:
    items = given.get("input", [])
    items = list(items) if is_list(items) else [{"role": "user", "content": items}]
    if "instructions" in given:
        items.insert(0, {"role": "system", "content": given["instructions"]})
    template = counter.content(given.get("prompt"))
    return (counter.conversation(items) if items else 0) + template + _shared_input(counter, given)


def _shared_input(counter: PromptCounter, given: Mapping[str, Any]) -> int:
    """What chat completions and responses have in common: tools, and the format of the answer."""
    tools = [tool for name in ("tools", "functions") for tool in _list(given, name)]
    formats = (plain(given.get(name)) for name in _FORMATS)
    shown = sum(counter.text(value) for value in formats if isinstance(value, Mapping))
    return counter.tools(tools) + shown


def _list(given: Mapping[str, Any], name: str) -> Sequence[Any]:
    if not is_list(value := given.get(name, ())):
        raise InvalidRequest(name, f"expected a list, got {type(value).__name__}")
    return value


def _output(given: Mapping[str, Any]) -> int:
    maxima = (_positive(given, name, 0) for name in _MAXIMA)
    return next(filter(None, maxima), DEFAULT_OUTPUT)


def _completions(given: Mapping[str, Any]) -> int:
    """How many completions are written: `n`, or the `best_of` to choose from, for each prompt."""
    prompt = given["prompt"]
    several = is_list(prompt) and len(prompt) > 0 and whole_number(prompt[0]) is None
    each = max(_positive(given, "n", 1), _positive(given, "best_of", 1))
    return each * (len(prompt) if several else 1)


def _positive(given: Mapping[str, Any], name: str, default: int) -> int:
    """The parameter if it is a positive integer, the default if it is absent or 0 or less."""
    if name not in given:
        return default
    number = whole_number(given[name])
    if number is None:
        raise InvalidRequest(name, f"must be a whole number, not {_described(given[name])}")
    return number if number > 0 else default


def _described(value: object) -> str:
    """A number, or the type of anything else: no text of a call belongs in an error."""
    return shown(value) if isinstance(value, int | float) else f"a {type(value).__name__}"
