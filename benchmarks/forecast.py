"""How far off a budget's forecast is: `python -m benchmarks.forecast`.

As of several moments of a period, what `gatewatch budgets status` would forecast for its end is compared with
what came. Two series of hourly spend:

* ``ragpulse``: one week of a real service, 7,106 calls, whose tokens are priced as openai gpt-4o-mini. It
  begins at 12:00 (the trace does not say the weekday). Days are forecast from what came before them; the
  week, here from its first hour on, is forecast from itself, as nothing precedes it.
* ``synthetic``: years of three tenants, made from fixed seeds: RAGPulse's calls by hour of day, weekends at
  0.45 and 0.35, 4 % growth a month, days that vary by 8 % and remember half of it, Poisson calls with costs
  of a log-normal tail; ten holidays at 0.3; two shifts of the level, by 1.6 and by 0.7, and an outage of
  twelve hours, on days that the seed draws. Nothing in `signals/forecast.py` was chosen by it.

Errors are WAPE: the sum of the absolute errors of the period's total over the sum of the totals. Baselines:
``run_rate``, spent over the share of the period gone; ``naive``, the last week repeated (the last day, where
there is no week). Coverage is the share of totals within the interval. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gatewatch.events import Call
from gatewatch.pricing import price
from gatewatch.usage import Usage
from signals.budget import Budget, BudgetStatus, Hour, Scope, assess, history_start
from signals.period import Kind, Period
from traffic.profile import HOURLY_CALLS
from traffic.trace import Trace

TRACE: Final = Path(__file__).resolve().parents[2] / "shared/data/traces/ragpulse/data/0_trace.jsonl.gz"
MODEL: Final = ("openai", "gpt-4o-mini")
SHARES: Final = (0.1, 0.25, 0.5, 0.75, 0.9)
SEEDS: Final = (1, 2, 3)
DAYS: Final = 365
EVERY_DAY: Final = 5
"""One day in so many is forecast: a year has many."""
WEEKDAYS: Final = (1.0, 1.0, 1.0, 1.0, 1.0, 0.45, 0.35)
HOLIDAYS: Final = (0, 60, 92, 95, 120, 140, 185, 300, 358, 359)
"""Days of the year, from 0."""
_HOUR: Final = timedelta(hours=1)
_NANO: Final = Decimal("1e-9")

Ints = NDArray[np.int64]


class Series:
    """Hourly spend in nano-USD, from a moment on."""

    def __init__(self, start: datetime, nano_usd: Ints) -> None:
        self.start = start
        self.nano_usd = nano_usd
        self.hours = [
            Hour(start + _HOUR * place, int(nano) * _NANO) for place, nano in enumerate(nano_usd.tolist())
        ]

    @property
    def end(self) -> datetime:
        """Just after its last hour."""
        return self.start + _HOUR * len(self.hours)

    def place(self, at: datetime) -> int:
        """How many hours lie before a moment."""
        return round((at - self.start) / _HOUR)


def ragpulse(path: Path, start: datetime) -> Series:
    """The trace's tokens as spend, from ``start`` on."""
    hourly = np.zeros(168, dtype=np.int64)
    for offset_s, call in Trace("ragpulse", [path], run="forecast"):
        assert isinstance(call, Call)
        usage = Usage(input_tokens=call.input_tokens, output_tokens=call.output_tokens)
        cost = price(*MODEL, usage, at_ms=round(start.timestamp() * 1000))
        hourly[int(offset_s // 3600)] += sum(cost.parts_nano_usd.values())
    return Series(start, hourly)


def synthetic(seed: int, days: int = DAYS) -> Series:
    """A year of a tenant, from a Monday on."""
    rng = np.random.default_rng(seed)
    start = datetime(2018, 1, 1, tzinfo=UTC)
    level = 1.04 ** (np.arange(DAYS) / 30.4) * np.tile(WEEKDAYS, 53)[:DAYS]
    level[list(HOLIDAYS)] *= 0.3
    for first, last, factor in ((60, 150, 1.6), (200, 290, 0.7)):
        level[rng.integers(first, last) :] *= factor
    noise = np.zeros(DAYS)
    for day in range(1, DAYS):
        noise[day] = 0.5 * noise[day - 1] + rng.normal(0, 0.08)
    rate = np.outer(level * np.exp(noise), np.array(HOURLY_CALLS) / 7).ravel()
    outage = int(rng.integers(100 * 24, 250 * 24))
    rate[outage : outage + 12] = 0
    calls = rng.poisson(rate)
    spend = [round(float(rng.lognormal(0, 1, count).sum()) * 2_000_000) for count in calls]
    return Series(start, np.array(spend[: days * 24], dtype=np.int64))


def periods(series: Series, kind: Kind, every: int) -> Iterator[tuple[Budget, datetime, datetime]]:
    """Whole periods of a series, one in so many."""
    budget = Budget(budget_id="benchmark", scope=Scope(), period=kind, time_zone="UTC", amount_usd=Decimal(1))
    period = budget.period_at(series.start)
    number = 0
    while period.end <= series.end:
        if period.start >= series.start and number % every == 0:
            yield budget, period.start, period.end
        number += 1
        period = budget.period_at(period.end)


def naive(known: Ints, ahead: int) -> float:
    """The last week, or the last day, repeated; below a day, the mean hour."""
    season = 168 if len(known) >= 168 else 24 if len(known) >= 24 else len(known)
    return float(np.resize(known[-season:], ahead).sum()) if ahead else 0.0


def guess(
    series: Series, budget: Budget, period: Period, at: datetime
) -> tuple[BudgetStatus, dict[str, float]]:
    """What each method says as of a moment that the period will cost, in nano-USD; and our status."""
    first, now, last = map(series.place, (period.start, at, period.end))
    oldest = max(0, series.place(history_start(period, at)))
    told = assess(budget, period, at, series.hours[oldest:now], {}, first_call=series.start)
    spent = float(series.nano_usd[first:now].sum())
    return told, {
        "ours": float(told.forecast_usd / _NANO),
        "run_rate": spent * (last - first) / (now - first),
        "naive": spent + naive(series.nano_usd[:now], last - now),
    }


class Score:
    """Errors and coverage as of one share of the period."""

    def __init__(self) -> None:
        self.total = 0.0
        self.errors = dict.fromkeys(("ours", "run_rate", "naive"), 0.0)
        self.within = {80: 0, 95: 0}
        self.count = 0

    def add(self, series: Series, budget: Budget, start: datetime, end: datetime, share: float) -> None:
        """Forecast one period as of a share of it, to the whole hour."""
        at = start + _HOUR * max(1, round(share * ((end - start) / _HOUR)))
        told, guesses = guess(series, budget, Period(start, end), at)
        came = int(series.nano_usd[series.place(start) : series.place(end)].sum())
        self.total += came
        self.count += 1
        for name, total in guesses.items():
            self.errors[name] += abs(total - came)
        for level, (low, high) in ((80, told.forecast_80_usd), (95, told.forecast_95_usd)):
            self.within[level] += low <= came * _NANO <= high

    def figures(self) -> dict[str, float]:
        """WAPE by method, coverage by level, and of how many."""
        wape = {name: round(error / (self.total or math.nan), 4) for name, error in self.errors.items()}
        return (
            wape
            | {f"within_{level}": round(count / self.count, 3) for level, count in self.within.items()}
            | {"forecasts": self.count}
        )


def measure(name: str, kind: Kind, chosen: list[Series], every: int = 1) -> dict[str, Any]:
    """Figures by share of the period gone, printed as they are known."""
    figures = {}
    for share in SHARES:
        score = Score()
        for series in chosen:
            for budget, start, end in periods(series, kind, every):
                score.add(series, budget, start, end, share)
        told = score.figures()
        figures[f"{share:g}"] = told
        beaten = "" if told["ours"] <= told["run_rate"] else "  run rate NOT beaten"
        beaten += "" if told["ours"] <= told["naive"] else "  naive NOT beaten"
        print(
            f"{name:<10} {kind:<8} {share:>4.0%} gone: WAPE ours {told['ours']:6.1%}, run rate "
            f"{told['run_rate']:6.1%}, naive {told['naive']:6.1%}; within 80 %: {told['within_80']:6.1%}, "
            f"95 %: {told['within_95']:6.1%}; {told['forecasts']} forecasts{beaten}",
            flush=True,
        )
    return figures


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print the figures; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forecast", description=__doc__)
    parser.add_argument("--trace", type=Path, default=TRACE, help="RAGPulse's 0_trace.jsonl.gz")
    parser.add_argument("--days", type=int, default=DAYS, help="days of each synthetic year")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many synthetic years")
    options = parser.parse_args(arguments)
    figures: dict[str, Any] = {}
    if options.trace.exists():
        # A week that begins on a Monday is a period; days that begin at midnight are, from its noon on.
        week = ragpulse(options.trace, datetime(2025, 1, 6, tzinfo=UTC))
        days = Series(week.start + 12 * _HOUR, week.nano_usd)
        figures["ragpulse"] = {
            "daily": measure("ragpulse", "daily", [days]),
            "weekly": measure("ragpulse", "weekly", [week]),
        }
    else:
        print(f"no {options.trace}: RAGPulse is left out", file=sys.stderr)
    years = [synthetic(seed, options.days) for seed in SEEDS[: options.seeds]]
    figures["synthetic"] = {
        "daily": measure("synthetic", "daily", years, EVERY_DAY),
        "weekly": measure("synthetic", "weekly", years),
        "monthly": measure("synthetic", "monthly", years),
    }
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
