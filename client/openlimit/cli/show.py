"""Answers of a server as tables for people. No I/O."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from openlimit.v1.admin_pb2 import (
    ExplainResponse,
    Fill,
    LimitInfo,
    ListBucketsResponse,
    NodeInfo,
    NodeRule,
    Override,
    PolicyInfo,
    Verdict,
)

_BAR = 10  # characters
_ANY_WIDTH = 10_000
_HIGH, _FULL = 0.7, 1.0  # of a capacity
_PERIODS = {1.0: "second", 60.0: "minute", 3600.0: "hour", 86400.0: "day"}
_GOOD, _BAD = "green", "red"
_VERDICTS = {
    Verdict.VERDICT_STARTS: _GOOD,
    Verdict.VERDICT_WAITS: "yellow",
    Verdict.VERDICT_QUEUES: "yellow",
    Verdict.VERDICT_REFUSED: _BAD,
    Verdict.VERDICT_NEVER: _BAD,
}


def printable(text: str) -> str:
    """A text without what terminals take for commands: callers choose labels."""
    return "".join(each if each.isprintable() else "�" for each in text)


def explanation(answer: ExplainResponse) -> RenderableType:
    """The path, and below it the verdict."""
    verdict = Verdict.Name(answer.verdict).removeprefix("VERDICT_").lower()
    costs = ", ".join(f"{_number(cost)} {unit}" for unit, cost in sorted(answer.costs.items()))
    style = f"bold {_VERDICTS.get(answer.verdict, '')}"
    said = Text.assemble((verdict, style), f": {printable(answer.reason)}")
    if answer.wait.ToMicroseconds():
        said.append(f" (wait {_seconds(answer.wait.ToMicroseconds())})")
    held = answer.held_at if answer.HasField("held_at") else None
    rows = [_Row("", node, depth == held) for depth, node in enumerate(answer.path)]
    title = f"policy {answer.policy}, mode {answer.mode}; the call costs {costs}"
    return Group(_Nodes(title, [rows]), said)


def buckets(answer: ListBucketsResponse, title: str = "") -> RenderableType:
    """All nodes in one table."""
    sections = [
        [_Row("" if number else each.policy, node) for number, node in enumerate(each.nodes)]
        for each in answer.policies
    ]
    table = _Nodes(title, sections)
    if answer.is_partial:
        return Group(table, Text("only some buckets were looked at", "dim"))
    return table


def policies(found: Sequence[PolicyInfo]) -> RenderableType:
    """Each with its levels below it."""
    table = _foldable("policy", "covers", "mode", "limits", "slots", "weight")
    for policy in found:
        covers = ", ".join([*policy.models, *_labels(policy.match)])
        split = f" by {', '.join(policy.split_by)}" if policy.split_by else ""
        slots = str(policy.concurrent) if policy.HasField("concurrent") else ""
        mark = " *" if policy.overrides else ""
        name, covered = Text(policy.name + mark), Text(printable(covers + split))
        table.add_row(name, covered, policy.mode, _limits(policy.limits), slots)
        for level in policy.levels:
            table.add_row(Text(f"  each {level.label}"), "", "", *_rule(level.rule))
            for value, rule in sorted(level.values.items()):
                named = Text(printable(f"  {level.label}={value}"))
                table.add_row(named, "", "", *_rule(rule))
        table.add_section()
    if any(policy.overrides for policy in found):
        table.caption = "* with an override in force"
    return table


def overrides(found: Iterable[Override], now: datetime) -> RenderableType:
    """One a line, with the time that is left."""
    table = _foldable("policy", "node", "instead", "until", "left", "by", "why")
    for each in found:
        until = each.until.ToDatetime(UTC)
        left = _seconds((until - now).total_seconds() * 1e6)
        why = f"{each.why} (NO EFFECT: {each.trouble})" if each.trouble else each.why
        node, changes = ", ".join(_labels(each.node)), ", ".join(_changes(each))
        ends = f"{until.astimezone():%a %Y-%m-%d %H:%M}"
        row = (each.policy, node, changes, ends, left, each.by, why)
        table.add_row(*(Text(printable(text)) for text in row))
    return table


def _foldable(*columns: str) -> Table:
    """Nothing is cut off in a narrow terminal."""
    return Table(*(Column(name, overflow="fold") for name in columns))


def _changes(override: Override) -> Iterable[str]:
    yield from (f"{unit} {text}" for unit, text in sorted(override.limits.items()))
    if override.HasField("concurrent"):
        yield f"concurrent {override.concurrent}"
    if override.HasField("weight"):
        yield f"weight {override.weight:g}"


def _rule(rule: NodeRule) -> tuple[str, str, str]:
    slots = str(rule.concurrent) if rule.HasField("concurrent") else ""
    return _limits(rule.limits), slots, f"{rule.weight:g}"


def _limits(limits: Iterable[LimitInfo]) -> str:
    return "\n".join(
        f"{each.unit} {_number(each.amount)}/{_period(each)}, burst {_number(each.capacity)}"
        for each in limits
    )


def _period(limit: LimitInfo) -> str:
    seconds = limit.period.ToMicroseconds() / 1e6
    return _PERIODS.get(seconds) or f"{seconds:g}s"


class _Row(NamedTuple):
    policy: str
    """Its name, in the first of its rows."""
    node: NodeInfo
    is_marked: bool = False

    def cells(self, *, is_wide: bool) -> Iterator[Text | str]:
        node = self.node
        labels = ", ".join(_labels(node.labels)) or "all"
        policy = Text(self.policy, "bold")
        bucket = Text(
            "  " * node.depth * is_wide + printable(labels), "bold red" if self.is_marked else ""
        )
        yield from (
            [policy, bucket] if is_wide else [Text("\n").join(filter(None, [policy, bucket]))]
        )
        yield Text("\n").join(_fill(each, _BAR * is_wide) for each in node.fills)
        yield str(node.waiting or "")
        running = str(node.running or "")
        yield f"{node.running}/{node.slots}" if node.HasField("slots") else running
        yield _seconds(node.wait.ToMicroseconds()) if node.HasField("wait") else ""
        yield Text("paused" if node.HasField("paused") else node.limited_by, _BAD)
        if is_wide:
            yield f"{node.share:.0%}" if node.HasField("share") else ""


class _Nodes:
    """Nodes in a table; where they do not fit, without bars, shares and a column of policies, since
    names must stay."""

    def __init__(self, title: str, sections: Sequence[Sequence[_Row]]) -> None:
        self._title = title
        self._sections = sections

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = self._table(is_wide=True)
        needs = Measurement.get(console, options.update(width=_ANY_WIDTH), wide).maximum
        yield wide if needs <= options.max_width else self._table(is_wide=False)

    def _table(self, *, is_wide: bool) -> Table:
        title = Text(self._title) if self._title else None
        padding = (0, 1) if is_wide else (0, 1, 0, 0)
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=padding)
        if is_wide:
            table.add_column("policy")
        table.add_column("bucket", overflow="fold")
        table.add_column("levels", no_wrap=is_wide, overflow="fold")
        for name in ("line", "slots", "wait", "delay", *(["share"] if is_wide else [])):
            table.add_column(name, justify="left" if name == "delay" else "right", no_wrap=True)
        for section in self._sections:
            for row in section:
                table.add_row(*row.cells(is_wide=is_wide))
            table.add_section()
        return table


def _fill(fill: Fill, width: int) -> Text:
    """With a bar of so many characters, or its colour alone."""
    part = fill.level / fill.limit.capacity
    colour = _BAD if part >= _FULL else "yellow" if part >= _HIGH else _GOOD
    filled = min(width, round(part * width))
    return Text.assemble(
        ("█" * filled, colour),
        ("░" * (width - filled), "dim"),
        (f" {part:4.0%}", "" if width else colour),
        f" {fill.limit.unit} {_number(fill.level)}/{_number(fill.limit.capacity)}",
    )


def _labels(labels: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in sorted(labels.items())]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.2g}"


def _seconds(micros: float) -> str:
    """A length of time in two digits or so."""
    seconds = micros / 1e6
    for most, unit, divisor in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < most:
            amount = seconds / divisor
            return f"{amount:.1f} {unit}" if amount < 10 else f"{amount:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"
