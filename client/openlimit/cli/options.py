"""What the commands have in common: whom they ask, how a call is told, and how they end."""

import getpass
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Annotated, Any

import grpc
import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console, RenderableType

from openlimit.cli.show import printable
from openlimit.errors import (
    InvalidRequest,
    LimiterUnavailable,
    OpenLimitError,
    PermissionDenied,
    UnknownModel,
)
from openlimit.remote.address import DEFAULT_ADDRESS
from openlimit.remote.limiter import RemoteLimiter
from openlimit.remote.operators import Operators

REFUSED, WRONG, NO_ANSWER, DENIED, INTERRUPTED = 1, 2, 3, 4, 130
"""Exit codes."""

LONGEST = 1e9  # seconds
_MOST_DIGITS = 15

# A file has no width: lines are not cut there.
console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160)
errors = Console(stderr=True)


@dataclass(frozen=True)
class Server:
    """Whom to ask."""

    address: str
    credentials: grpc.ChannelCredentials | None
    timeout: float

    def operators(self) -> Operators:
        """Asks it what operators ask."""
        # No option has the key: everybody can read the arguments of a process.
        api_key = os.environ.get("OPENLIMIT_API_KEY", "")
        return Operators(self.address, api_key, self.credentials, self.timeout)

    def limiter(self, key: str) -> RemoteLimiter:
        """Asks it as callers do."""
        return RemoteLimiter(
            self.address, key=key, timeout=self.timeout, credentials=self.credentials
        )


def server_of(
    address: str, timeout: float, ca: Path | None, cert: Path | None, key: Path | None, *, tls: bool
) -> Server:
    """Raises InvalidRequest for files that cannot be read."""
    if (cert is None) != (key is None):
        raise InvalidRequest("cert", "--cert and --cert-key need each other")
    credentials = None
    if tls or ca or cert:
        credentials = grpc.ssl_channel_credentials(*map(_content, (ca, key, cert)))
    return Server(address or DEFAULT_ADDRESS, credentials, timeout)


def _content(path: Path | None) -> bytes | None:
    try:
        return path.read_bytes() if path else None
    except OSError as error:
        raise InvalidRequest(str(path), f"cannot be read: {error.strerror}") from error


def ask(context: typer.Context, method: str, request: Message) -> Any:
    """The server's answer, as an operator gets it."""
    server: Server = context.obj
    with server.operators() as operators:
        return operators.ask(method, request)


Model = Annotated[str, typer.Argument(help="The model of the call, such as gpt-4o.")]
Tokens = Annotated[int, typer.Option(min=0, max=10**_MOST_DIGITS, help="Tokens, input and output.")]
Units = Annotated[
    list[str] | None,
    typer.Option("--unit", metavar="UNIT=AMOUNT", help="A cost in another unit, such as images=2."),
]
Key = Annotated[str, typer.Option(help="Whose call it is, for policies that split by it.")]
Labels = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="NAME=VALUE", help="Whose call it is, such as team=search."),
]
MaxWait = Annotated[
    float | None,
    typer.Option(min=0, max=LONGEST, help="The longest wait in seconds; else the policy's own."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def pairs(option: str, given: Sequence[str] | None) -> dict[str, str]:
    """NAME=VALUE each; raises InvalidRequest."""
    found = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InvalidRequest(option, f"expected NAME=VALUE, not {text!r}")
        found[name] = value
    return found


def amounts(given: Sequence[str] | None) -> dict[str, int]:
    """By unit; raises InvalidRequest."""
    found = {}
    for unit, text in pairs("--unit", given).items():
        if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
            raise InvalidRequest(
                "--unit", f"expected a whole number of {_MOST_DIGITS} digits at most, not {text!r}"
            )
        found[unit] = int(text)
    return found


def somebody() -> str:
    """Who sits at this terminal, for servers that do not know their callers."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name
        return f"user {os.getuid()}"


def say(sentence: str, to: Console = console) -> None:
    """Print it as it is: callers choose names, which may look like markup or commands."""
    to.print(printable(sentence), markup=False, highlight=False, soft_wrap=True)


def print_json(content: Message | dict[str, Any]) -> None:
    """On a line of its own, with nothing else on standard output."""
    if isinstance(content, Message):
        content = MessageToDict(
            content, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
    console.print_json(data=content)


def tell(answer: Message, for_people: RenderableType, *, as_json: bool) -> None:
    """Print what a server has answered: in JSON, or as people read it."""
    if as_json:
        print_json(answer)
    else:
        console.print(for_people)


@contextmanager
def exiting() -> Iterator[None]:
    """Errors become a line on standard error, and an exit code."""
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except (OpenLimitError, UnicodeEncodeError) as error:
        say(f"openlimit: {error}", errors)
        raise typer.Exit(_code(error)) from error


def run(command: list[str]) -> int:
    """Run a command and return its exit code, or less than 0 if a signal has ended it. Raises
    OSError if there is no such command.

    SIGTERM is passed on to it. Ctrl-C is left to it: the terminal tells it as well.
    """
    process: subprocess.Popen[bytes] | None = None
    is_to_end = False

    def terminate(*_: object) -> None:
        nonlocal is_to_end
        is_to_end = True
        if process:
            process.terminate()

    # Before it begins: it may be told to end before Popen returns.
    handlers = {signal.SIGTERM: terminate, signal.SIGINT: lambda *_: None}
    before = {number: signal.signal(number, handle) for number, handle in handlers.items()}
    try:
        process = subprocess.Popen(command)
        if is_to_end:
            process.terminate()
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interruption() -> Iterator[Event]:
    """Is set by Ctrl-C, which gRPC may lose while it waits for an answer."""
    interrupted = Event()
    before = signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def _code(error: Exception) -> int:
    match error:
        case InvalidRequest() | UnknownModel() | UnicodeEncodeError():
            return WRONG
        case LimiterUnavailable():
            return NO_ANSWER
        case PermissionDenied():
            return DENIED
    return REFUSED
