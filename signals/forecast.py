"""What will be spent: hourly spend carried forward, with an interval from the series' own past errors.

The method is exponential smoothing of a level under a multiplicative season (Holt 1957, Winters 1960; ETS
(M,N,M) in Hyndman and Athanasopoulos, *Forecasting: Principles and Practice*, 3rd edition, chapters 3.4 and
8). It has no trend: over the weeks that a budget runs, a trend that is carried on does more harm than good
(Gardner and McKenzie 1985), and a level that is smoothed follows one soon enough.

- **Season**: how an hour compares with the mean, from ratios to a moving average of a week (classical
  decomposition). With a day of history there is one for each hour of the day, from a week on for each hour
  of the week. A finer season starts from the coarser one as if :data:`PRIOR_H` hours of it had been seen.
- **Level**: spend over season, each hour weighted by half for every half-life of age. The half-life is the
  one of :data:`HALF_LIVES_H` that would have done best on this series, as Holt-Winters chooses its weight.
- **Interval**: the forecast is made again as of earlier days, from what was known then, and compared with
  what came. The quantiles of these relative errors are the interval, as in split conformal prediction (Vovk
  et al. 2005; rank ceil((n + 1) p)), widened by Student's t for how few windows do not overlap. A horizon
  longer than a third of the history cannot be tested: errors then grow with its square root, as those of a
  level that wanders do. Below :data:`TESTED_FROM_H` hours nothing can be, and :data:`PRIOR_FACTORS` hold.

Nothing here was fitted to ``benchmarks/forecast.py``, which measures errors and coverage.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

__all__ = ["HISTORY_H", "HOURS_OF_WEEK", "Forecast", "forecast"]

HOURS_OF_WEEK: Final = 168
HISTORY_H: Final = 8 * HOURS_OF_WEEK
"""As much history as is of use: eight of each hour of the week, and a month of horizon can be tested."""
HALF_LIVES_H: Final = (24.0, 72.0, 168.0, 504.0)
"""A day follows a shift at once, three weeks follow nothing but growth."""
PRIOR_H: Final = 1.0
TESTED_FROM_H: Final = 48
"""Two days: one to learn from and one to be tested on."""
PRIOR_FACTORS: Final = (2.0, 4.0)
"""A half to twice the forecast, or a quarter to four times: an assumption, not a measurement."""
LEAST_SHARE: Final = 0.1
"""Errors are relative to the forecast, or to this share of the mean where less is forecast."""

_COVERAGES: Final = (0.80, 0.95)
_NORMAL: Final = (1.2816, 1.9600)
_STUDENT: Final = (
    # Two-sided quantiles of Student's t for 80 % and 95 %, with 1, 2, ... 10 degrees of freedom.
    (3.078, 1.886, 1.638, 1.533, 1.476, 1.440, 1.415, 1.397, 1.383, 1.372),
    (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Forecast(Struct, frozen=True):
    """What is expected from now to the horizon; amounts in the unit of the history."""

    path: tuple[float, ...]
    """Expected amount of each coming hour."""
    total: float
    low_80: float
    high_80: float
    low_95: float
    high_95: float
    season: str
    """``flat``, ``hour of day`` or ``hour of week``."""
    half_life_h: float
    tests: int
    """Past forecasts that the interval comes from; 0 where it is an assumption."""


def forecast(
    spend: Floats, exposure_h: Floats, season: Ints, coming_season: Ints, coming_h: Floats
) -> Forecast:
    """Carry hourly spend forward.

    Parameters
    ----------
    spend
        What each hour of the history cost, without gaps: an hour without calls is a zero; shape (n,).
    exposure_h
        How much of each of these hours there was: 1, but for the first and the last one; shape (n,).
    season
        The local hour of the week of each, 0 to 167 from Monday; shape (n,).
    coming_season
        The same of the hours to forecast; shape (m,).
    coming_h
        How much of each of these is to come; shape (m,).

    Examples
    --------
    Calls by day only, for two weeks; then the next half day and the night after it:

    >>> hours = np.arange(14 * 24)
    >>> spend = np.where(hours % 24 < 12, 2.0, 0.0)
    >>> coming = np.arange(24)
    >>> told = forecast(spend, np.ones(len(hours)), hours % 168, coming, np.ones(24))
    >>> round(told.total), round(sum(told.path[12:])), told.season
    (24, 0, 'hour of week')
    """
    n = len(spend)
    horizon = float(coming_h.sum())
    name = _season_name(n)
    if n == 0 or horizon == 0 or not spend.any():
        return Forecast((0.0,) * len(coming_h), 0.0, 0.0, 0.0, 0.0, 0.0, name, HALF_LIVES_H[-1], 0)
    errors, best, disjoint = _past_errors(spend, exposure_h, season, horizon)
    profile = _profile(spend, exposure_h, season)
    level = _levels(spend, exposure_h, profile[season])[best]
    path = level * profile[coming_season] * coming_h
    total = float(path.sum())
    if len(errors):
        tested_h = min(horizon, n // 3)
        scale = _scale(total, spend, exposure_h, horizon) * math.sqrt(max(1.0, horizon / tested_h))
        wide = [scale * _quantile(errors, which, disjoint) for which in range(len(_COVERAGES))]
        lows = [max(0.0, total - width) for width in wide]
        highs = [total + width for width in wide]
    else:
        lows = [total / factor for factor in PRIOR_FACTORS]
        highs = [total * factor for factor in PRIOR_FACTORS]
    return Forecast(
        path=tuple(path.tolist()),
        total=total,
        low_80=lows[0],
        high_80=highs[0],
        # A few errors can have a 95 % quantile that is their 80 % one; never a narrower one.
        low_95=min(lows),
        high_95=max(highs),
        season=name,
        half_life_h=HALF_LIVES_H[best],
        tests=len(errors),
    )


def _season_name(n: int) -> str:
    return "flat" if n < 24 else "hour of day" if n < HOURS_OF_WEEK else "hour of week"


def _profile(spend: Floats, exposure_h: Floats, season: Ints) -> Floats:
    """How each hour of the week compares with the mean; shape (168,)."""
    n = len(spend)
    flat = np.ones(HOURS_OF_WEEK)
    if n < 24:
        return flat
    relative = spend / _moving_mean(spend, exposure_h)
    by_day = _shrunk(relative, exposure_h, season % 24, np.ones(24))
    daily: Floats = np.tile(by_day, 7)
    if n < HOURS_OF_WEEK:
        return daily
    # A day of the week as a whole is known after one of it; its hours are known better after several.
    days = _shrunk(relative, exposure_h * daily[season], season // 24, np.ones(7))
    weekly = daily * np.repeat(days, 24)
    return _shrunk(relative, exposure_h, season, weekly)


def _shrunk(relative: Floats, exposure: Floats, group: Ints, prior: Floats) -> Floats:
    amounts = np.bincount(group, relative, len(prior))
    exposures = np.bincount(group, exposure, len(prior))
    return np.asarray((amounts + PRIOR_H * prior) / (exposures + PRIOR_H), dtype=np.float64)


def _moving_mean(spend: Floats, exposure_h: Floats) -> Floats:
    """The mean of the week around each hour, or of the nearest whole week; of everything below two weeks."""
    n = len(spend)
    if n < 2 * HOURS_OF_WEEK:
        mean = float(spend.sum() / exposure_h.sum())
        return np.full(n, mean or 1.0)
    amounts = np.concatenate(([0.0], np.cumsum(spend)))
    exposures = np.concatenate(([0.0], np.cumsum(exposure_h)))
    begin = np.clip(np.arange(n) - HOURS_OF_WEEK // 2, 0, n - HOURS_OF_WEEK)
    end = begin + HOURS_OF_WEEK
    means: Floats = (amounts[end] - amounts[begin]) / (exposures[end] - exposures[begin])
    # Differences of running sums can miss zero by a rounding error.
    silent = means <= 1e-12 * float(spend.max())
    means[silent] = 1.0
    return means


def _levels(spend: Floats, exposure_h: Floats, seasonal: Floats) -> Floats:
    """Spend in an hour of the mean season, for each half-life."""
    age_h = np.arange(len(spend), 0, -1, dtype=np.float64)
    weights = np.exp2(-age_h[None, :] / np.array(HALF_LIVES_H)[:, None])
    expected = weights @ (seasonal * exposure_h)
    seen = weights @ spend
    levels: Floats = np.divide(seen, expected, out=np.zeros_like(seen), where=expected > 0)
    return levels


def _scale(total: float, spend: Floats, exposure_h: Floats, horizon_h: float) -> float:
    return max(total, LEAST_SHARE * float(spend.sum() / exposure_h.sum()) * horizon_h)


def _past_errors(
    spend: Floats, exposure_h: Floats, season: Ints, horizon: float
) -> tuple[Floats, int, float]:
    """Relative errors that past forecasts made, which half-life made the least, how many do not overlap.

    Forecasts are made as of the same time of day as now, or each hour where there is less than a week.
    """
    n = len(spend)
    nothing = np.zeros(0)
    if n < TESTED_FROM_H:
        return nothing, len(HALF_LIVES_H) - 1, 0.0
    tested_h = max(1, min(math.ceil(horizon), n // 3))
    step = 24 if n >= HOURS_OF_WEEK else 1
    first = max(24, n // 3)
    origins = list(range(n - tested_h, first - 1, -step))
    found = []
    for origin in origins:
        known, lived, then = spend[:origin], exposure_h[:origin], season[:origin]
        profile = _profile(known, lived, then)
        coming = slice(origin, origin + tested_h)
        ahead = float((profile[season[coming]] * exposure_h[coming]).sum())
        totals = _levels(known, lived, profile[then]) * ahead
        came = float(spend[coming].sum())
        found.append(
            [
                abs(came - total) / (_scale(total, known, lived, tested_h) or 1.0)
                for total in map(float, totals)
            ]
        )
    errors = np.array(found)
    best = int(np.argmin(errors.mean(axis=0)))
    disjoint = 1 + (origins[0] - origins[-1]) / tested_h
    return errors[:, best], best, min(disjoint, float(len(origins)))


def _quantile(errors: Floats, which: int, disjoint: float) -> float:
    rank = min(len(errors), math.ceil((len(errors) + 1) * _COVERAGES[which]))
    ordered = np.sort(errors)
    table = _STUDENT[which]
    freedom = math.floor(disjoint)
    widened = table[freedom - 1] / _NORMAL[which] if freedom <= len(table) else 1.0
    return float(ordered[rank - 1]) * widened
