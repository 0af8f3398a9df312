"""Repricing on the real engine: repeated, interrupted, beside live workers; its sums against plain Python."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial
from typing import Any, Final, cast

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatewatch.contract import Contract
from gatewatch.events import Call, Event, Latency, Request, Response, Token
from gatewatch.price_book import PriceBook, default_book
from signals.chunk import series_name
from signals.lane import Lane, Rules
from signals.signal import CUTS, DIMENSIONS, SHARDS
from signals.spend import SIGNALS
from sinks.clickhouse import Sink, SinkError
from sinks.closing import close_windows, save_checkpoint
from sinks.repricing import Outcome, Scope, known_names, reprice_calls
from sinks.schema import STORE
from tests.event import T0_MS, call, record
from tests.priced_call import expected
from tests.stored import flush

HOUR_MS: Final = 3_600_000
ALL: Final = Scope(from_ms=T0_MS - 24 * HOUR_MS, until_ms=T0_MS + 24 * HOUR_MS)
SHARD_NUMBERS: Final = list(range(SHARDS))
MAPPED: Final = Contract(contract_id="map", provider="openai", model="inhouse", same_as_model="gpt-4o-mini")
RAISED: Final = PriceBook([MAPPED, Contract(contract_id="raised", provider="openai", adjust_bp=2000)])
CHEAP: Final = PriceBook([MAPPED, Contract(contract_id="cheap", tenant="acme", adjust_bp=-5000)])
FREE: Final = PriceBook([Contract(contract_id="free", provider="openai", model="gpt-4o*", free=True)])
USAGE: Final[dict[str, Any]] = {"input_tokens": 1000, "cache_read_tokens": 100, "output_tokens": 50}


def store(sink: Sink, *events: Event, source: int = 1, appended_ms: int = T0_MS + 2 * HOUR_MS) -> None:
    lane = Lane(source, 0, Rules(chunk_records=4, max_age_ms=10**12))
    for offset in range(0, len(events), 3):
        lane.feed(offset // 3, appended_ms, record(*events[offset : offset + 3]))
    flush(sink, lane)


def some_calls() -> list[Event]:
    """Calls of two hours, three minutes apart, priced and unpriced, of two tenants."""
    return [
        call(
            number * 180_000 + (number == 9) * HOUR_MS,
            call_id=f"c{number}",
            model="inhouse" if number % 3 == 0 else "gpt-4o",
            tenant="acme" if number % 2 else "",
            web_searches=number % 4,
            **USAGE,
        )
        for number in range(10)
    ]


def shown(sink: Sink) -> dict[str, list[tuple[Any, ...]]]:
    """What people see, but for when it was repriced."""
    return {
        "calls": _rows(sink, "SELECT * EXCEPT repriced_at FROM gatewatch.calls ORDER BY started_at, call_id"),
        "measures": _rows(
            sink,
            f"SELECT signal, label, window_start, cut, {', '.join(DIMENSIONS)}, n, sum, is_closed "
            "FROM gatewatch.measures ORDER BY ALL",
        ),
    }


def _rows(sink: Sink, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(str(value) for value in row) for row in sink.rows(sql)]


def measured(sink: Sink) -> dict[tuple[str, str, str, int], tuple[int, int]]:
    """The cost family as the view has it, by signal, label, series and window."""
    by_cut = {cut.name: cut.dimensions for cut in CUTS}
    found = {}
    for signal, label, window, cut, n, total, *values in sink.rows(
        "SELECT signal, label, toUnixTimestamp(window_start), cut, n, sum, "
        f"{', '.join(DIMENSIONS)} FROM gatewatch.measures WHERE startsWith(signal, 'cost_')"
    ):
        of = dict(zip(DIMENSIONS, values, strict=True))
        series = series_name(cut, [of[name] for name in by_cut[cut]])
        found[signal, label, series, int(window)] = (int(n), int(total))
    return found


def recomputed(sink: Sink) -> dict[tuple[str, str, str, int], tuple[int, int]]:
    """The same of the calls that the view shows, in plain Python. Each call is one event."""
    cuts = {signal.name: signal.cuts for signal in SIGNALS}
    sums: defaultdict[tuple[str, str, str, int], list[int]] = defaultdict(lambda: [0, 0])
    for row in sink.table(
        "SELECT *, toUnixTimestamp64Milli(ended_at) AS ms FROM gatewatch.calls"
    ).to_pylist():
        if not row["cost_status"]:
            continue
        usd = row["cost_usd"]
        tokens = (row["input_tokens"] or 0) + (row["output_tokens"] or 0)
        source = row["usage_source"] if row["usage_source"] in ("provider", "estimated") else "missing"
        facts = [("cost_status_count", row["cost_status"], 0), ("cost_usage_count", source, 0)]
        if usd is not None:
            facts.append(("cost_spend_sum", "", _nano(usd)))
            for part in ("input", "cache_read", "cache_write", "output", "reasoning", "other"):
                if row[f"cost_{part}_usd"]:
                    facts.append(("cost_parts_sum", part, _nano(row[f"cost_{part}_usd"])))
            if row["cost_status"] != "free" and tokens and not usd:
                facts.append(("cost_zero_count", "", 0))
            if row["cost_status"] != "provider_reported" and row["reported_cost_usd"] is not None:
                facts.append(("cost_reported_sum", "", _nano(row["reported_cost_usd"])))
                facts.append(("cost_reported_ours_sum", "", _nano(usd)))
        elif tokens:
            facts.append(("cost_unpriced_tokens_sum", "", tokens))
        if row["cost_reason"].startswith("the counts contradict"):
            facts.append(("cost_contradictory_count", "", 0))
        for signal, label, value in facts:
            for cut in CUTS:
                if cut.name in cuts[signal]:
                    series = series_name(cut.name, [row[name] for name in cut.dimensions])
                    cell = sums[signal, label, series, row["ms"] // 60_000 * 60]
                    cell[0] += 1
                    cell[1] += value
    return {key: (n, total) for key, (n, total) in sums.items()}


def _nano(usd: Decimal) -> int:
    return int(usd * 10**9)


def agree(sink: Sink) -> None:
    """Measures are what the calls say, in every series and minute."""
    assert measured(sink) == recomputed(sink)


def total(sink: Sink, column: str = "cost_usd") -> Any:
    return sink.rows(f"SELECT sum({column}) FROM gatewatch.calls")[0][0]


def test_new_prices_are_in_calls_and_measures_and_what_was_reported_is_kept(sink: Sink) -> None:
    store(sink, *some_calls())
    agree(sink)
    reported = total(sink)
    outcome = reprice_calls(sink, ALL, 2, RAISED)
    agree(sink)
    assert (outcome.calls, outcome.changed, outcome.newer) == (10, 10, 0)
    assert (outcome.before_nano_usd, outcome.after_nano_usd) == (_nano(reported), _nano(total(sink)))
    assert total(sink, "cost_as_reported_usd") == reported
    # 900 tokens at $2.50, 100 at $1.25 and 50 at $10 a million, and no search: a fifth on top.
    (row,) = sink.table("SELECT * FROM gatewatch.calls WHERE call_id = 'c4'").to_pylist()
    assert (row["cost_usd"], row["cost_as_reported_usd"]) == (Decimal("0.00345"), Decimal("0.002875"))
    assert row["cost_input_usd"] + row["cost_cache_read_usd"] + row["cost_output_usd"] == row["cost_usd"]
    assert (row["cost_status"], row["price_id"], row["price_version"]) == (
        "priced",
        "openai/gpt-4o*raised",
        2,
    )
    assert row["repriced_at"] is not None
    # A call that had no price has one now, and had no cost.
    (row,) = sink.table("SELECT * FROM gatewatch.calls WHERE call_id = 'c3'").to_pylist()
    assert (row["cost_status"], row["cost_as_reported_usd"]) == ("priced", None)
    assert dict(row["cost_details_usd"]) == {"tools": row["cost_other_usd"]} != {}
    unpriced = [(change.unpriced_before, change.unpriced_after) for change in outcome.changes]
    assert sum(before for before, _ in unpriced) == 4
    assert sum(after for _, after in unpriced) == 0


def test_a_second_run_changes_nothing(sink: Sink) -> None:
    store(sink, *some_calls())
    first = reprice_calls(sink, ALL, 2, RAISED)
    after = shown(sink)
    second = reprice_calls(sink, ALL, 2, RAISED)
    assert (first.changed, second.changed) == (10, 0)
    assert second.before_nano_usd == second.after_nano_usd == first.after_nano_usd
    assert shown(sink) == after


def test_a_dry_run_says_the_same_and_writes_nothing(sink: Sink) -> None:
    store(sink, *some_calls())
    before = shown(sink)
    dry = reprice_calls(sink, ALL, 2, RAISED, dry_run=True)
    assert shown(sink) == before
    assert sink.rows("SELECT count() FROM gatewatch.reprices") == [(0,)]
    assert reprice_calls(sink, ALL, 2, RAISED) == dry


def test_merging_parts_changes_nothing(sink: Sink) -> None:
    store(sink, *some_calls())
    reprice_calls(sink, ALL, 2, RAISED)
    reprice_calls(sink, ALL, 3, CHEAP)
    before = shown(sink)
    for table in ("calls", "chunks", "measures"):
        sink.command(f"OPTIMIZE TABLE {STORE}.{table} FINAL")
    assert shown(sink) == before
    agree(sink)


def test_what_was_counted_under_another_name_is_taken_back_below_zero(sink: Sink) -> None:
    """Series beyond a chunk's limit: no row may show 2**64 less one, and sums must be right."""
    lane = Lane(1, 0, Rules(series_limit=2, max_age_ms=10**12))
    events = [call(n, tenant=f"t{n}", model="inhouse", **USAGE) for n in range(5)]
    lane.feed(0, T0_MS + HOUR_MS, record(*events))
    flush(sink, lane)
    reprice_calls(sink, ALL, 2, RAISED)
    counts = "SELECT tenant, n FROM gatewatch.measures WHERE signal = 'cost_status_count' AND cut = 'tenant' "
    shown_as = {str(tenant): int(n) for tenant, n in sink.rows(counts + "AND label = 'unpriced'")}
    assert shown_as == {"__other__": 3, "t2": -1, "t3": -1, "t4": -1}
    assert sink.rows(f"SELECT sum(n) FROM ({counts} AND label = 'priced')") == [(5,)]


