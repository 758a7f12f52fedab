"""YAML to values that know their lines; whatever is wrong with a text is a YAMLError."""

from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, DuplicateKeyError, RoundTripConstructor
from ruamel.yaml.error import YAMLError
from ruamel.yaml.scanner import RoundTripScanner, ScannerError

from openlimit_server.notation import shown

_MAX_NESTING = 50  # far more than any field has


class _Scanner(RoundTripScanner):
    def fetch_flow_collection_start(self, *arguments: Any, **named: Any) -> None:
        if len(self.flow_context) >= _MAX_NESTING:  # ruamel's time grows with the square of it
            raise ScannerError(None, None, "nested too deeply", self.reader.get_mark())
        super().fetch_flow_collection_start(*arguments, **named)


class _Constructor(RoundTripConstructor):
    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:  # 2020-13-45 is taken for a date
            problem = f"cannot read {shown(node.value)}: {error}"
            raise ConstructorError(None, None, problem, node.start_mark) from error

    def check_mapping_key(
        self, node: Any, key_node: Any, mapping: Any, key: Any, value: Any
    ) -> bool:
        if key in mapping:  # ruamel's own message spells out both values
            problem = f"found duplicate key {shown(key)}"
            raise DuplicateKeyError(None, None, problem, key_node.start_mark)
        return True


def parse(text: str) -> Any:
    """The document; its mappings and lists have ``lc``. Raises YAMLError, marked where it can."""
    yaml = YAML(pure=True)
    yaml.Scanner, yaml.Constructor = _Scanner, _Constructor
    try:
        return yaml.load(text)
    except RecursionError as error:
        raise YAMLError("nested too deeply") from error
