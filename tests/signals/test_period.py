"""Periods of calendars in time zones: no gap, no overlap, edges at local midnights."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signals.period import Kind, Period, kinds, period_at, zone

ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",  # half an hour, with daylight saving
    "Asia/Kolkata",  # half an hour
    "Asia/Kathmandu",  # three quarters
    "Pacific/Apia",  # crossed the date line
    "Australia/Lord_Howe",  # saves half an hour of daylight
    "Africa/Cairo",  # changes at midnight
    "America/Havana",  # has a midnight twice
    "Asia/Beirut",  # has a day without a midnight
]


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "place", "moment", "start", "end", "hours"),
    [
        ("daily", "Europe/Berlin", "2026-03-29T12:00", "2026-03-28T23:00", "2026-03-29T22:00", 23),
        ("daily", "Europe/Berlin", "2026-10-25T12:00", "2026-10-24T22:00", "2026-10-25T23:00", 25),
        ("daily", "America/New_York", "2026-03-08T12:00", "2026-03-08T05:00", "2026-03-09T04:00", 23),
        ("daily", "America/New_York", "2026-11-01T12:00", "2026-11-01T04:00", "2026-11-02T05:00", 25),
        ("daily", "Asia/Kolkata", "2026-05-05T18:29:59", "2026-05-04T18:30", "2026-05-05T18:30", 24),
        ("daily", "Asia/Kolkata", "2026-05-05T18:30", "2026-05-05T18:30", "2026-05-06T18:30", 24),
        # Samoa had no 30 December 2011: the 31st follows the 29th.
        ("daily", "Pacific/Apia", "2011-12-30T09:59", "2011-12-29T10:00", "2011-12-30T10:00", 24),
        ("daily", "Pacific/Apia", "2011-12-30T10:00", "2011-12-30T10:00", "2011-12-31T10:00", 24),
        ("monthly", "Pacific/Apia", "2011-12-30T10:00", "2011-12-01T10:00", "2011-12-31T10:00", 720),
        ("daily", "Australia/Lord_Howe", "2026-04-04T20:00", "2026-04-04T13:00", "2026-04-05T13:30", 24.5),
        # Cairo's clocks go from 23:59 to 01:00: the day begins at one.
        ("daily", "Africa/Cairo", "2026-04-24T12:00", "2026-04-23T22:00", "2026-04-24T21:00", 23),
        # Havana's go from 01:00 back to 00:00: the first midnight counts.
        ("daily", "America/Havana", "2024-11-03T12:00", "2024-11-03T04:00", "2024-11-04T05:00", 25),
        ("weekly", "UTC", "2026-01-01T00:00", "2025-12-29T00:00", "2026-01-05T00:00", 168),
        ("weekly", "UTC", "2027-01-03T23:59:59", "2026-12-28T00:00", "2027-01-04T00:00", 168),
        ("weekly", "Europe/Berlin", "2026-03-29T12:00", "2026-03-22T23:00", "2026-03-29T22:00", 167),
        ("weekly", "America/New_York", "2025-12-29T04:59", "2025-12-22T05:00", "2025-12-29T05:00", 168),
        ("monthly", "UTC", "2026-02-28T23:59", "2026-02-01T00:00", "2026-03-01T00:00", 28 * 24),
        ("monthly", "UTC", "2028-02-29T23:59", "2028-02-01T00:00", "2028-03-01T00:00", 29 * 24),
        ("monthly", "UTC", "2026-04-30T00:00", "2026-04-01T00:00", "2026-05-01T00:00", 30 * 24),
        ("monthly", "UTC", "2026-12-31T23:59", "2026-12-01T00:00", "2027-01-01T00:00", 31 * 24),
        ("monthly", "Europe/Berlin", "2026-03-31T22:30", "2026-03-31T22:00", "2026-04-30T22:00", 720),
        ("monthly", "America/New_York", "2026-03-20T00:00", "2026-03-01T05:00", "2026-04-01T04:00", 743),
    ],
)
def test_known_periods(kind: Kind, place: str, moment: str, start: str, end: str, hours: float) -> None:
    period = period_at(kind, zone(place), at(moment))
    assert period == Period(at(start), at(end))
    assert period.hours == hours


@given(
    st.sampled_from(kinds),
    st.sampled_from(ZONES),
    st.integers(0, 99 * 365 * 86_400).map(lambda s: datetime(2000, 1, 1, tzinfo=UTC) + timedelta(seconds=s)),
)
def test_each_moment_lies_in_one_period_and_the_next_begins_where_it_ends(
    kind: Kind, place: str, moment: datetime
) -> None:
    period = period_at(kind, zone(place), moment)
    assert period.start <= moment < period.end
    assert period_at(kind, zone(place), period.start) == period
    assert period_at(kind, zone(place), period.end).start == period.end
    first = period.start.astimezone(zone(place))
    assert first.date() != (period.start - timedelta(seconds=1)).astimezone(zone(place)).date()
    if kind == "weekly":
        assert first.weekday() == 0
    if kind == "monthly":
        assert first.day == 1


@given(st.sampled_from(ZONES), st.dates(date(2000, 1, 1), date(2099, 1, 1)))
def test_a_day_begins_with_the_first_quarter_of_an_hour_that_has_its_date(place: str, day: date) -> None:
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=zone(place)).astimezone(UTC)
    if noon.astimezone(zone(place)).date() != day:
        return  # a day that Samoa left out
    quarters = (noon - timedelta(minutes=15 * n) for n in range(26 * 4, -1, -1))
    expected = next(quarter for quarter in quarters if quarter.astimezone(zone(place)).date() >= day)
    assert period_at("daily", zone(place), noon).start == expected


def test_the_share_gone_stays_within_a_period() -> None:
    period = period_at("daily", zone("Europe/Berlin"), at("2026-03-29T12:00"))
    assert period.share_gone(period.start) == 0
    assert period.share_gone(period.start + timedelta(hours=11.5)) == 0.5
    assert period.share_gone(period.end + timedelta(days=3)) == 1
    assert period.share_gone(period.start - timedelta(days=3)) == 0


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("Berlin", "Europe/Berlin"),
        ("europe/berlin", "Europe/Berlin"),
        ("Europe/Berln", "Europe/Berlin"),
        ("new york", "America/New_York"),
    ],
)
def test_an_unknown_zone_says_names_that_are_near(name: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"is no time zone of the IANA database; .*{near}"):
        zone(name)


@pytest.mark.parametrize("name", ["", "xx", "../../etc/passwd", "/etc/localtime", "localtime", "\x00"])
def test_what_is_like_no_zone_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no time zone of the IANA database; write one like"):
        zone(name)


def test_zones_do_not_depend_on_the_machine(tmp_path: Path) -> None:
    """Neither without a database of its own nor with a broken one."""
    (tmp_path / "Europe").mkdir()
    (tmp_path / "Europe" / "Berlin").write_bytes(b"no zone")
    code = (
        "from datetime import datetime; from signals.period import zone; "
        "print(*(datetime(2026, 7, 1, tzinfo=zone(n)).utcoffset() for n in ('Europe/Berlin', 'UTC')))"
    )
    for own in ("", str(tmp_path)):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONTZPATH": own},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "2:00:00 0:00:00\n"
