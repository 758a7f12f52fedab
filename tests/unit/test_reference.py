"""The reference is what the proto says today."""

from openlimit.v1.rate_limit_pb2 import DESCRIPTOR
from protos import reference


def test_the_reference_is_fresh() -> None:
    """``make reference`` would change nothing."""
    written = reference.PAGE.read_text(encoding="utf-8")
    assert written == reference.page(), "the proto has changed: run `make reference` and commit"


def test_the_reference_has_all_calls_messages_and_fields() -> None:
    """Each once, with its number and what it means."""
    sections = dict(part.split("\n", 1) for part in reference.page().split("\n## ")[1:])
    [service] = DESCRIPTOR.services_by_name.values()
    calls = dict(part.split("\n", 1) for part in sections[service.name].split("\n### ")[1:])
    assert [*calls] == [method.name for method in service.methods]
    assert [*sections][1:] == [*DESCRIPTOR.message_types_by_name]
    for name, message in DESCRIPTOR.message_types_by_name.items():
        for field in message.fields:
            [line] = [each for each in sections[name].split("\n") if f"- `{field.name}` (" in each]
            head, _, meaning = line.partition("): ")
            assert f"({field.number}, " in head
            assert meaning
