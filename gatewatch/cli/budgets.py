"""`gatewatch budgets`: what may be spent, by whom, in which period; and how it is going."""

from __future__ import annotations

import contextlib
import difflib
import getpass
import os
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

if TYPE_CHECKING:
    from signals.budget import Budget, BudgetStatus
    from sinks.budget import Change
    from sinks.clickhouse import Sink

commands = typer.Typer(
    no_args_is_help=True,
    help="What may be spent, by whom, in which period; and how it is going.",
)

_YEARS: Final = range(2000, 2101)
_TEXT_MOST: Final = 256
_NOTHING: Final = "no budgets: set one with gatewatch budgets set"


class Format(StrEnum):
    """How rows are written."""

    TABLE = "table"
    JSON = "json"


class PeriodName(StrEnum):
    """How long a budget is for."""

    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"


Url = Annotated[str | None, typer.Option(help="ClickHouse's HTTP interface.", show_default=False)]
Data = Annotated[Path | None, typer.Option(help="Data directory, running or at rest.", show_default=False)]
Output = Annotated[
    Format | None,
    typer.Option("--format", help="Default: table on a terminal, json (one object a line) in a pipe."),
]
Id = Annotated[str, typer.Argument(metavar="ID", help="A name of your own: letters, digits, '.', '_', '-'.")]
By = Annotated[
    str | None, typer.Option(help="Who changes it. Default: the user of this machine.", show_default=False)
]


def _limit(what: str) -> Any:
    return typer.Option(help=f"Only calls of this {what}.", show_default=False)


@commands.command("set")
def set_(
    budget_id: Id,
    amount: Annotated[str, typer.Option(help="US dollars for each period: 500 or 0.25.")],
    period: Annotated[PeriodName, typer.Option(help="A week begins on Monday.")],
    timezone: Annotated[str, typer.Option(help="IANA time zone in which days begin.")] = "UTC",
    tenant: Annotated[str, _limit("tenant")] = "",
    team: Annotated[str, _limit("team")] = "",
    key_alias: Annotated[str, _limit("alias of an API key")] = "",
    provider: Annotated[str, _limit("provider")] = "",
    model: Annotated[str, _limit("model; name its provider too, or any provider's counts")] = "",
    gateway: Annotated[str, _limit("gateway")] = "",
    environment: Annotated[str, _limit("environment")] = "",
    starts: Annotated[
        str | None,
        typer.Option(
            help="From when on: a date (midnight there) or a time. Default: now.", show_default=False
        ),
    ] = None,
    warn_at: Annotated[
        str, typer.Option(help="Shares of the amount to warn at.", metavar="SHARE,...")
    ] = "0.5,0.8,1",
    by: By = None,
    url: Url = None,
    data: Data = None,
) -> None:
    """Set a budget, or change it. Without any limit, it is for everything.

    A change made in the middle of a period counts for the whole period. Its history is kept.

    Example: gatewatch budgets set acme-2026 --tenant acme --period monthly --amount 500
    --timezone Europe/Berlin
    """
    from signals.budget import Budget, Scope, shares
    from signals.budget import amount as dollars
    from signals.period import zone
    from sinks.budget import set_budget

    limits = {
        "tenant": tenant,
        "team": team,
        "key_alias": key_alias,
        "provider": provider,
        "model": model,
        "gateway": gateway,
        "environment": environment,
    }
    try:
        for name, value in limits.items():
            _check_text(name, value)
        budget = Budget(
            budget_id=budget_id,
            scope=Scope(**limits),
            period=period.value,
            time_zone=timezone,
            amount_usd=dollars(amount),
            warn_shares=shares(_shares(warn_at)),
        )
        valid_from = None if starts is None else _moment(starts, zone(timezone), "--starts")
        author = _author(by)
    except ValueError as error:
        _wrong_usage(str(error))
    with _connected(url, data, _writer()) as sink:
        try:
            changed = set_budget(sink, budget, author, valid_from)
        except ValueError as error:
            _fail(str(error))
    since = "now" if valid_from is None else _iso(valid_from)
    said = f"{budget_id}: {_usd(budget.amount_usd)} {period.value} ({timezone}) for {budget.scope}"
    print(f"{said}, from {since} on" if changed else f"{said}: so it is already")


@commands.command()
def remove(budget_id: Id, by: By = None, url: Url = None, data: Data = None) -> None:
    """Remove a budget from now on. Its history is kept."""
    from sinks.budget import remove_budget

    try:
        author = _author(by)
    except ValueError as error:
        _wrong_usage(str(error))
    with _connected(url, data, _writer()) as sink:
        if not remove_budget(sink, budget_id, author):
            _unknown(sink, budget_id)
    print(f"{budget_id}: removed")


