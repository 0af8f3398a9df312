"""Budgets: what somebody may spend in a period, and how a period is going.

Money is exact: what was spent, what is left and which threshold is reached are decided in Decimal. What is
expected (:mod:`signals.forecast`) and how fast money goes are estimates, and floats until they are shown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Final, Literal

import numpy as np
from msgspec import Struct

from signals.forecast import HISTORY_H, Forecast, forecast
from signals.period import Kind, Period, kinds, period_at, zone

__all__ = [
    "BURN_WINDOWS",
    "HISTORY",
    "Budget",
    "BudgetStatus",
    "Hour",
    "Scope",
    "amount",
    "assess",
    "at_utc",
    "history_start",
    "shares",
]

State = Literal["ok", "warning", "will_exceed", "exceeded"]
BurnAlert = Literal["", "slow", "fast"]

NANO: Final = Decimal("1e-9")
AMOUNT_MOST: Final = Decimal(10) ** 12
_EXPECTED_MOST: Final = 1e15
"""In USD; with nano-dollars, what a Decimal's 28 digits hold without rounding."""
WARN_SHARES: Final = (Decimal("0.5"), Decimal("0.8"), Decimal(1))
HISTORY: Final = timedelta(hours=HISTORY_H)
"""How long before now the spend that a forecast learns from begins."""

BURN_WINDOWS: Final = {
    "5m": timedelta(minutes=5),
    "30m": timedelta(minutes=30),
    "1h": timedelta(hours=1),
    "2h": timedelta(hours=2),
    "6h": timedelta(hours=6),
    "24h": timedelta(hours=24),
}
"""Spans of time over which the burn rate is taken, by name."""
_BURN_ALERTS: Final[tuple[tuple[BurnAlert, str, str, float], ...]] = (
    # Long window, short window (a twelfth), burn rate: Google, The Site Reliability Workbook, chapter 5,
    # section 6. Its slowest pair, a rate of 1 over three days, is what a budget that is just kept looks like.
    ("fast", "1h", "5m", 14.4),
    ("fast", "6h", "30m", 6.0),
    ("slow", "24h", "2h", 3.0),
)
_WINDOW_MOST_SHARE: Final = 0.25
"""A window that is a larger part of the period than this says nothing that the forecast does not."""

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_HOUR: Final = timedelta(hours=1)
_LEAST_EXPOSURE_H: Final = 1 / 60
"""Traffic that began a second ago is taken to have run for a minute."""


class Scope(Struct, frozen=True, kw_only=True):
    """Which calls count. Empty is no limit, so that the scope without any holds everything."""

    tenant: str = ""
    team: str = ""
    key_alias: str = ""
    provider: str = ""
    model: str = ""
    """Without a provider: the model of this name of any provider."""
    gateway: str = ""
    environment: str = ""

    def __str__(self) -> str:
        limits = [f"{name}={value}" for name, value in self.limits.items()]
        return " ".join(limits) or "everything"

    @property
    def limits(self) -> dict[str, str]:
        """Dimensions that are limited, and to what."""
        return {name: value for name in self.__struct_fields__ if (value := getattr(self, name))}


class Budget(Struct, frozen=True, kw_only=True):
    """So many dollars for what the scope holds, in each period."""

    budget_id: str
    scope: Scope
    period: Kind
    time_zone: str
    amount_usd: Decimal
    warn_shares: tuple[Decimal, ...] = WARN_SHARES
    """Shares of the amount that are worth a warning, ascending."""

    def __post_init__(self) -> None:
        """Refuse what is no budget.

        Raises
        ------
        ValueError
        """
        if not _ID.fullmatch(self.budget_id):
            raise ValueError(
                f"{self.budget_id!r} is no id of a budget: 1 to 100 letters (a-z), digits, '.', '_' and '-', "
                "the first one a letter or digit"
            )
        if self.period not in kinds:
            raise ValueError(f"{self.period!r} is no period: write {', '.join(kinds)}")
        zone(self.time_zone)
        amount(self.amount_usd)
        shares(self.warn_shares)

    def period_at(self, at: datetime) -> Period:
        """The period that a moment lies in."""
        return period_at(self.period, zone(self.time_zone), at)


class Hour(Struct, frozen=True):
    """What an hour cost, by when it begins."""

    start: datetime
    spent_usd: Decimal


