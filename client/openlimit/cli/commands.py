"""The commands of ``openlimit``."""

import json
import sys
import time
from datetime import datetime
from importlib.metadata import version
from itertools import count as counting
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.live import Live

from openlimit.cli import overrides, show
from openlimit.cli.options import (
    LONGEST,
    REFUSED,
    Json,
    Key,
    Labels,
    MaxWait,
    Model,
    Server,
    Tokens,
    Units,
    amounts,
    ask,
    console,
    exiting,
    interruption,
    pairs,
    print_json,
    run,
    say,
    server_of,
    tell,
)
from openlimit.errors import InvalidRequest
from openlimit.tokens.counting import count_costs
from openlimit.v1 import admin_pb2 as messages
from openlimit.v1.rate_limit_pb2 import AcquireRequest

_KINDS = {"messages", "prompt", "input"}
_REFUSALS = (messages.VERDICT_REFUSED, messages.VERDICT_NEVER)

app = typer.Typer(
    name="openlimit",
    help="Rate limits of an openlimit server. The API key is read from OPENLIMIT_API_KEY.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(overrides.app, name="override")


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        console.print("openlimit", version("openlimitHW"), highlight=False)
        raise typer.Exit


@app.callback()
def connect(
    context: typer.Context,
    address: Annotated[
        str, typer.Option(envvar="OPENLIMIT_ADDRESS", help="Where the server listens.")
    ] = "localhost:50051",
    timeout: Annotated[
        float, typer.Option(min=0.01, max=LONGEST, help="Seconds for an answer.")
    ] = 5.0,
    tls: Annotated[bool, typer.Option("--tls", help="Encrypt; with --ca, it always is.")] = False,
    ca: Annotated[
        Path | None, typer.Option(envvar="OPENLIMIT_CA", help="PEM file of the server's authority.")
    ] = None,
    cert: Annotated[
        Path | None, typer.Option(envvar="OPENLIMIT_CERT", help="PEM file of your own certificate.")
    ] = None,
    cert_key: Annotated[
        Path | None, typer.Option(envvar="OPENLIMIT_CERT_KEY", help="PEM file of its key.")
    ] = None,
    _: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it, exit."),
    ] = False,
) -> None:
    with exiting():
        context.obj = server_of(address, timeout, ca, cert, cert_key, tls=tls)


@app.command()
def acquire(
    context: typer.Context,
    model: Model,
    command: Annotated[
        list[str] | None, typer.Argument(help="After --: a command to run once it may start.")
    ] = None,
    tokens: Tokens = 0,
    unit: Units = None,
    key: Key = "",
    label: Labels = None,
    max_wait: MaxWait = None,
    as_json: Json = False,
) -> None:
    """Reserve a call, wait until it may start, then run a command or return.

    A slot is held while the command runs. SIGTERM is passed on to it, and its exit code is that of
    openlimit.
    """
    with exiting():
        server: Server = context.obj
        began = time.monotonic()
        costs, labels = amounts(unit), pairs("--label", label)
        code = 0
        with (
            server.limiter(key) as limiter,
            limiter.limit(
                model=model, tokens=tokens, units=costs, labels=labels, max_wait=max_wait
            ),
        ):
            waited = time.monotonic() - began
            if as_json:
                print_json({"model": model, "waited": round(waited, 3)})
            elif not command:
                say(f"{model} may start, after {waited:.3g} s")
            if command:
                code = _run(command)
    raise typer.Exit(code)


def _run(command: list[str]) -> int:
    try:
        code = run(command)
    except OSError as error:
        raise InvalidRequest("command", f"{command[0]}: {error.strerror}") from error
    return code if code >= 0 else 128 - code  # as shells say that a signal has ended it