@commands.command("list")
def list_(
    history: Annotated[
        bool, typer.Option("--history", help="Every change that was ever made: who, when, what.")
    ] = False,
    output: Output = None,
    url: Url = None,
    data: Data = None,
) -> None:
    """List the budgets that are set, and changes to come."""
    from sinks.budget import changes

    with _connected(url, data, "reader") as sink:
        found = changes(sink)
        now = _now(sink)
    if not history:
        found = [
            change
            for change in found
            if not change.is_removed
            and (change.valid_until is None or change.valid_until > max(change.valid_from, now))
        ]
    if _chosen(output) is Format.JSON:
        _print_json([_change_row(change) for change in found])
    else:
        _print_table(
            [
                ("id", "left", lambda change: change.budget.budget_id),
                ("scope", "left", lambda change: str(change.budget.scope)),
                ("amount", "right", lambda change: _usd(change.budget.amount_usd)),
                ("period", "left", lambda change: f"{change.budget.period} {change.budget.time_zone}"),
                ("from", "left", lambda change: _local(change.valid_from, change.budget)),
                ("until", "left", _until),
                *([("what", "left", _what)] if history else []),
                ("changed by", "left", lambda change: change.changed_by),
                ("at", "left", lambda change: _iso(change.changed_at)),
            ],
            found,
            _NOTHING,
        )


@commands.command()
def status(
    budget_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Only this one.", show_default=False)
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(help="As of this time (ISO 8601, UTC unless it says), by what is stored now."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="End with 1 when one is exceeded or is forecast to be.")
    ] = False,
    output: Output = None,
    url: Url = None,
    data: Data = None,
) -> None:
    """Say what is spent, what is left, and where it will end; those in most trouble first.

    The forecast's interval holds in 80 (95) of 100 cases as far as past forecasts tell. A burn rate of 1
    uses the amount up in exactly one period.

    Example: gatewatch budgets status --check --format json
    """
    from sinks.budget import status as read_status

    if budget_id == "":
        _wrong_usage("an empty ID is no budget's; leave it out for all of them")
    try:
        moment = None if at is None else _moment(at, UTC, "--at")
    except ValueError as error:
        _wrong_usage(str(error))
    with _connected(url, data, "reader") as sink:
        if moment is not None and moment > (now := _now(sink)):
            # The hours until then would look as if nothing had been spent in them.
            _wrong_usage(f"--at {at!r} has not come yet: it is {_iso(now)}")
        found = read_status(sink, moment, budget_id)
        if budget_id is not None and not found:
            _unknown(sink, budget_id, moment)
    if _chosen(output) is Format.JSON:
        _print_json([_status_row(one) for one in found])
    else:
        if budget_id is not None:
            for name, text in _report(found[0]):
                print(f"{name:<10} {_plain(text)}")
        else:
            _print_table(_STATUS_COLUMNS, found, _NOTHING)
        sys.stdout.flush()
        for one in found:
            _say_unknown_cost(one)
    if check and any(one.is_over for one in found):
        raise typer.Exit(1)


# -- where they are ----------------------------------------------------------------------------


@contextlib.contextmanager
def _connected(url: str | None, data: Path | None, user: str) -> Iterator[Sink]:
    """A connection to the engine that is meant; what goes wrong with it is said, and ends the command."""
    import logging

    from gatewatch.cli.query import QueryError, password_of, served_address
    from sinks.clickhouse import Sink, SinkError

    # What its client has to say about an address that does not answer is said by the error.
    logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)
    try:
        with (
            served_address(url, data, "budgets") as (address, directory),
            contextlib.closing(Sink(address, user, password_of(user, directory))) as sink,
        ):
            yield sink
    except QueryError as error:
        _fail(str(error))
    except SinkError as error:
        _fail(f"{error}; see what answers with `gatewatch doctor`, and `gatewatch migrate` an older store")
    except ValueError as error:
        # A row that this version does not take: another version, or another database of time zones, wrote it.
        _fail(f"a budget that is stored cannot be read here: {error}")
    except BrokenPipeError:
        # Whoever read our output has enough. Python would complain again when it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None


def _writer() -> str:
    return os.environ.get("GATEWATCH_CLICKHOUSE_USER", "writer")


def _now(sink: Sink) -> datetime:
    from sinks.dead_letter import server_time_ms

    return datetime.fromtimestamp(server_time_ms(sink) / 1000, UTC)


