"""`gatewatch budgets`: what may be spent, by whom, in which period; and how it is going."""

from __future__ import annotations

import contextlib
import difflib
import getpass
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

from gatewatch.cli.connection import Data, Url, connected
from gatewatch.cli.message import fail, say, wrong_usage
from gatewatch.cli.row import PipeOutput, decimal_text, is_json, iso_text, print_rows, visible

if TYPE_CHECKING:
    from signals.budget import Budget, BudgetStatus
    from sinks.budget import Change
    from sinks.clickhouse import Sink

commands = typer.Typer(
    no_args_is_help=True,
    help="What may be spent, by whom, in which period; and how it is going.",
)

_NAME: Final = "budgets"
_YEARS: Final = range(2000, 2101)
_TEXT_MOST: Final = 256
_NOTHING: Final = "no budgets: set one with gatewatch budgets set"


class PeriodName(StrEnum):
    """How long a budget is for."""

    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"


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
        wrong_usage(_NAME, str(error))
    with _connected(url, data) as sink:
        try:
            changed = set_budget(sink, budget, author, valid_from)
        except ValueError as error:
            fail(_NAME, str(error))
    since = "now" if valid_from is None else iso_text(valid_from)
    said = f"{budget_id}: {_usd(budget.amount_usd)} {period.value} ({timezone}) for {budget.scope}"
    print(f"{said}, from {since} on" if changed else f"{said}: so it is already")


@commands.command()
def remove(budget_id: Id, by: By = None, url: Url = None, data: Data = None) -> None:
    """Remove a budget from now on. Its history is kept."""
    from sinks.budget import remove_budget

    try:
        author = _author(by)
    except ValueError as error:
        wrong_usage(_NAME, str(error))
    with _connected(url, data) as sink:
        if not remove_budget(sink, budget_id, author):
            _unknown(sink, budget_id)
    print(f"{budget_id}: removed")