def test_prices_that_come_back_cost_what_was_reported(sink: Sink) -> None:
    store(sink, *some_calls())
    reported, measures = total(sink), measured(sink)
    reprice_calls(sink, ALL, 2, RAISED)
    outcome = reprice_calls(sink, ALL, 3, default_book())
    assert outcome.changed == 10
    assert total(sink) == total(sink, "cost_as_reported_usd") == reported
    assert measured(sink) == measures


def test_older_prices_do_not_replace_newer_ones(sink: Sink) -> None:
    store(sink, *some_calls())
    reprice_calls(sink, ALL, 3, RAISED)
    before = shown(sink)
    outcome = reprice_calls(sink, ALL, 2, FREE)
    assert (outcome.changed, outcome.newer) == (0, 10 - sum(number % 3 == 0 for number in range(10)) + 4)
    assert shown(sink) == before


def test_runs_over_parts_of_the_calls_add_up(sink: Sink) -> None:
    store(sink, *some_calls())
    for scope in (
        Scope(from_ms=ALL.from_ms, until_ms=ALL.until_ms, tenants=("acme",)),
        Scope(from_ms=ALL.from_ms, until_ms=ALL.until_ms, models=("inhouse",)),
        Scope(from_ms=ALL.from_ms, until_ms=T0_MS + 400_000, providers=("openai",)),
        Scope(from_ms=T0_MS + 400_000, until_ms=ALL.until_ms),
    ):
        reprice_calls(sink, scope, 2, RAISED)
        agree(sink)
    one_by_one = shown(sink)
    assert reprice_calls(sink, ALL, 2, RAISED).changed == 0
    assert shown(sink) == one_by_one


