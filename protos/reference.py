"""Writes docs/reference.md from the comments of the protos; run it by ``make reference``."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

PROTOS = Path(__file__).parent
PAGE = PROTOS.parent / "docs" / "reference.md"
_PROTO = "openlimit/v1/rate_limit.proto"
_HEAD = """\
# Reference

`make reference` writes this page from the comments of
[the proto](../protos/openlimit/v1/rate_limit.proto). Each field has its number on the wire.
"""

_Place = tuple[int, ...]
# Numbers of fields in descriptor.proto, of which places in a file are made.
_MESSAGES, _SERVICES, _METHODS, _FIELDS, _ONEOFS = 4, 6, 2, 2, 8


def page() -> str:
    """The page as it has to be now."""
    file = _compiled()
    return "\n".join([_HEAD, *_Reference(file).lines()])


def _compiled() -> FileDescriptorProto:
    with TemporaryDirectory() as folder:
        compiled = Path(folder, "compiled")
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", _PROTO]
        command += ["--include_source_info", f"--descriptor_set_out={compiled}"]
        subprocess.run(command, check=True)
        [file] = FileDescriptorSet.FromString(compiled.read_bytes()).file
    return file


class _Reference:
    def __init__(self, file: FileDescriptorProto) -> None:
        self._file = file
        self._package = f".{file.package}."
        locations = file.source_code_info.location
        self._comments = {tuple(each.path): each.leading_comments for each in locations}

    def lines(self) -> Iterator[str]:
        for number, service in enumerate(self._file.service):
            yield from self._service(service, (_SERVICES, number))
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
        if field.type == FieldDescriptorProto.TYPE_MESSAGE:
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
