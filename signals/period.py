"""Periods of a calendar in somebody's time zone: days, ISO weeks and months, with their edges in UTC.

A period begins with the first instant of its first day as a clock on the wall shows it, so that a day of
daylight saving time has 23 or 25 hours. Where a midnight comes twice, the first counts; where there is none,
the day begins when the clocks have been set forward. ``sinks/views/budget.py`` computes the same in SQL.
"""

from __future__ import annotations

import difflib
import functools
import importlib.resources
from datetime import UTC, date, datetime, timedelta
from typing import Final, Literal, NoReturn, get_args
from zoneinfo import ZoneInfo

from msgspec import Struct

__all__ = ["Kind", "Period", "kinds", "period_at", "zone"]

Kind = Literal["daily", "weekly", "monthly"]
kinds: Final[tuple[Kind, ...]] = get_args(Kind)

_NEAR: Final = 3


class Period(Struct, frozen=True):
    """A span of time, from its start to just before its end, both in UTC."""

    start: datetime
    end: datetime

    @property
    def hours(self) -> float:
        """Its length in hours as they pass, not as clocks show them."""
        return (self.end - self.start).total_seconds() / 3600

    def share_gone(self, at: datetime) -> float:
        """The share of it that lies before a moment, 0 to 1."""
        gone_s = (at - self.start).total_seconds()
        return min(1.0, max(0.0, gone_s / (self.end - self.start).total_seconds()))


_DATABASE: Final = importlib.resources.files("tzdata")
# The database of the package, which is pinned, and not the machine's own: the engine brings its own, and one
# that is years old disagrees with it (Morocco's clocks in September 2026, for one).


@functools.cache
def _zones() -> frozenset[str]:
    return frozenset(_DATABASE.joinpath("zones").read_text("ascii").split())


def zone(name: str) -> ZoneInfo:
    """A time zone of the IANA database, as of the package tzdata that is installed.

    Raises
    ------
    ValueError
        There is no such zone; the message says which names are near.
    """
    return _known(name) if name in _zones() else _refuse(name)


@functools.cache
def _known(name: str) -> ZoneInfo:
    with _DATABASE.joinpath("zoneinfo", *name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


def _refuse(name: str) -> NoReturn:
    wanted = name.casefold().replace(" ", "_")
    same_city = [
        known for known in _zones() if known.casefold().rpartition("/")[2] == wanted.rpartition("/")[2]
    ]
    folded = {known.casefold(): known for known in _zones()}
    alike = [folded[near] for near in difflib.get_close_matches(wanted, folded, _NEAR, 0.6)]
    # Names with a continent are the ones to use; the others are there for old programs.
    near = list(dict.fromkeys([*sorted(same_city, key=lambda known: ("/" not in known, known)), *alike]))
    hint = f"; names that are near: {', '.join(near[:_NEAR])}" if near else "; write one like Europe/Berlin"
    raise ValueError(f"{name!r} is no time zone of the IANA database{hint}")


def period_at(kind: Kind, place: ZoneInfo, at: datetime) -> Period:
    """The period that a moment lies in.

    Parameters
    ----------
    at
        With a time zone, any.

    Examples
    --------
    >>> night = datetime(2026, 3, 29, 12, tzinfo=UTC)
    >>> day = period_at("daily", zone("Europe/Berlin"), night)
    >>> f"{day.start:%d %H:%M} {day.end:%d %H:%M} {day.hours:.0f}"
    '28 23:00 29 22:00 23'
    """
    local = at.astimezone(place).date()
    # A date line that was crossed leaves days of no length, which hold no moment.
    while True:
        first, following = _edges(kind, local)
        period = Period(_begin(first, place), _begin(following, place))
        if period.start <= at < period.end:
            return period
        local = following if at >= period.end else first - timedelta(days=1)


def _edges(kind: Kind, day: date) -> tuple[date, date]:
    match kind:
        case "daily":
            return day, day + timedelta(days=1)
        case "weekly":
            monday = day - timedelta(days=day.weekday())
            return monday, monday + timedelta(days=7)
        case "monthly":
            first = day.replace(day=1)
            return first, (first + timedelta(days=31)).replace(day=1)


def _begin(day: date, place: ZoneInfo) -> datetime:
    # Python takes a time that is skipped as what it would have been: the moment of the change (PEP 495).
    return datetime(day.year, day.month, day.day, tzinfo=place).astimezone(UTC)
