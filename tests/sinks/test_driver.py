"""Why a week cost more: the four drivers are what exact fractions say, and add up to the change."""

from __future__ import annotations

import itertools
from collections import defaultdict
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final, NamedTuple, TypeAlias

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gatewatch.events import Call
from sinks.clickhouse import Sink
from tests.event import call
from tests.stored import keep_only

pytestmark = pytest.mark.engine

WEEK_MS: Final = 7 * 86_400_000
# A Monday, and the last moment of the Sunday before it.
MONDAY: Final = date(2025, 10, 13)
MONDAY_MS: Final = int(datetime(2025, 10, 13, tzinfo=UTC).timestamp() * 1000)
NONE_OF_THEM: Final = Decimal(0)

NO_SLOW_CHECK: Final = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
# A failure is shown as it was found: to make it smaller would take hundreds of fillings of the store.
FOUND: Final = [Phase.generate]


class Used(NamedTuple):
    """A call: what it used, and what it cost in nano-USD; None is a call without a price."""

    model: str
    tenant: str
    tokens: int
    nano: int | None


Week: TypeAlias = list[Used]

used: Final = st.builds(
    Used,
    model=st.sampled_from("abc"),
    tenant=st.sampled_from(["x", "y"]),
    tokens=st.one_of(st.just(0), st.integers(0, 5000), st.just(2_000_000_000)),
    nano=st.one_of(st.none(), st.just(0), st.integers(0, 10**6), st.integers(0, (1 << 48) - 1)),
)


def stored(sink: Sink, *weeks: Week) -> None:
    """Store weeks of calls, the first from a Monday on, the others after it."""
    events: list[Call] = []
    for number, week in enumerate(weeks):
        for place, one in enumerate(week):
            # At both ends of the week: not a millisecond of it belongs to another.
            started_ms = MONDAY_MS + number * WEEK_MS + (place if place % 2 else WEEK_MS - 1 - place)
            events.append(
                call(
                    len(events),
                    at_ms=started_ms + 500,
                    provider="acme",
                    model=one.model,
                    tenant=one.tenant,
                    input_tokens=one.tokens // 2,
                    output_tokens=one.tokens - one.tokens // 2,
                    reported_cost_usd=None if one.nano is None else one.nano / 1e9,
                )
            )
    keep_only(sink, events)