class BudgetStatus(Struct, frozen=True, kw_only=True):
    """How the period of a budget is going at a moment."""

    budget: Budget
    at: datetime
    period: Period
    state: State
    """``exceeded``: more is spent than the amount. ``will_exceed``: more is expected to be by the period's
    end. ``warning``: one of the warning shares is reached. Otherwise ``ok``."""
    spent_usd: Decimal
    """Exactly the sum of what the calls cost that have a cost."""
    remaining_usd: Decimal
    """Negative once exceeded."""
    share: float
    """Spent of the amount."""
    share_gone: float
    """Of the period's time."""
    warn_share: Decimal | None
    """The highest warning share that is reached."""
    calls: int
    calls_without_cost: int
    """Ended calls whose cost nobody knows: what was really spent is more."""
    calls_in_part: int
    """Calls of whose cost a part is unknown."""
    forecast_usd: Decimal
    """Expected by the period's end, what is spent included; never below it."""
    forecast_80_usd: tuple[Decimal, Decimal]
    """Where it will be in 80 of 100 cases."""
    forecast_95_usd: tuple[Decimal, Decimal]
    season: str
    """What the forecast could tell apart: ``flat``, ``hour of day`` or ``hour of week``."""
    tests: int
    """Past forecasts that the interval comes from; 0: there were none, and it is an assumption."""
    bursts_at: datetime | None
    """When the amount is, or was, used up, to about an hour; None if not within the period."""
    burn_rates: dict[str, float]
    """By :data:`BURN_WINDOWS`: 1 uses the amount up exactly in one period."""
    burn_alert: BurnAlert
    """``fast``, worth a page, or ``slow``, worth a ticket: both windows of a pair burn that quickly."""

    @property
    def is_over(self) -> bool:
        """Whether it is exceeded or is forecast to be."""
        return self.state in ("exceeded", "will_exceed")


def amount(value: str | Decimal) -> Decimal:
    """An amount of dollars that a budget can have.

    Raises
    ------
    ValueError
        It is no number, not positive, too large, or finer than a nano-dollar.
    """
    try:
        exact = Decimal(value)
    except InvalidOperation:
        raise ValueError(f"{value!r} is no amount of dollars: write a number like 500 or 0.25") from None
    if not exact.is_finite() or exact > AMOUNT_MOST:
        raise ValueError(f"an amount is at most {AMOUNT_MOST:,} USD, not {value}")
    if exact <= 0:
        raise ValueError(f"an amount is more than 0 USD, not {value}: to have no budget, remove it")
    if exact != exact.quantize(NANO):
        raise ValueError(f"{value} USD is finer than a nano-dollar: write at most nine decimals")
    return exact.quantize(NANO)


def shares(values: Sequence[Decimal]) -> tuple[Decimal, ...]:
    """Warning shares, ascending and each once.

    Raises
    ------
    ValueError
        One is not more than 0 and at most 10, or is finer than four decimals.
    """
    for value in values:
        if not value.is_finite() or not 0 < value <= 10 or value != value.quantize(Decimal("1e-4")):
            raise ValueError(f"a share to warn at is above 0 and at most 10, with four decimals, not {value}")
    return tuple(sorted(set(values)))


def history_start(period: Period, at: datetime) -> datetime:
    """From when hours are wanted: a whole number of them before the period's start."""
    first = min(at - HISTORY, period.start)
    return period.start - _HOUR * math.ceil((period.start - first) / _HOUR)


def assess(
    budget: Budget,
    period: Period,
    at: datetime,
    hours: Sequence[Hour],
    windows: Mapping[str, Decimal],
    *,
    calls: int = 0,
    calls_without_cost: int = 0,
    calls_in_part: int = 0,
    first_call: datetime | None = None,
) -> BudgetStatus:
    """Say how a budget is going.

    Parameters
    ----------
    period
        Of the budget, that holds ``at``.
    at
        Calls that started before it are known.
    hours
        Hours that cost something, from :func:`history_start` on; they count from the period's start.
    windows
        What was spent in the last :data:`BURN_WINDOWS` before ``at``.
    calls, calls_without_cost, calls_in_part
        Of the period.
    first_call
        When the first call of the scope started, if not before the history.
    """
    spent = sum((hour.spent_usd for hour in hours if hour.start >= period.start), Decimal(0)).quantize(NANO)
    told, coming = _forecast(budget, period, at, hours, first_call)
    share = spent / budget.amount_usd
    reached = [value for value in budget.warn_shares if spent >= value * budget.amount_usd]
    expected = _expected(spent, told.total)
    state: State = "ok"
    if spent > budget.amount_usd:
        state = "exceeded"
    elif expected > budget.amount_usd:
        state = "will_exceed"
    elif reached:
        state = "warning"
    bursts_at = _bursts_at(budget, period, at, hours, spent, told, coming)
    if state == "will_exceed" and bursts_at is None:
        # By less than what sums of floats can tell.
        bursts_at = period.end
    pace = float(budget.amount_usd) / period.hours
    rates = {
        name: float(windows.get(name, Decimal(0))) / (window / _HOUR) / pace
        for name, window in BURN_WINDOWS.items()
    }
    return BudgetStatus(
        budget=budget,
        at=at,
        period=period,
        state=state,
        spent_usd=spent,
        remaining_usd=budget.amount_usd - spent,
        share=float(share),
        share_gone=period.share_gone(at),
        warn_share=reached[-1] if reached else None,
        calls=calls,
        calls_without_cost=calls_without_cost,
        calls_in_part=calls_in_part,
        forecast_usd=expected,
        forecast_80_usd=(_expected(spent, told.low_80), _expected(spent, told.high_80)),
        forecast_95_usd=(_expected(spent, told.low_95), _expected(spent, told.high_95)),
        season=told.season,
        tests=told.tests,
        bursts_at=bursts_at,
        burn_rates=rates,
        burn_alert=_burn_alert(rates, period),
    )


