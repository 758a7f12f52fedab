"""The reference is what the proto says today."""

import pytest
from google.protobuf.descriptor import FileDescriptor

from openlimit.v1 import admin_pb2, rate_limit_pb2
from protos import reference


def test_the_reference_is_fresh() -> None:
    """``make reference`` would change nothing."""
    written = reference.PAGE.read_text(encoding="utf-8")
    assert written == reference.page(), "the proto has changed: run `make reference` and commit"


@pytest.mark.parametrize("file", [rate_limit_pb2.DESCRIPTOR, admin_pb2.DESCRIPTOR])
def test_the_reference_has_all_calls_messages_and_fields(file: FileDescriptor) -> None:
    """Each once, with its number and what it means."""
    sections = dict(part.split("\n", 1) for part in reference.page().split("\n## ")[1:])
    [service] = file.services_by_name.values()
    calls = dict(part.split("\n", 1) for part in sections[service.name].split("\n### ")[1:])
    assert [*calls] == [method.name for method in service.methods]
    own = [service.name, *file.enum_types_by_name, *file.message_types_by_name]
    assert [name for name in sections if name in own] == own
    for enum in file.enum_types_by_name.values():
        for value in enum.values:
            assert f"- `{value.name}` ({value.number}): " in sections[enum.name]
    for name, message in file.message_types_by_name.items():
        for field in message.fields:
            [line] = [each for each in sections[name].split("\n") if f"- `{field.name}` (" in each]
            head, _, meaning = line.partition("): ")
            assert f"({field.number}, " in head
            assert meaning
