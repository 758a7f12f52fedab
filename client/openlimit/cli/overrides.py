"""``openlimit override``: limits that are others for a while."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from openlimit.cli import show
from openlimit.cli.options import REFUSED, Json, ask, exiting, pairs, somebody, tell
from openlimit.cli.times import moment
from openlimit.v1 import admin_pb2 as messages

app = typer.Typer(help="Change limits for a while.", no_args_is_help=True)

_Node = Annotated[
    list[str] | None,
    typer.Option("--node", metavar="LABEL=VALUE", help="A level's label and value; else all."),
]
_By = Annotated[str | None, typer.Option(help="Who you are, where the server has no API keys.")]


@app.command("set")
def set_override(
    context: typer.Context,
    policy: Annotated[str, typer.Argument(help="The policy's name.")],
    until: Annotated[
        str,
        typer.Option(
            help="When it ends: '2026-11-27 18:00', 'Friday 18:00', 18:00, or 90m, 2h, 3d from now."
        ),
    ],
    why: Annotated[str, typer.Option(help="Why, for others.")],
    limit: Annotated[
        list[str] | None,
        typer.Option("--limit", metavar="UNIT=LIMIT", help="Such as tokens=2000000/minute."),
    ] = None,
    node: _Node = None,
    concurrent: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Calls at the same time.")
    ] = None,
    weight: Annotated[float | None, typer.Option(help="The node's weight.")] = None,
    by: _By = None,
    as_json: Json = False,
) -> None:
    """Change limits for a while, on all servers of the store."""
    with exiting():
        wanted = messages.Override(
            policy=policy,
            node=pairs("--node", node),
            limits=pairs("--limit", limit),
            concurrent=concurrent,
            weight=weight,
            why=why,
            by=by or somebody(),
        )
        wanted.until.FromDatetime(moment(until, datetime.now(UTC)))
        answer = ask(context, "SetOverride", messages.SetOverrideRequest(override=wanted))
    tell(answer, show.overrides([answer.override], datetime.now(UTC)), as_json=as_json)


@app.command("list")
def list_overrides(context: typer.Context, as_json: Json = False) -> None:
    """List the overrides that are kept."""
    with exiting():
        answer = ask(context, "ListOverrides", messages.ListOverridesRequest())
    tell(answer, show.overrides(answer.overrides, datetime.now(UTC)), as_json=as_json)


@app.command("remove")
def remove_override(
    context: typer.Context,
    policy: Annotated[str, typer.Argument(help="The policy's name.")],
    node: _Node = None,
    by: _By = None,
    as_json: Json = False,
) -> None:
    """End an override before its time. Exits with 1 where there is none."""
    with exiting():
        request = messages.RemoveOverrideRequest(
            policy=policy, node=pairs("--node", node), by=by or somebody()
        )
        answer = ask(context, "RemoveOverride", request)
    sentence = "removed" if answer.removed else "there is no such override"
    tell(answer, sentence, as_json=as_json)
    raise typer.Exit(0 if answer.removed else REFUSED)
