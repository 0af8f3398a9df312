"""Budgets and their status: exact money, states, burn rates, and what is no budget."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signals import budget as module
from signals.budget import (
    BURN_WINDOWS,
    Budget,
    BudgetStatus,
    Hour,
    Scope,
    amount,
    history_start,
    shares,
)

HOUR = timedelta(hours=1)
NANO = Decimal("0.000000001")


def budget(**fields: Any) -> Budget:
    known: dict[str, Any] = {
        "budget_id": "acme",
        "scope": Scope(tenant="acme"),
        "period": "monthly",
        "time_zone": "Europe/Berlin",
        "amount_usd": Decimal(500),
    }
    return Budget(**known | fields)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def assess(one: Budget, moment: datetime, hours: list[Hour], windows: Any, **more: Any) -> BudgetStatus:
    return module.assess(one, one.period_at(moment), moment, hours, windows, **more)


def steady(one: Budget, moment: datetime, usd_per_hour: str, hours: int = 24 * 60) -> BudgetStatus:
    """The same in every hour up to a moment, for so long."""
    period = one.period_at(moment)
    spent = []
    for number in range(hours):
        start = period.start + HOUR * ((moment - period.start) // HOUR - number)
        if history_start(period, moment) <= start < moment:
            share = min(HOUR, moment - start) / HOUR
            spent.append(Hour(start, Decimal(usd_per_hour) * Decimal(share)))
    windows = {name: Decimal(usd_per_hour) * Decimal(span / HOUR) for name, span in BURN_WINDOWS.items()}
    return assess(one, moment, spent, windows)


def test_steady_spend_is_forecast_to_go_on_and_burns_at_its_pace() -> None:
    # November has 720 hours in Berlin: 0.5 an hour makes 360, a rate of 0.72.
    one = steady(budget(), at("2026-11-15T23:00"), "0.5")
    assert one.state == "ok"
    assert one.spent_usd == Decimal("180.000000000")
    assert one.remaining_usd == Decimal(320)
    assert (one.share, one.share_gone, one.warn_share) == (0.36, 0.5, None)
    assert one.forecast_usd == pytest.approx(Decimal(360), abs=Decimal("0.001"))
    assert one.bursts_at is None
    assert {round(rate, 9) for rate in one.burn_rates.values()} == {0.72}
    assert one.burn_alert == ""
    assert not one.is_over


def test_spend_that_will_exceed_says_when() -> None:
    one = steady(budget(), at("2026-11-10T23:00"), "1")
    assert one.state == "will_exceed"
    assert one.is_over
    assert one.forecast_usd > 719
    assert one.bursts_at is not None
    # 500 hours after the month began.
    assert abs(one.bursts_at - (at("2026-10-31T23:00") + 500 * HOUR)) < timedelta(minutes=5)


def test_exceeded_is_more_than_the_amount_to_the_nano_dollar() -> None:
    moment = at("2026-11-30T22:59:59")
    hours = [Hour(at("2026-11-03T10:00"), Decimal(499)), Hour(at("2026-11-04T10:00"), Decimal(1))]
    used_up = assess(budget(), moment, hours, {})
    assert used_up.remaining_usd == 0
    assert used_up.warn_share == 1
    assert used_up.state != "exceeded"
    over = assess(budget(), moment, [*hours, Hour(at("2026-11-05T10:00"), NANO)], {})
    assert (over.state, over.remaining_usd) == ("exceeded", -NANO)
    assert over.bursts_at == at("2026-11-05T10:00")


def test_what_was_spent_before_the_period_is_history_and_not_spent() -> None:
    one = budget(period="daily")
    start = one.period_at(at("2026-03-29T12:00")).start
    hours = [Hour(start - HOUR, Decimal(7)), Hour(start, Decimal(2))]
    assert assess(one, at("2026-03-29T12:00"), hours, {}).spent_usd == 2


@pytest.mark.parametrize(
    ("share", "reached", "state"),
    [
        ("0.4999", None, "ok"),
        ("0.5", "0.5", "warning"),
        ("0.79", "0.5", "warning"),
        ("0.8", "0.8", "warning"),
    ],
)
def test_warning_shares(share: str, reached: str | None, state: str) -> None:
    """At the very end of a month, where nothing more is expected."""
    hours = [Hour(at("2026-11-01T00:00"), 500 * Decimal(share))]
    one = assess(budget(), at("2026-11-30T22:59:59.999"), hours, {})
    assert (one.warn_share, one.state) == (None if reached is None else Decimal(reached), state)


def test_the_last_moment_and_the_first_one_of_a_period() -> None:
    one = budget()
    start = one.period_at(at("2026-11-15T00:00")).start
    hours = [Hour(start - 30 * HOUR, Decimal(3)), Hour(start - HOUR, Decimal(5))]
    first = assess(one, start, hours, {})
    assert first.spent_usd == 0
    assert first.share_gone == 0
    assert first.forecast_usd > 0
    last = assess(one, start - timedelta(milliseconds=1), hours, {})
    assert last.spent_usd == 8
    assert last.share_gone == pytest.approx(1)


def test_traffic_that_began_a_second_ago_is_taken_to_have_run_for_a_minute() -> None:
    moment = at("2026-11-15T12:00:01")
    one = budget(period="daily", time_zone="UTC")
    told = assess(
        one, moment, [Hour(at("2026-11-15T12:00"), Decimal(1))], {}, first_call=at("2026-11-15T12:00")
    )
    # A dollar a minute for twelve hours.
    assert told.forecast_usd == pytest.approx(Decimal(721), abs=1)
    assert told.tests == 0


@pytest.mark.parametrize(
    ("period", "rates", "alert"),
    [
        ("monthly", {"1h": 14.5, "5m": 14.5}, "fast"),
        ("monthly", {"1h": 14.5, "5m": 14.3}, ""),
        ("monthly", {"1h": 14.3, "5m": 90.0}, ""),
        ("monthly", {"6h": 6.1, "30m": 6.1}, "fast"),
        ("monthly", {"24h": 3.1, "2h": 3.1}, "slow"),
        ("weekly", {"24h": 3.1, "2h": 3.1}, "slow"),
        # A day's budget at three times its pace for a whole day is exceeded, which its state says.
        ("daily", {"24h": 3.1, "2h": 3.1}, ""),
        ("daily", {"6h": 6.1, "30m": 6.1}, "fast"),
    ],
)
def test_both_windows_of_a_pair_must_burn(period: Any, rates: dict[str, float], alert: str) -> None:
    one = budget(period=period, time_zone="UTC")
    moment = at("2026-11-15T12:00")
    pace = float(one.amount_usd) / one.period_at(moment).hours
    windows = {
        name: Decimal(rates.get(name, 0.0) * pace * (span / HOUR)) for name, span in BURN_WINDOWS.items()
    }
    assert assess(one, moment, [], windows).burn_alert == alert


@settings(max_examples=60)
@given(
    st.sampled_from(["daily", "weekly", "monthly"]),
    st.sampled_from(["Europe/Berlin", "Asia/Kolkata", "Australia/Lord_Howe", "Pacific/Apia"]),
    st.integers(0, 15 * 365 * 86_400_000).map(
        lambda ms: datetime(2011, 12, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
    ),
    st.dictionaries(st.integers(-1400, 800), st.integers(0, 10**18), max_size=20),
)
def test_spent_is_the_exact_sum_and_no_forecast_is_below_it(
    kind: Any, place: str, moment: datetime, nano_usd: dict[int, int]
) -> None:
    one = budget(period=kind, time_zone=place, amount_usd=Decimal(10) ** 9)
    period = one.period_at(moment)
    known = {n: nano for n, nano in nano_usd.items() if period.start + n * HOUR < moment}
    told = assess(one, moment, [Hour(period.start + n * HOUR, nano * NANO) for n, nano in known.items()], {})
    assert told.spent_usd == sum(nano for n, nano in known.items() if n >= 0) * NANO
    assert told.spent_usd + told.remaining_usd == one.amount_usd
    low_95, low_80 = told.forecast_95_usd[0], told.forecast_80_usd[0]
    assert told.spent_usd <= low_95 <= low_80 <= told.forecast_usd
    assert told.forecast_usd <= told.forecast_80_usd[1] <= told.forecast_95_usd[1]
    assert told.bursts_at is None or period.start <= told.bursts_at <= period.end
    assert (told.bursts_at is not None) or not told.is_over


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("0", "more than 0 USD"),
        ("-1", "more than 0 USD"),
        ("0.0000000001", "at most nine decimals"),
        ("1.0000000001", "at most nine decimals"),
        ("1e13", "at most 1,000,000,000,000 USD"),
        ("1e999999", "at most 1,000,000,000,000 USD"),
        ("1e-999999", "at most nine decimals"),
        ("inf", "at most 1,000,000,000,000 USD"),
        ("nan", "at most 1,000,000,000,000 USD"),
        ("500 EUR", "no amount of dollars"),
        ("1,000", "no amount of dollars"),
        ("", "no amount of dollars"),
    ],
)
def test_what_is_no_amount_is_refused_and_not_rounded(value: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        amount(value)


def test_amounts_to_the_nano_dollar_and_to_a_trillion_are_exact() -> None:
    assert str(amount("0.000000001")) == "1E-9"
    assert amount("999999999999.999999999") == Decimal("999999999999.999999999")
    assert amount("1.500000000000000000") == Decimal("1.5")


@pytest.mark.parametrize("one", ["", "-a", "a b", "a/b", "é", "a" * 101, "a\n"])
def test_a_bad_id_is_refused(one: str) -> None:
    with pytest.raises(ValueError, match="is no id of a budget"):
        budget(budget_id=one)


@pytest.mark.parametrize("share", ["0", "-0.5", "10.1", "nan", "0.00001"])
def test_a_bad_warning_share_is_refused(share: str) -> None:
    with pytest.raises(ValueError, match="a share to warn at"):
        budget(warn_shares=(Decimal(share),))


def test_other_nonsense_is_refused_and_shares_are_put_in_order() -> None:
    with pytest.raises(ValueError, match="is no period: write daily, weekly, monthly"):
        budget(period="yearly")
    with pytest.raises(ValueError, match="is no time zone"):
        budget(time_zone="Mars/Olympus")
    assert shares([Decimal(1), Decimal("0.5"), Decimal(1)]) == (Decimal("0.5"), Decimal(1))


def test_a_scope_says_what_it_is_limited_to() -> None:
    assert str(Scope()) == "everything"
    assert str(Scope(tenant="acme", model="gpt-4o")) == "tenant=acme model=gpt-4o"