@commands.command("list")
def list_(
    history: Annotated[
        bool, typer.Option("--history", help="Every change that was ever made: who, when, what.")
    ] = False,
    output: PipeOutput = None,
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
    as_json = is_json(output)
    print_rows(
        [_change_row(change) if as_json else _change_line(change, history) for change in found],
        as_json,
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
    output: PipeOutput = None,
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
        wrong_usage(_NAME, "an empty ID is no budget's; leave it out for all of them")
    try:
        moment = None if at is None else _moment(at, UTC, "--at")
    except ValueError as error:
        wrong_usage(_NAME, str(error))
    with _connected(url, data, "reader") as sink:
        if moment is not None and moment > (now := _now(sink)):
            # The hours until then would look as if nothing had been spent in them.
            wrong_usage(_NAME, f"--at {at!r} has not come yet: it is {iso_text(now)}")
        found = read_status(sink, moment, budget_id)
        if budget_id is not None and not found:
            _unknown(sink, budget_id, moment)
    as_json = is_json(output)
    if budget_id is not None and not as_json:
        for name, text in _report(found[0]):
            print(f"{name:<10} {visible(text)}")
    else:
        print_rows([_status_row(one) if as_json else _status_line(one) for one in found], as_json, _NOTHING)
    sys.stdout.flush()
    if not as_json:
        for one in found:
            _say_unknown_cost(one)
    if check and any(one.is_over for one in found):
        raise typer.Exit(1)


# -- where they are ----------------------------------------------------------------------------


@contextlib.contextmanager
def _connected(url: str | None, data: Path | None, user: str | None = None) -> Iterator[Sink]:
    """A connection to the engine that is meant; what goes wrong with it is said, and ends the command."""
    with connected(_NAME, data, url=url, user=user) as sink:
        try:
            yield sink
        except ValueError as error:
            # A row that this version does not take: another version, or another database of time zones,
            # wrote it.
            fail(_NAME, f"a budget that is stored cannot be read here: {error}")


def _now(sink: Sink) -> datetime:
    from sinks.dead_letter import server_time_ms

    return datetime.fromtimestamp(server_time_ms(sink) / 1000, UTC)


def _unknown(sink: Sink, budget_id: str, at: datetime | None = None) -> NoReturn:
    from sinks.budget import budgets_at, changes

    moment = at or _now(sink)
    known = [budget.budget_id for budget in budgets_at(sink, moment)]
    if changes(sink, budget_id):
        wrong_usage(
            _NAME,
            f"no budget {budget_id!r} holds at {iso_text(moment)}; see `gatewatch budgets list --history`",
        )
    near = difflib.get_close_matches(budget_id, known, 3, 0.5)
    hint = f"ids that are near: {', '.join(near)}" if near else "see `gatewatch budgets list`"
    wrong_usage(_NAME, f"there is no budget {visible(budget_id)!r}; {hint}")


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


def _change_line(change: Change, history: bool) -> dict[str, Any]:
    budget = change.budget
    return {
        "id": budget.budget_id,
        "scope": str(budget.scope),
        "amount": _usd(budget.amount_usd),
        "period": f"{budget.period} {budget.time_zone}",
        "from": _local(change.valid_from, budget),
        "until": "" if change.valid_until is None else _local(change.valid_until, budget),
        **({"what": "removed" if change.is_removed else "set"} if history else {}),
        "changed by": change.changed_by,
        "at": iso_text(change.changed_at),
    }


def _change_row(change: Change) -> dict[str, Any]:
    budget = change.budget
    return {
        "id": budget.budget_id,
        "version": change.version,
        "removed": change.is_removed,
        "scope": budget.scope.limits,
        "period": budget.period,
        "time_zone": budget.time_zone,
        "amount_usd": decimal_text(budget.amount_usd),
        "warn_shares": [float(share) for share in budget.warn_shares],
        "valid_from": iso_text(change.valid_from),
        "valid_until": None if change.valid_until is None else iso_text(change.valid_until),
        "changed_by": change.changed_by,
        "changed_at": iso_text(change.changed_at),
    }


def _status_row(one: BudgetStatus) -> dict[str, Any]:
    return {
        "id": one.budget.budget_id,
        "at": iso_text(one.at),
        "state": one.state,
        "scope": one.budget.scope.limits,
        "period": one.budget.period,
        "time_zone": one.budget.time_zone,
        "period_start": iso_text(one.period.start),
        "period_end": iso_text(one.period.end),
        "amount_usd": decimal_text(one.budget.amount_usd),
        "spent_usd": decimal_text(one.spent_usd),
        "remaining_usd": decimal_text(one.remaining_usd),
        "share": round(one.share, 6),
        "share_gone": round(one.share_gone, 6),
        "warn_share": None if one.warn_share is None else float(one.warn_share),
        "forecast_usd": decimal_text(one.forecast_usd),
        "forecast_80_usd": [decimal_text(edge) for edge in one.forecast_80_usd],
        "forecast_95_usd": [decimal_text(edge) for edge in one.forecast_95_usd],
        "forecast_season": one.season,
        "forecast_tests": one.tests,
        "bursts_at": None if one.bursts_at is None else iso_text(one.bursts_at),
        "burn_rates": {name: round(rate, 3) for name, rate in one.burn_rates.items()},
        "burn_alert": one.burn_alert,
        "calls": one.calls,
        "calls_without_cost": one.calls_without_cost,
        "calls_in_part": one.calls_in_part,
    }


def _status_line(one: BudgetStatus) -> dict[str, Any]:
    budget = one.budget
    return {
        "id": budget.budget_id,
        "state": one.state.replace("_", " "),
        "spent": _usd(one.spent_usd),
        "of": f"{_usd(budget.amount_usd)} {budget.period}",
        "used": f"{one.share:.1%}",
        "time gone": f"{one.share_gone:.1%}",
        "forecast": _usd(one.forecast_usd),
        "80 % interval": _interval(one.forecast_80_usd),
        "used up": "" if one.bursts_at is None else _local(one.bursts_at, budget),
        "burn 1h": f"{one.burn_rates['1h']:.2f}",
        "24h": f"{one.burn_rates['24h']:.2f}",
    }


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
        say(
            _NAME,
            f"{one.budget.budget_id}: of {one.calls:,} calls, {' and '.join(parts)}: "
            "more was spent than is known",
        )


def _usd(amount: Decimal) -> str:
    """Dollars for people: cents, and more digits where there are no cents."""
    places = 2 if abs(amount) >= 1 or amount == 0 else 4 if abs(amount) >= Decimal("0.01") else 9
    return f"{'-' if amount < 0 else ''}${abs(amount):,.{places}f}"


def _local(moment: datetime, budget: Budget) -> str:
    """A time as clocks of the budget's owner show it."""
    from signals.period import zone

    return f"{moment.astimezone(zone(budget.time_zone)):%Y-%m-%d %H:%M}"
