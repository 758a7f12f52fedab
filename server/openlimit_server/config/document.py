"""Reads the YAML of a file as the settings that it holds."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic import ValidationError as Invalid

from openlimit_server.config import faults, marked_yaml
from openlimit_server.config.faults import ConfigurationError
from openlimit_server.config.notation import shown

_Kind = TypeVar("_Kind", bound=BaseModel)


def read_document(
    path: str,
    data: bytes,
    kind: type[_Kind],
    context: Any,
    expected: str,
    show: Callable[[object], str] = shown,
) -> _Kind:
    """The settings in these bytes; ``path`` is what messages call the file.

    ``expected`` says what such a file holds, and ``show`` what messages may say of a value. The
    validators of ``kind`` get the ``context``. Raises ConfigurationError, with a line for each
    fault.
    """
    try:
        document = marked_yaml.parse(data, os.environ)
    except marked_yaml.NotYAML as error:
        raise ConfigurationError(f"{path}:{error}") from error
    if not isinstance(document, dict):
        raise ConfigurationError(f"{path}:1: expected {expected}, not {show(document)}")
    try:
        return kind.model_validate(document, context=context)
    except Invalid as error:  # which repeats values: no cause, since they may be secret
        raise faults.of_file(path, error.errors(), document, kind, show) from None
