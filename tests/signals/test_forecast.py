"""Forecasts: little history, gaps, shifts, seasons; never less than nothing, and intervals that nest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signals.forecast import HISTORY_H, Floats, Forecast, forecast


def told(spend: Floats, ahead: int, begin: int = 0) -> Forecast:
    """A forecast of whole hours that follow a history which begins at an hour of the week."""
    hours = begin + np.arange(len(spend) + ahead)
    return forecast(
        spend, np.ones(len(spend)), hours[: len(spend)] % 168, hours[len(spend) :] % 168, np.ones(ahead)
    )


def office(weeks: int, noise: float = 0.0, seed: int = 0) -> Floats:
    """10 an hour from 8 to 18 on weekdays, 1 at other times."""
    hour = np.arange(weeks * 168)
    busy = (hour % 24 >= 8) & (hour % 24 < 18) & (hour // 24 % 7 < 5)
    level = np.where(busy, 10.0, 1.0)
    return level * np.exp(np.random.default_rng(seed).normal(0, noise, len(hour)))


def test_nothing_that_was_spent_forecasts_nothing() -> None:
    for hours in (0, 1, 30, 500):
        result = told(np.zeros(hours), 100)
        assert (result.total, result.high_95, result.tests) == (0, 0, 0)


def test_no_time_that_is_left_forecasts_nothing() -> None:
    result = told(office(3), 0)
    assert (result.path, result.total, result.high_95) == ((), 0, 0)


def test_the_first_day_is_carried_on_flat_and_says_that_the_interval_is_an_assumption() -> None:
    result = told(np.array([3.0, 0.0, 3.0]), 100)
    assert result.season == "flat"
    # Each hour weighs nearly the same: the shortest half-life is not chosen without a test.
    assert result.total == pytest.approx(200, rel=0.01)
    assert (result.low_80, result.high_80) == (result.total / 2, result.total * 2)
    assert (result.low_95, result.high_95) == (result.total / 4, result.total * 4)
    assert result.tests == 0


def test_a_part_of_an_hour_counts_as_that_part() -> None:
    """Three dollars in the first quarter of an hour are twelve an hour."""
    result = forecast(
        np.array([3.0]), np.array([0.25]), np.array([5]), np.array([5, 6]), np.array([0.75, 1.0])
    )
    assert result.total == pytest.approx(21)
    assert result.path == pytest.approx((9, 12))


def test_after_a_day_hours_of_the_day_are_told_apart() -> None:
    day = np.where(np.arange(24) < 12, 5.0, 0.0)
    result = told(np.tile(day, 3), 24)
    assert result.season == "hour of day"
    # Three days say three quarters, the flat profile that was there before them one.
    assert sum(result.path[:12]) == pytest.approx(60, rel=0.15)
    assert sum(result.path[12:]) < 10


def test_after_a_week_weekends_are_told_apart() -> None:
    result = told(office(1), 168)
    assert result.season == "hour of week"
    assert sum(result.path[120:]) == pytest.approx(48, rel=0.25)
    after_five = told(office(5), 168)
    assert sum(after_five.path[120:]) == pytest.approx(48, rel=0.05)
    assert after_five.total == pytest.approx(float(office(1).sum()), rel=0.02)


def test_a_shift_of_the_level_is_followed_within_days() -> None:
    spend = office(8)
    spend[-3 * 168 :] *= 3
    assert told(spend, 168).total == pytest.approx(3 * office(1).sum(), rel=0.08)


def test_an_outage_is_not_taken_for_the_future() -> None:
    spend = office(8, noise=0.1)
    whole = told(spend, 168).total
    spend[5 * 168 + 10 : 5 * 168 + 22] = 0
    assert told(spend, 168).total == pytest.approx(whole, rel=0.03)


def test_a_scope_that_fell_silent_is_forecast_to_stay_quieter_than_it_was() -> None:
    spend = office(8)
    spend[-14 * 24 :] = 0
    assert told(spend, 168).total < 0.05 * office(1).sum()


def test_noise_makes_the_interval_and_more_noise_a_wider_one() -> None:
    calm, wild = (told(office(8, noise), 72) for noise in (0.05, 0.8))
    assert calm.tests == wild.tests >= 20
    assert 0 < calm.high_80 - calm.low_80 < wild.high_80 - wild.low_80


def test_a_horizon_that_cannot_be_tested_widens_with_its_square_root() -> None:
    spend = office(3, 0.3)
    tested, longer = told(spend, 168), told(spend, 4 * 168)
    assert tested.tests == longer.tests > 0
    shares = [(result.high_80 - result.total) / result.total for result in (tested, longer)]
    assert shares[1] == pytest.approx(2 * shares[0], rel=0.02)


def test_intervals_hold_as_often_as_they_say_on_a_series_that_keeps_its_ways() -> None:
    """Two hundred series: of the totals, 80 (95) of 100 lie within, give or take what chance allows."""
    within = np.zeros(2)
    runs = 200
    for seed in range(runs):
        spend = office(6, 0.5, seed)
        result = told(spend[: 5 * 168], 36)
        came = spend[5 * 168 : 5 * 168 + 36].sum()
        within += [result.low_80 <= came <= result.high_80, result.low_95 <= came <= result.high_95]
    # Three standard deviations of a share of 200, and what a dozen tests can know, which errs to be wide.
    assert 0.72 <= within[0] / runs <= 0.95
    assert within[1] / runs >= 0.90


amounts = st.lists(st.sampled_from([0.0, 0.0, 1e-9, 0.5, 3.0, 250_000.0]), max_size=400)


@settings(max_examples=150)
@given(amounts, st.integers(0, 200), st.integers(0, 167), st.floats(0.001, 1), st.floats(0.001, 1))
def test_whatever_came_a_forecast_is_finite_not_negative_and_its_intervals_nest(
    past: list[float], ahead: int, begin: int, first_h: float, last_h: float
) -> None:
    n = len(past)
    hours = begin + np.arange(n + ahead)
    exposure = np.ones(n)
    exposure[:1], exposure[-1:] = first_h, last_h
    result = forecast(np.array(past), exposure, hours[:n] % 168, hours[n:] % 168, np.ones(ahead))
    assert len(result.path) == ahead
    assert all(amount >= 0 for amount in result.path)
    assert sum(result.path) == pytest.approx(result.total)
    assert 0 <= result.low_95 <= result.low_80 <= result.total
    assert result.total <= result.high_80 <= result.high_95 < float("inf")


def test_what_is_known_is_not_changed_and_the_same_gives_the_same() -> None:
    spend = office(8, 0.2)
    before = spend.copy()
    assert told(spend, 300) == told(spend, 300)
    assert (spend == before).all()
    assert len(spend) == HISTORY_H