@app.command()
def explain(
    context: typer.Context,
    model: Model,
    tokens: Tokens = 0,
    unit: Units = None,
    key: Key = "",
    label: Labels = None,
    max_wait: MaxWait = None,
    as_json: Json = False,
) -> None:
    """Say what a call would be answered now, and why. Nothing is charged.

    Exits with 1 where it would be refused.
    """
    with exiting():
        call = AcquireRequest(
            model=model, tokens=tokens, key=key, units=amounts(unit), labels=pairs("--label", label)
        )
        if max_wait is not None:
            call.max_wait.FromMicroseconds(int(max_wait * 1e6))
        answer = ask(context, "Explain", messages.ExplainRequest(call=call))
    tell(answer, show.explanation(answer), as_json=as_json)
    raise typer.Exit(REFUSED if answer.verdict in _REFUSALS else 0)


@app.command()
def policies(context: typer.Context, as_json: Json = False) -> None:
    """List the policies as they are in force, with overrides."""
    with exiting():
        answer = ask(context, "ListPolicies", messages.ListPoliciesRequest())
    tell(answer, show.policies(answer.policies), as_json=as_json)


_Policy = Annotated[str, typer.Option("--policy", help="Of this policy only.")]
_Rows = Annotated[int, typer.Option("--rows", min=1, max=100, help="Of each policy at most.")]


@app.command()
def buckets(
    context: typer.Context, policy: _Policy = "", rows: _Rows = 10, as_json: Json = False
) -> None:
    """List the buckets and nodes in use, the busiest first."""
    with exiting():
        request = messages.ListBucketsRequest(policy=policy, page_size=rows)
        answer = ask(context, "ListBuckets", request)
    tell(answer, show.buckets(answer), as_json=as_json)


@app.command()
def top(
    context: typer.Context,
    policy: _Policy = "",
    rows: _Rows = 10,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds from one look to the next.")] = 1.0,
    times: Annotated[int | None, typer.Option(min=1, help="How often; else until Ctrl-C.")] = None,
) -> None:
    """Show the buckets in use, live."""
    server: Server = context.obj
    request = messages.ListBucketsRequest(policy=policy, page_size=rows)
    with (
        exiting(),
        server.operators() as operators,
        Live(console=console, screen=times is None and console.is_terminal) as live,
        interruption() as interrupted,
    ):
        for look in counting(1):
            answer = operators.ask("ListBuckets", request)
            title = f"{server.address}, {datetime.now():%H:%M:%S}"
            live.update(show.buckets(answer, title), refresh=True)
            if look == times or interrupted.wait(every):
                return


@app.command()
def count(
    request: Annotated[
        str, typer.Argument(help="File with the JSON that a provider gets; - for standard input.")
    ],
    model: Annotated[str, typer.Option(help="The model; else that of the request.")] = "",
    as_json: Json = False,
) -> None:
    """Count the tokens of a request, as limiters do. Asks no server."""
    with exiting():
        params = _read_request(request)
        counted = count_costs({**params, "model": model or params.get("model") or ""})
    if as_json:
        print_json(counted)
    else:
        for unit, amount in counted.items():
            say(f"{amount:>12,} {unit}")


def _read_request(path: str) -> dict[str, Any]:
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
        params = json.loads(text)
    except OSError as error:
        raise InvalidRequest(path, f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, or one that is too deep
        raise InvalidRequest(path, f"is no JSON: {error}") from error
    if not isinstance(params, dict):
        raise InvalidRequest(path, "must be an object, such as that of a chat completion")
    if not (isinstance(params.get("model", ""), str) and _KINDS.intersection(params)):
        kinds = ", ".join(sorted(_KINDS))
        raise InvalidRequest(path, f"needs one of {kinds}, and a model that is a text")
    return params


@app.command()
def check(context: typer.Context, as_json: Json = False) -> None:
    """Ask the server whether it decides. Exits with 3 if not."""
    server: Server = context.obj
    with exiting(), server.operators() as operators:
        operators.check()
    if as_json:
        print_json({"address": server.address, "decides": True})
    else:
        say(f"{server.address} decides")
