"""How labels and weights are written."""

import re
from typing import Annotated

from pydantic import BeforeValidator

from openlimit.context import require_value
from openlimit.errors import InvalidRequest
from openlimit_server.config import spelling
from openlimit_server.config.notation import shown, written

OWN = ("model", "key")
"""Labels that calls have by fields of their own."""
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)
_LEAST, _MOST = 0.001, 1_000_000.0
_WEIGHT = re.compile(r"\d+(\.\d+)?", re.ASCII)


def _label(name: object) -> str:
    expected = "model, key or a label such as team: 1 to 64 lower-case letters, digits and _"
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"expected {expected}, beginning with a letter, not {shown(name)}")
    if name not in OWN and (guess := spelling.closest(name, OWN)):
        raise ValueError(f"expected {expected}, not {shown(name)}; write {guess}")
    return name


def _value(text: object) -> str:
    if not isinstance(text, str):
        raise ValueError(f"expected a label's value such as search, not {shown(text)}")
    try:
        require_value("", text)
    except InvalidRequest as error:
        raise ValueError(f"a label's value {error.reason}") from error
    return text


def _weight(text: object) -> float:
    if isinstance(text, int | float) and not isinstance(text, bool):
        text = f"{text:f}"
    weight = float(text) if isinstance(text, str) and _WEIGHT.fullmatch(text) else 0.0
    if not _LEAST <= weight <= _MOST:
        raise ValueError(
            f"expected a weight from {_LEAST:g} to {_MOST:.0f}, such as 4 or 0.2, not "
            f"{shown(text)}; values that are not listed have 1"
        )
    return weight


Label = Annotated[
    str, BeforeValidator(_label), written(type="string", pattern=f"^{_NAME.pattern}$")
]
"""Its name."""
Value = Annotated[str, BeforeValidator(_value)]
ValueOrNone = Annotated[str, BeforeValidator(lambda text: "" if text == "" else _value(text))]
"""Empty for calls that do not have the label."""
Weight = Annotated[
    float, BeforeValidator(_weight), written(type="number", minimum=_LEAST, maximum=_MOST)
]
