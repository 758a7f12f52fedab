"""Writes docs/reference.md from the comments of the protos; run it by ``make reference``."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

PROTOS = Path(__file__).parent
PAGE = PROTOS.parent / "docs" / "reference.md"
_FILES = ("openlimit/v1/rate_limit.proto", "openlimit/v1/admin.proto")
_HEAD = """\
# Reference

`make reference` writes this page from the comments of the protos:
[rate_limit.proto](../protos/openlimit/v1/rate_limit.proto) for callers, and
[admin.proto](../protos/openlimit/v1/admin.proto) for operators. Each field has its number on the
wire.
"""

_Place = tuple[int, ...]
# Numbers of fields in descriptor.proto, of which places in a file are made.
_MESSAGES, _ENUMS, _SERVICES = 4, 5, 6
_METHODS, _FIELDS, _VALUES, _ONEOFS = 2, 2, 2, 8


def page() -> str:
    """The page as it has to be now."""
    lines = (line for file in _compiled() for line in _Reference(file).lines())
    return "\n".join([_HEAD, *lines])


def _compiled() -> list[FileDescriptorProto]:
    with TemporaryDirectory() as folder:
        compiled = Path(folder, "compiled")
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", *_FILES]
        command += ["--include_source_info", f"--descriptor_set_out={compiled}"]
        subprocess.run(command, check=True)
        return [*FileDescriptorSet.FromString(compiled.read_bytes()).file]


class _Reference:
    def __init__(self, file: FileDescriptorProto) -> None:
        self._file = file
        self._package = f".{file.package}."
        locations = file.source_code_info.location
        self._comments = {tuple(each.path): each.leading_comments for each in locations}

    def lines(self) -> Iterator[str]:
        for number, service in enumerate(self._file.service):
            yield from self._service(service, (_SERVICES, number))
        for number, enum in enumerate(self._file.enum_type):
            yield from self._enum(enum, (_ENUMS, number))
        for number, message in enumerate(self._file.message_type):
            yield from self._message(message, (_MESSAGES, number))

    def _service(self, service: ServiceDescriptorProto, place: _Place) -> Iterator[str]:
        yield f"## {service.name}\n"
        yield from self._text(place)
        for number, method in enumerate(service.method):
            asked = "stream of " * method.client_streaming + self._link(method.input_type)
            answered = "stream of " * method.server_streaming + self._link(method.output_type)
            yield f"\n### {method.name}\n"
            yield f"{asked} → {answered}\n"
            yield from self._text((*place, _METHODS, number))
        yield ""

    def _enum(self, enum: EnumDescriptorProto, place: _Place) -> Iterator[str]:
        yield f"## {enum.name}\n"
        yield from self._text(place)
        yield ""
        for number, value in enumerate(enum.value):
            head = f"`{value.name}` ({value.number})"
            yield from self._item(head, (*place, _VALUES, number), "")
        yield ""

    def _message(self, message: DescriptorProto, place: _Place) -> Iterator[str]:
        yield f"## {message.name}\n"
        yield from self._text(place)
        yield ""
        begun = -1  # the oneof whose fields are listed
        for number, field in enumerate(message.field):
            is_one = field.HasField("oneof_index") and not field.proto3_optional
            if is_one and field.oneof_index != begun:
                begun = field.oneof_index
                name = message.oneof_decl[begun].name
                yield from self._item(f"`{name}`, one of", (*place, _ONEOFS, begun), "")
            head = f"`{field.name}` ({field.number}, {self._type(field, message)})"
            yield from self._item(head, (*place, _FIELDS, number), "  " * is_one)
        if message.field:
            yield ""

    def _item(self, head: str, place: _Place, indent: str) -> Iterator[str]:
        first, *others = self._text(place)
        yield f"{indent}- {head}: {first}"
        for line in others:
            yield f"{indent}  {line}" if line else ""

    def _text(self, place: _Place) -> list[str]:
        """The lines of a comment. Every message, field and call has one, as `buf lint` requires."""
        return [line.removeprefix(" ") for line in self._comments[place].rstrip().split("\n")]

    def _type(self, field: FieldDescriptorProto, message: DescriptorProto) -> str:
        for entry in message.nested_type:
            if entry.options.map_entry and field.type_name.endswith(
                f".{message.name}.{entry.name}"
            ):
                key, value = (self._type(each, entry) for each in entry.field)
                return f"map of {key} to {value}"
        if field.type_name:
            name = self._link(field.type_name)
        else:
            name = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
        repeated = field.label == FieldDescriptorProto.LABEL_REPEATED
        return "repeated " * repeated + "optional " * field.proto3_optional + name

    def _link(self, type_name: str) -> str:
        """A message's name, which leads to it if it is on the page."""
        if not type_name.startswith(self._package):
            return f"`{type_name.removeprefix('.')}`"
        name = type_name.removeprefix(self._package)
        return f"[{name}](#{name.lower()})"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