def drivers(sink: Sink, week: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Rows of a week by cut and by the name of the series, which has that of its cut."""
    monday = date.fromordinal(MONDAY.toordinal() + 7 * week).isoformat()
    rows = sink.table("SELECT * FROM gatewatch.cost_drivers WHERE week = {week:Date}", {"week": monday})
    found: dict[str, dict[str, dict[str, Any]]] = {"model": {}, "tenant": {}}
    for row in rows.to_pylist():
        found[row["cut"]][row[row["cut"]]] = row
    return found


def half_up(value: Fraction) -> int:
    return int((value + Fraction(1, 2)).__floor__())


class Sums(NamedTuple):
    calls: int = 0
    tokens: int = 0
    nano: int = 0


def summed(week: Week, cut: str) -> dict[str, Sums]:
    found: dict[str, Sums] = defaultdict(Sums)
    for one in week:
        if one.nano is not None:
            calls, tokens, nano = found[getattr(one, cut)]
            found[getattr(one, cut)] = Sums(calls + 1, tokens + one.tokens, nano + one.nano)
    return found


def expected(before: dict[str, Sums], now: dict[str, Sums], name: str) -> tuple[int, ...]:
    """Nano-USD of volume, mix, tokens and price, from the factors as they are written in the docs."""
    calls_before = sum(sums.calls for sums in before.values())
    calls_now = sum(sums.calls for sums in now.values())
    old, new = before.get(name, Sums()), now.get(name, Sums())
    if not calls_before:
        return new.nano, 0, 0, 0
    if not old.calls:
        return 0, new.nano, 0, 0
    share_before, per_call = Fraction(old.calls, calls_before), Fraction(old.tokens, old.calls)
    steps = [old.nano]
    if old.tokens:
        price = Fraction(old.nano, old.tokens)
        steps.append(half_up(calls_now * share_before * per_call * price))
        steps.append(half_up(new.calls * per_call * price))
        steps.append(half_up(new.tokens * price))
    else:
        each = Fraction(old.nano, old.calls)
        steps.append(half_up(calls_now * share_before * each))
        steps.append(half_up(new.calls * each))
        # No price of a token is known: the present one values them, unless calls cost without tokens.
        steps.append(new.nano if not old.nano and new.tokens else steps[-1])
    steps.append(new.nano)
    volume, mix, tokens, price_driver = (after - first for first, after in itertools.pairwise(steps))
    return volume, mix, tokens, price_driver


NAMES: Final = ("by_volume_usd", "by_mix_usd", "by_tokens_usd", "by_price_usd")


def nano_of(row: dict[str, Any], *names: str) -> tuple[int, ...]:
    return tuple(int(row[name].scaleb(9)) for name in names)


@settings(max_examples=15, phases=FOUND, suppress_health_check=NO_SLOW_CHECK)
@given(st.lists(used, max_size=8), st.lists(used, max_size=8))
def test_drivers_add_up_to_the_change_and_are_what_fractions_say(sink: Sink, before: Week, now: Week) -> None:
    stored(sink, before, now)
    for cut, found in drivers(sink, 1).items():
        old, new = summed(before, cut), summed(now, cut)
        assert found.keys() == {getattr(one, cut) for one in [*before, *now]}
        for name, row in found.items():
            assert nano_of(row, *NAMES) == expected(old, new, name)
            assert sum(row[driver] for driver in NAMES) == row["change_usd"]
        change = sum(one.nano or 0 for one in now) - sum(one.nano or 0 for one in before)
        assert sum(nano_of(row, *NAMES)[i] for row in found.values() for i in range(4)) == change
        without = sum(one.nano is None for one in now), sum(one.nano is None for one in before)
        assert without == (
            sum(row["calls_without_cost"] for row in found.values()),
            sum(row["calls_without_cost_before"] for row in found.values()),
        )


priced: Final = st.builds(
    Used,
    model=st.sampled_from("abc"),
    tenant=st.sampled_from(["x", "y"]),
    tokens=st.integers(1, 10**6),
    nano=st.integers(1, 10**9),
)
weeks: Final = st.lists(priced, min_size=1, max_size=6)


def only(sink: Sink, driver: str, change_nano: int) -> None:
    """One driver explains all of the change, for every series."""
    assert change_nano != 0
    for found in drivers(sink, 1).values():
        assert sum(nano_of(row, "change_usd")[0] for row in found.values()) == change_nano
        for row in found.values():
            assert {name: row[name] for name in NAMES} == dict.fromkeys(NAMES, NONE_OF_THEM) | {
                driver: row["change_usd"]
            }


def total(week: Week) -> int:
    return sum(one.nano or 0 for one in week)


@settings(max_examples=4, phases=FOUND, suppress_health_check=NO_SLOW_CHECK)
@given(weeks, st.integers(2, 5))
def test_more_of_the_same_calls_is_volume_only(sink: Sink, before: Week, times: int) -> None:
    stored(sink, before, before * times)
    only(sink, "by_volume_usd", total(before) * (times - 1))


@settings(max_examples=4, phases=FOUND, suppress_health_check=NO_SLOW_CHECK)
@given(weeks, st.integers(2, 5))
def test_dearer_tokens_are_price_only(sink: Sink, before: Week, times: int) -> None:
    now = [one._replace(nano=one.nano * times) for one in before if one.nano is not None]
    stored(sink, before, now)
    only(sink, "by_price_usd", total(before) * (times - 1))


@settings(max_examples=4, phases=FOUND, suppress_health_check=NO_SLOW_CHECK)
@given(weeks, st.integers(2, 5))
def test_longer_calls_at_the_same_price_are_tokens_only(sink: Sink, before: Week, times: int) -> None:
    now = [
        one._replace(nano=one.nano * times, tokens=one.tokens * times)
        for one in before
        if one.nano is not None
    ]
    stored(sink, before, now)
    only(sink, "by_tokens_usd", total(before) * (times - 1))


@settings(max_examples=4, phases=FOUND, suppress_health_check=NO_SLOW_CHECK)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 12))
def test_other_shares_of_the_same_number_of_calls_are_mix_only(
    sink: Sink, cheap: int, dear: int, cheap_now: int
) -> None:
    cheap_now = min(cheap_now, cheap + dear)
    if cheap_now == cheap:
        cheap_now -= 1
    small, large = Used("a", "x", 100, 1_000_003), Used("b", "y", 300, 70_000_001)
    stored(sink, [small] * cheap + [large] * dear, [small] * cheap_now + [large] * (cheap + dear - cheap_now))
    only(sink, "by_mix_usd", (cheap - cheap_now) * (70_000_001 - 1_000_003))


def test_new_and_vanished_models_are_mix_and_the_first_and_last_week_volume(sink: Sink) -> None:
    stored(sink, [Used("old", "x", 100, 40)] * 2, [Used("new", "x", 10, 90)] * 2)
    first, second, third = (
        {name: nano_of(row, "change_usd", *NAMES) for name, row in drivers(sink, week)["model"].items()}
        for week in (0, 1, 2)
    )
    assert first == {"old": (80, 80, 0, 0, 0)}
    assert second == {"old": (-80, 0, -80, 0, 0), "new": (180, 0, 180, 0, 0)}
    assert third == {"new": (-180, -180, 0, 0, 0)}


def test_a_model_that_lost_its_price_is_unknown_and_not_free(sink: Sink) -> None:
    stored(sink, [Used("a", "x", 100, 40)], [Used("a", "x", 100, None)])
    row = drivers(sink, 1)["model"]["a"]
    assert (row["cost_usd"], row["calls_without_cost"], row["calls_without_cost_before"]) == (None, 1, 0)
    assert nano_of(row, "cost_before_usd", "change_usd") == (40, -40)


def test_a_week_that_has_not_begun_is_not_shown(sink: Sink) -> None:
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    keep_only(sink, [call(1, at_ms=now_ms, input_tokens=1, output_tokens=1)])
    ((last, monday),) = sink.rows("SELECT max(week), toMonday(now('UTC')) FROM gatewatch.cost_drivers")
    assert last == monday


def test_big_weeks_do_not_overflow(sink: Sink) -> None:
    """Sums times counts pass 128 bits on the way; the answer is exact all the same."""
    dear = Used("a", "x", 2_000_000_000, (1 << 48) - 1)
    stored(sink, [dear] * 400, [dear] * 399 + [dear._replace(nano=1)])
    before, now = summed([dear] * 400, "model"), summed([dear] * 399 + [dear._replace(nano=1)], "model")
    assert nano_of(drivers(sink, 1)["model"]["a"], *NAMES) == expected(before, now, "a")