def test_only_the_calls_that_are_asked_for_change(sink: Sink) -> None:
    store(sink, *some_calls())
    scope = Scope(from_ms=ALL.from_ms, until_ms=ALL.until_ms, tenants=("acme",), models=("gpt-4o",))
    outcome = reprice_calls(sink, scope, 2, RAISED)
    assert {(change.tenant, change.model) for change in outcome.changes} == {("acme", "gpt-4o")}
    changed = sink.rows("SELECT DISTINCT tenant, model FROM gatewatch.calls WHERE repriced_at IS NOT NULL")
    assert changed == [("acme", "gpt-4o")]
    assert known_names(sink, ALL, "model") == ["gpt-4o", "inhouse"]


def test_windows_that_are_closed_are_corrected_too(sink: Sink) -> None:
    store(sink, *some_calls())
    until = T0_MS // 1000 + 600
    close_windows(sink, T0_MS // 1000 - 60, until, SHARD_NUMBERS)
    save_checkpoint(sink, until, SHARD_NUMBERS)
    reprice_calls(sink, ALL, 2, RAISED)
    agree(sink)
    # A closer read the rest before all of this, and says only now that it has closed it.
    save_checkpoint(sink, until + 2 * 3600, SHARD_NUMBERS)
    found = measured(sink)
    assert found == {key: value for key, value in recomputed(sink).items() if key[3] < until + 2 * 3600}
    # What costs nothing any more, or is unpriced no more, leaves no series behind.
    reprice_calls(sink, ALL, 3, FREE)
    agree(sink)
    reprice_calls(sink, ALL, 4, default_book())
    agree(sink)


class Breaking:
    """A sink that breaks at its n-th statement that writes, done or not; or calls somebody in between."""

    def __init__(
        self, sink: Sink, at: int, *, done: bool = False, then: Callable[[], None] | None = None
    ) -> None:
        self._sink, self._at, self._done, self._then = sink, at, done, then
        self.writes = 0

    def rows(self, *arguments: Any) -> Sequence[Sequence[Any]]:
        return self._sink.rows(*arguments)

    def table(self, *arguments: Any) -> pa.Table:
        return self._sink.table(*arguments)

    def insert(self, *arguments: Any) -> None:
        self._write(lambda: self._sink.insert(*arguments))

    def command(self, *arguments: Any) -> None:
        self._write(lambda: self._sink.command(*arguments))

    def _write(self, write: Callable[[], None]) -> None:
        self.writes += 1
        here = self.writes == self._at
        if here and self._then is not None:
            self._then()
        elif here and not self._done:
            raise SinkError("broken before the statement")
        write()
        if here and self._done:
            raise SinkError("broken after the statement")


def reset(sink: Sink) -> None:
    for table in ("calls", "chunks", "measures", "checkpoints", "reprices"):
        sink.command(f"TRUNCATE TABLE {STORE}.{table}")


def few_calls() -> list[Event]:
    """One that has a price and one that has none, within an hour."""
    return some_calls()[6:8]


def writes_of_a_run(sink: Sink) -> int:
    counting = Breaking(sink, 0)
    _reprice(counting)
    return counting.writes


def _reprice(sink: Any) -> Outcome:
    return reprice_calls(sink, ALL, 2, RAISED)


def test_a_run_that_broke_anywhere_is_completed_by_the_next(sink: Sink) -> None:
    store(sink, *few_calls())
    writes = writes_of_a_run(sink)
    whole = shown(sink)
    # The run's begin, then calls, corrections and windows, then its end.
    assert writes == 1 + 3 + 1
    for at, done in [(1, False), (2, False), (2, True), (3, True), (4, False), (5, False)]:
        reset(sink)
        store(sink, *few_calls())
        with pytest.raises(SinkError):
            _reprice(Breaking(sink, at, done=done))
        ((unfinished,),) = sink.rows("SELECT countIf(finished_at IS NULL) FROM gatewatch.reprices")
        assert unfinished == (at > 1)
        _reprice(sink)
        assert shown(sink) == whole, (at, done)


def test_calls_that_come_between_any_two_steps_are_not_lost(sink: Sink) -> None:
    for at in (2, 3, 4, 5):
        reset(sink)
        store(sink, *few_calls())
        live = [call(6 * 180_000 + i * 60_000, call_id=f"live{i}", model="gpt-4o", **USAGE) for i in range(3)]
        _reprice(Breaking(sink, at, then=partial(store, sink, *live, source=2)))
        assert total(sink, "1") == 5
        agree(sink)
        # Those that the run had not read yet are repriced by the next.
        _reprice(sink)
        agree(sink)
        assert sink.rows("SELECT DISTINCT price_version FROM gatewatch.calls") == [(2,)]


@pytest.mark.parametrize("at", [2, 3, 4])
def test_a_run_in_the_middle_of_another_loses_nothing(sink: Sink, at: int) -> None:
    """Before calls, correction or windows of the first are stored, the second does all of its own."""
    store(sink, *some_calls()[:8])
    acme = Scope(from_ms=ALL.from_ms, until_ms=ALL.until_ms, tenants=("acme",))

    def second() -> None:
        reprice_calls(sink, acme, 3, CHEAP)

    _reprice(Breaking(sink, at, then=second))
    agree(sink)
    versions = sink.rows("SELECT DISTINCT tenant, price_version FROM gatewatch.calls ORDER BY 1")
    assert versions == [("", 2), ("acme", 3)]


def test_a_late_part_with_better_usage_counts_at_once_and_is_repriced_by_the_next_run(sink: Sink) -> None:
    part: dict[str, Any] = {
        "gateway": "eu-1",
        "call_id": "c",
        "started_at_ms": T0_MS,
        "provider": "openai",
        "model": "gpt-4o",
    }
    estimate = Response(at_ms=T0_MS, **part, usage_source="estimated", input_tokens=1000, output_tokens=0)
    store(sink, Request(at_ms=T0_MS, **part), estimate)
    reprice_calls(sink, ALL, 2, RAISED)
    assert total(sink) == Decimal("0.003")
    said = Response(at_ms=T0_MS, **part, usage_source="provider", input_tokens=2000, output_tokens=0)
    store(sink, said, source=2)
    assert (total(sink), total(sink, "cost_as_reported_usd")) == (Decimal("0.005"), Decimal("0.005"))
    reprice_calls(sink, ALL, 2, RAISED)
    assert total(sink) == Decimal("0.006")
    # The two lanes have measured an end each. What is corrected is what the call costs more than its end did.
    spend = sink.rows(
        "SELECT sum(sum) FROM gatewatch.measures WHERE signal = 'cost_spend_sum' AND cut = 'gateway'"
    )
    assert spend == [(2_500_000 + 5_000_000 + 1_000_000,)]


def test_a_correction_stands_in_the_minute_of_the_end_that_was_priced(sink: Sink) -> None:
    """Not in that of a part which came later: a minute would count less than nothing."""
    part: dict[str, Any] = {
        "gateway": "eu-1",
        "call_id": "c",
        "started_at_ms": T0_MS,
        "provider": "openai",
        "model": "inhouse",
    }
    end = Response(at_ms=T0_MS + 1000, **part, usage_source="provider", input_tokens=1000, output_tokens=0)
    store(sink, Token(at_ms=T0_MS, **part), end, Latency(at_ms=T0_MS + 300_000, **part, total_ms=1.0))
    reprice_calls(sink, ALL, 2, RAISED)
    found = measured(sink)
    assert {window for *_, window in found} == {T0_MS // 1000}
    assert {n for n, _ in found.values()} == {1}
    assert {label for signal, label, *_ in found if signal == "cost_status_count"} == {"priced"}


def test_differences_below_zero_come_out_right_in_the_view(sink: Sink) -> None:
    """n is unsigned: a correction that takes away is stored modulo 2**64."""
    store(sink, *some_calls())
    reprice_calls(sink, ALL, 2, FREE)
    below = sink.rows(
        f"SELECT countIf(k > bitShiftLeft(toUInt64(1), 63)), countIf(s < 0) FROM {STORE}.chunks FINAL "
        "ARRAY JOIN n AS k, sum AS s WHERE source >= bitShiftLeft(toUInt64(1), 63)"
    )
    assert all(count > 0 for count in below[0])
    agree(sink)


def test_runs_are_listed_and_an_unfinished_one_is_seen(sink: Sink) -> None:
    store(sink, *few_calls())
    scope = Scope(from_ms=ALL.from_ms, until_ms=ALL.until_ms, models=("gpt-4o", "it's"), tenants=("acme",))
    with pytest.raises(SinkError):
        reprice_calls(cast(Sink, Breaking(sink, 2)), scope, 2, RAISED)
    reprice_calls(sink, ALL, 3, RAISED)
    broken, whole = sink.table(
        "SELECT * FROM gatewatch.reprices ORDER BY started_at, price_version"
    ).to_pylist()
    assert (broken["finished_at"], broken["calls"], broken["after_usd"]) == (None, None, None)
    assert (broken["models"], broken["tenants"]) == (["gpt-4o", "it's"], ["acme"])
    assert (whole["calls"], whole["changed_calls"], whole["price_version"]) == (2, 2, 3)
    assert whole["after_usd"] == total(sink)
    assert int(whole["range_from"].timestamp() * 1000) == ALL.from_ms


def test_no_calls_are_no_error(sink: Sink) -> None:
    assert reprice_calls(sink, ALL, 2, RAISED).calls == 0


def test_busy_seconds_are_read_in_slices(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sinks.repricing._SLICE_CALLS", 3)
    store(sink, *[call(number * 400, model="gpt-4o", **USAGE) for number in range(20)])
    seen: list[int] = []
    outcome = reprice_calls(sink, ALL, 2, RAISED, on_progress=seen.append)
    assert sum(seen) == outcome.calls == outcome.changed == 20
    assert len(seen) > 4
    assert max(seen) <= 3
    agree(sink)


MODELS: Final = ("gpt-4o", "gpt-4o-mini", "inhouse", "nobody-knows")
NUMBERS: Final = st.integers(0, 11)
STEPS: Final = st.one_of(
    st.tuples(st.just("insert"), st.lists(NUMBERS, min_size=1, max_size=6)),
    st.tuples(st.just("reprice"), st.sampled_from([default_book(), RAISED, CHEAP, FREE])),
    st.tuples(st.just("reprice acme"), st.sampled_from([RAISED, CHEAP])),
    st.tuples(st.just("merge"), st.none()),
    st.tuples(st.just("close"), st.integers(0, 12)),
)


def numbered(number: int) -> Call:
    """Always the same call for a number."""
    return call(
        number * 47_000,
        call_id=f"c{number}",
        model=MODELS[number % 4],
        tenant="acme" if number % 3 == 0 else "other",
        reported_cost_usd=0.25 if number == 3 else None,
        input_tokens=None if number == 5 else 1001 * number,
        cache_read_tokens=None if number % 2 else 333 * number,
        output_tokens=7 * number + 1,
        usage_source="estimated" if number == 7 else None,
    )


@given(st.lists(STEPS, min_size=3, max_size=7))
@settings(max_examples=7, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_history_gives_what_plain_python_says(sink: Sink, steps: list[tuple[str, Any]]) -> None:
    reset(sink)
    costs: dict[int, tuple[str, int | None]] = {}
    version, sources = 1, 0
    inserted: Counter[int] = Counter()
    closed = 0
    for step, what in steps:
        if step == "insert":
            numbers = [number for number in dict.fromkeys(what) if not inserted[number]]
            if numbers:
                sources += 1
                inserted.update(numbers)
                store(sink, *[numbered(number) for number in numbers], source=sources)
                costs |= {number: _cost(numbered(number), default_book()) for number in numbers}
        elif step.startswith("reprice"):
            version += 1
            tenants = ("acme",) if step.endswith("acme") else ()
            scope = Scope(from_ms=ALL.from_ms, until_ms=ALL.until_ms, tenants=tenants)
            reprice_calls(sink, scope, version, what)
            for number in costs:
                if not tenants or numbered(number).tenant in tenants:
                    costs[number] = _cost(numbered(number), what)
        elif step == "merge":
            for table in ("calls", "chunks", "measures"):
                sink.command(f"OPTIMIZE TABLE {STORE}.{table} FINAL")
        else:
            closed = max(closed, T0_MS // 1000 + 60 * what)
            # What came for windows that were closed before is named by its lane; here, all are merged again.
            close_windows(sink, T0_MS // 1000 - 60, closed, SHARD_NUMBERS)
            save_checkpoint(sink, closed, SHARD_NUMBERS)
    if closed:
        close_windows(sink, T0_MS // 1000 - 60, closed, SHARD_NUMBERS)
    found = {
        int(call_id[1:]): (status, None if usd is None else _nano(usd))
        for call_id, status, usd in sink.rows("SELECT call_id, cost_status, cost_usd FROM gatewatch.calls")
    }
    assert found == costs
    agree(sink)


def _cost(event: Call, book: PriceBook) -> tuple[str, int | None]:
    cost = expected(event, book)
    if cost is None or cost.cost_status == "unpriced":
        reported = event.reported_cost_usd
        return ("unpriced", None) if reported is None else ("provider_reported", round(reported * 10**9))
    return cost.cost_status, sum(cost.parts_nano_usd.values())