def _unknown(sink: Sink, budget_id: str, at: datetime | None = None) -> NoReturn:
    from sinks.budget import budgets_at, changes

    moment = at or _now(sink)
    known = [budget.budget_id for budget in budgets_at(sink, moment)]
    if changes(sink, budget_id):
        _wrong_usage(
            f"no budget {budget_id!r} holds at {_iso(moment)}; see `gatewatch budgets list --history`"
        )
    near = difflib.get_close_matches(budget_id, known, 3, 0.5)
    hint = f"ids that are near: {', '.join(near)}" if near else "see `gatewatch budgets list`"
    _wrong_usage(f"there is no budget {_plain(budget_id)!r}; {hint}")


# -- what is read ------------------------------------------------------------------------------


def _moment(text: str, place: Any, option: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{option} {text!r} is no time; write 2026-12-01 or 2026-12-01T09:00+01:00"
        ) from None
    if moment.year not in _YEARS:
        raise ValueError(f"{option} {text!r} is not between {_YEARS[0]} and {_YEARS[-1]}")
    return (moment if moment.tzinfo else moment.replace(tzinfo=place)).astimezone(UTC)


def _shares(text: str) -> list[Decimal]:
    try:
        return [Decimal(share.strip()) for share in text.split(",") if share.strip()]
    except InvalidOperation:
        raise ValueError(f"--warn-at {text!r} is no list of shares; write 0.5,0.8,1") from None


def _check_text(name: str, value: str) -> None:
    if len(value) > _TEXT_MOST or not all(letter.isprintable() for letter in value):
        raise ValueError(f"--{name.replace('_', '-')} is a name of at most {_TEXT_MOST} printable characters")


def _author(by: str | None) -> str:
    if by is None:
        try:
            by = getpass.getuser()
        except (OSError, KeyError):
            raise ValueError("this machine's user has no name: say who you are with --by") from None
    _check_text("by", by)
    if not by.strip():
        raise ValueError("--by is empty: say who changes the budget")
    return by


# -- what is written ---------------------------------------------------------------------------


def _chosen(output: Format | None) -> Format:
    return output or (Format.TABLE if sys.stdout.isatty() else Format.JSON)


def _until(change: Change) -> str:
    return "" if change.valid_until is None else _local(change.valid_until, change.budget)


def _what(change: Change) -> str:
    return "removed" if change.is_removed else "set"


def _change_row(change: Change) -> dict[str, Any]:
    budget = change.budget
    return {
        "id": budget.budget_id,
        "version": change.version,
        "removed": change.is_removed,
        "scope": budget.scope.limits,
        "period": budget.period,
        "time_zone": budget.time_zone,
        "amount_usd": _decimal(budget.amount_usd),
        "warn_shares": [float(share) for share in budget.warn_shares],
        "valid_from": _iso(change.valid_from),
        "valid_until": None if change.valid_until is None else _iso(change.valid_until),
        "changed_by": change.changed_by,
        "changed_at": _iso(change.changed_at),
    }


def _status_row(one: BudgetStatus) -> dict[str, Any]:
    return {
        "id": one.budget.budget_id,
        "at": _iso(one.at),
        "state": one.state,
        "scope": one.budget.scope.limits,
        "period": one.budget.period,
        "time_zone": one.budget.time_zone,
        "period_start": _iso(one.period.start),
        "period_end": _iso(one.period.end),
        "amount_usd": _decimal(one.budget.amount_usd),
        "spent_usd": _decimal(one.spent_usd),
        "remaining_usd": _decimal(one.remaining_usd),
        "share": round(one.share, 6),
        "share_gone": round(one.share_gone, 6),
        "warn_share": None if one.warn_share is None else float(one.warn_share),
        "forecast_usd": _decimal(one.forecast_usd),
        "forecast_80_usd": [_decimal(edge) for edge in one.forecast_80_usd],
        "forecast_95_usd": [_decimal(edge) for edge in one.forecast_95_usd],
        "forecast_season": one.season,
        "forecast_tests": one.tests,
        "bursts_at": None if one.bursts_at is None else _iso(one.bursts_at),
        "burn_rates": {name: round(rate, 3) for name, rate in one.burn_rates.items()},
        "burn_alert": one.burn_alert,
        "calls": one.calls,
        "calls_without_cost": one.calls_without_cost,
        "calls_in_part": one.calls_in_part,
    }


_Column = tuple[str, str, Callable[[Any], str]]