def _expected(spent: Decimal, more: float) -> Decimal:
    """Money that is spent and money that is expected, in nano-dollars; never below what is spent."""
    return spent + Decimal(min(max(0.0, more), _EXPECTED_MOST)).quantize(NANO)


def _burn_alert(rates: Mapping[str, float], period: Period) -> BurnAlert:
    for alert, long, short, factor in _BURN_ALERTS:
        within = BURN_WINDOWS[long] / _HOUR <= _WINDOW_MOST_SHARE * period.hours
        if within and rates[long] >= factor and rates[short] >= factor:
            return alert
    return ""


def _forecast(
    budget: Budget, period: Period, at: datetime, hours: Sequence[Hour], first_call: datetime | None
) -> tuple[Forecast, list[tuple[datetime, datetime]]]:
    """The forecast, and the spans of the hours that it is for."""
    now = math.floor((at - period.start) / _HOUR)
    this_hour = period.start + _HOUR * now
    begin = history_start(period, at)
    is_new = first_call is not None and first_call > begin
    if first_call is not None and is_new:
        begin = period.start + _HOUR * math.floor((first_call - period.start) / _HOUR)
    known = round((this_hour - begin) / _HOUR) + 1
    exposure = np.ones(known)
    exposure[-1] = (at - this_hour) / _HOUR
    if first_call is not None and is_new:
        # In the one hour of its first call, a scope has been there since that call.
        exposure[0] = max(exposure[0] - (first_call - begin) / _HOUR, _LEAST_EXPOSURE_H)
    spend = np.zeros(known)
    for hour in hours:
        place = round((hour.start - begin) / _HOUR)
        if 0 <= place < known:
            spend[place] += float(hour.spent_usd)
    if exposure[-1] == 0:
        spend, exposure = spend[:-1], exposure[:-1]
    starts = [begin + _HOUR * place for place in range(known)]
    coming = [
        (max(at, start), min(start + _HOUR, period.end))
        for start in (this_hour + _HOUR * n for n in range(math.ceil((period.end - this_hour) / _HOUR)))
    ]
    return (
        forecast(
            spend,
            exposure,
            _seasons(budget, starts[: len(spend)]),
            _seasons(budget, [start for start, _ in coming]),
            np.array([(end - start) / _HOUR for start, end in coming]),
        ),
        coming,
    )


def _seasons(budget: Budget, starts: Sequence[datetime]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    place = zone(budget.time_zone)
    local = [start.astimezone(place) for start in starts]
    return np.array([moment.weekday() * 24 + moment.hour for moment in local], dtype=np.int64)


def _bursts_at(
    budget: Budget,
    period: Period,
    at: datetime,
    hours: Sequence[Hour],
    spent: Decimal,
    told: Forecast,
    coming: Sequence[tuple[datetime, datetime]],
) -> datetime | None:
    """When the amount is used up: by what is known, or by what is expected, evenly within the hour."""
    if spent > budget.amount_usd:
        gone = Decimal(0)
        for hour in sorted((hour for hour in hours if hour.start >= period.start), key=lambda h: h.start):
            if gone + hour.spent_usd > budget.amount_usd:
                part = float((budget.amount_usd - gone) / hour.spent_usd)
                return hour.start + (min(hour.start + _HOUR, at) - hour.start) * part
            gone += hour.spent_usd
    left = float(budget.amount_usd - spent)
    for more, (start, end) in zip(told.path, coming, strict=True):
        if more > left:
            return start + (end - start) * (left / more)
        left -= more
    return None


def at_utc(moment: datetime) -> datetime:
    """A moment in UTC, to the millisecond as everything that is stored."""
    plain = moment.astimezone(UTC)
    return plain.replace(microsecond=plain.microsecond // 1000 * 1000)
