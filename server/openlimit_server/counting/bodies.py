"""What a call costs by its request body: strictly read, then counted as the library counts.

Bodies are private, and errors are logged by those who get them. So no error repeats what a body
says, but for numbers and the names of models and of the API's own parameters.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

from openlimit.errors import InvalidRequest
from openlimit.tokens.counting import count_costs
from openlimit.wire.fields import require_name

_KINDS = ("messages", "prompt", "input")


class Counted(NamedTuple):
    """A call by its body."""

    model: str
    """Empty for none."""
    costs: Mapping[str, int]
    """By unit, as ``count_costs`` says."""


def count_body(body: bytes, model: str) -> Counted:
    """The costs of a call, and the model it is for: this one or, if that is empty, the body's.

    Blocks while it counts, see ``count_split``. Raises InvalidRequest, whose field is ``model``,
    ``body`` or a parameter within it, for what is no JSON as RFC 8259 has it, for one that readers
    could take in two ways, and for what is no call.
    """
    require_name("model", model)
    params = _read(body)
    try:
        model = model or _model_of(params)
        if not any(params.get(name) is not None for name in _KINDS):
            raise InvalidRequest(
                "body", f"has none of {', '.join(_KINDS)}; for other calls, give the tokens"
            )
        return Counted(model, count_costs({**params, "model": model}))
    except InvalidRequest as error:
        within = error.field in params
        raise InvalidRequest(f"body.{error.field}" if within else "body", error.reason) from None


def _model_of(params: Mapping[str, Any]) -> str:
    model = params.get("model")
    if model is None:
        return ""
    if not isinstance(model, str):
        raise InvalidRequest("model", f"must be a text, not a {type(model).__name__}")
    require_name("model", model)
    return model


def _read(body: bytes) -> dict[str, Any]:
    try:
        params = json.loads(
            body.decode(), object_pairs_hook=_object_of, parse_constant=_refuse_constant
        )
    except UnicodeDecodeError as error:
        raise InvalidRequest("body", f"is no UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise InvalidRequest("body", f"is no JSON at character {error.pos}") from None
    except ValueError:  # Python reads no number of thousands of digits
        raise InvalidRequest("body", "has a number with too many digits") from None
    except RecursionError:
        raise InvalidRequest("body", "is nested too deeply") from None
    if not isinstance(params, dict):
        raise InvalidRequest("body", "must be a JSON object, with what the call's provider gets")
    return params


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """One whose names are different: of two values, the provider might take the other."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise InvalidRequest("body", "gives a name twice in one object")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidRequest("body", f"is no JSON: it has {name}")