_STATUS_COLUMNS: Final[list[_Column]] = [
    ("id", "left", lambda one: one.budget.budget_id),
    ("state", "left", lambda one: one.state.replace("_", " ")),
    ("spent", "right", lambda one: _usd(one.spent_usd)),
    ("of", "right", lambda one: f"{_usd(one.budget.amount_usd)} {one.budget.period}"),
    ("used", "right", lambda one: f"{one.share:.1%}"),
    ("time gone", "right", lambda one: f"{one.share_gone:.1%}"),
    ("forecast", "right", lambda one: _usd(one.forecast_usd)),
    ("80 % interval", "right", lambda one: _interval(one.forecast_80_usd)),
    ("used up", "left", lambda one: "" if one.bursts_at is None else _local(one.bursts_at, one.budget)),
    ("burn 1h", "right", lambda one: f"{one.burn_rates['1h']:.2f}"),
    ("24h", "right", lambda one: f"{one.burn_rates['24h']:.2f}"),
]


def _report(one: BudgetStatus) -> list[tuple[str, str]]:
    """Everything about one budget, a line each."""
    budget = one.budget
    known = (
        f"{one.tests} past forecasts" if one.tests else "too little history: the interval is an assumption"
    )
    return [
        ("id", budget.budget_id),
        ("scope", str(budget.scope)),
        ("state", one.state.replace("_", " ")),
        (
            "period",
            f"{budget.period}, {_local(one.period.start, budget)} to {_local(one.period.end, budget)}",
        ),
        ("time zone", budget.time_zone),
        ("as of", f"{_local(one.at, budget)}, {one.share_gone:.1%} of the period gone"),
        ("amount", _usd(budget.amount_usd)),
        ("spent", f"{_usd(one.spent_usd)}, {one.share:.1%}"),
        ("remaining", _usd(one.remaining_usd)),
        ("warning", "none" if one.warn_share is None else f"{one.warn_share:.0%} reached"),
        ("forecast", f"{_usd(one.forecast_usd)} by the end ({one.season}; {known})"),
        ("80 of 100", _interval(one.forecast_80_usd)),
        ("95 of 100", _interval(one.forecast_95_usd)),
        ("used up", "not in this period" if one.bursts_at is None else _local(one.bursts_at, budget)),
        ("burn rate", ", ".join(f"{name} {rate:.2f}" for name, rate in one.burn_rates.items())),
        ("burning", one.burn_alert or "no"),
        ("calls", f"{one.calls:,}"),
    ]


def _interval(edges: tuple[Decimal, Decimal]) -> str:
    return f"{_usd(edges[0])} - {_usd(edges[1])}"


def _say_unknown_cost(one: BudgetStatus) -> None:
    parts = [
        f"{count:,} {what}"
        for count, what in (
            (one.calls_without_cost, "without a cost"),
            (one.calls_in_part, "with a part of one"),
        )
        if count
    ]
    if parts:
        print(
            f"gatewatch budgets: {one.budget.budget_id}: of {one.calls:,} calls, {' and '.join(parts)}: "
            "more was spent than is known",
            file=sys.stderr,
        )


def _print_json(rows: list[dict[str, Any]]) -> None:
    import msgspec

    for row in rows:
        print(msgspec.json.encode(row).decode())
    sys.stdout.flush()


def _print_table(columns: list[_Column], rows: list[Any], nothing: str) -> None:
    if not rows:
        print(nothing)
        return
    cells = [[title for title, _, _ in columns]]
    cells += [[_plain(text(row)) for _, _, text in columns] for row in rows]
    wide = [max(len(line[place]) for line in cells) for place in range(len(columns))]
    for line in cells:
        told = (
            f"{cell:>{width}}" if side == "right" else f"{cell:<{width}}"
            for cell, width, (_, side, _) in zip(line, wide, columns, strict=True)
        )
        print("  ".join(told).rstrip())
    sys.stdout.flush()


def _plain(text: str) -> str:
    """Text without anything that a terminal would obey."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _usd(amount: Decimal) -> str:
    """Dollars for people: cents, and more digits where there are no cents."""
    places = 2 if abs(amount) >= 1 or amount == 0 else 4 if abs(amount) >= Decimal("0.01") else 9
    return f"{'-' if amount < 0 else ''}${abs(amount):,.{places}f}"


def _decimal(amount: Decimal) -> str:
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _local(moment: datetime, budget: Budget) -> str:
    """A time as clocks of the budget's owner show it."""
    from signals.period import zone

    return f"{moment.astimezone(zone(budget.time_zone)):%Y-%m-%d %H:%M}"


def _fail(message: str) -> NoReturn:
    print(f"gatewatch budgets: {message}", file=sys.stderr)
    raise typer.Exit(1)


def _wrong_usage(message: str) -> NoReturn:
    print(f"gatewatch budgets: {message}", file=sys.stderr)
    raise typer.Exit(2)
