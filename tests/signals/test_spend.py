"""The cost family of measures: sums of what single calls cost, however the calls are cut into batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from gatewatch.contract import Contract
from gatewatch.events import Call, Response, Token
from gatewatch.price_book import default_book
from gatewatch.usage import Usage
from signals.lane import Lane, Rules
from signals.signal import CUTS
from signals.spend import PARTS, SIGNALS
from tests.event import T0_MS, record
from tests.priced_call import calls, expected, ledger

NAMES = {signal.name for signal in SIGNALS}
OLD = Rules(max_age_ms=400 * 86_400_000)


def measured(
    *events: Any, every: int = 1000, cut: str = "gateway", contracts: Sequence[Contract] = ()
) -> Counter[tuple[str, str, str]]:
    """Sums of ``n`` and ``sum`` over all series of a cut, through a lane that is flushed now and then."""
    lane = Lane(1, 0, OLD, prices=ledger(contracts))
    newest: dict[str, Any] = {}
    for offset, event in enumerate(events):
        lane.feed(offset, T0_MS + 86_400_000, record(event))
        if (offset + 1) % every == 0 or offset + 1 == len(events):
            rows = lane.flush()
            assert rows is not None
            newest = rows.chunks[-1].families["cost"]  # a version says everything that earlier ones said
    found: Counter[tuple[str, str, str]] = Counter()
    arrays = [newest[name].to_pylist() for name in ("signal", "label", "series", "n", "sum")]
    for signal, label, series, n, total in zip(*arrays, strict=True):
        assert signal in NAMES
        if msgspec.json.decode(series)[0] == cut:
            found[signal, label, "n"] += n
            found[signal, label, "sum"] += total
    return +found


def told(calls: list[Call]) -> Counter[tuple[str, str, str]]:
    """The spend and the statuses of calls, one by one."""
    found: Counter[tuple[str, str, str]] = Counter()
    for call in calls:
        cost = expected(call, default_book())
        known = any(getattr(call, name) not in (None, {}) for name in Usage.__struct_fields__)
        status = cost.cost_status if cost is not None and known else "unpriced"
        found["cost_status_count", status, "n"] += 1
        if status != "unpriced":
            assert cost is not None
            found["cost_spend_sum", "", "n"] += 1
            found["cost_spend_sum", "", "sum"] += sum(cost.parts_nano_usd.values())
    return +found


@settings(max_examples=100)
@given(st.lists(calls(), min_size=1, max_size=8))
def test_sums_are_those_of_single_calls(events: list[Call]) -> None:
    for cut in CUTS:
        found = measured(*events, cut=cut.name)
        want = told(events)
        assert {key: n for key, n in found.items() if key[0] == "cost_spend_sum"} == {
            key: n for key, n in want.items() if key[0] == "cost_spend_sum"
        }
    by_status = {key: n for key, n in measured(*events).items() if key[0] == "cost_status_count"}
    assert by_status == {key: n for key, n in told(events).items() if key[0] == "cost_status_count"}


@settings(max_examples=60)
@given(st.lists(calls(), min_size=2, max_size=9), st.integers(1, 4))
def test_sums_do_not_depend_on_the_batches(events: list[Call], every: int) -> None:
    assert measured(*events, every=every) == measured(*events)


@settings(max_examples=60)
@given(st.lists(calls(), min_size=2, max_size=9), st.data())
def test_a_stream_split_in_two_costs_what_it_costs_whole(events: list[Call], data: st.DataObject) -> None:
    first = data.draw(st.lists(st.booleans(), min_size=len(events), max_size=len(events)))
    one = [event for event, here in zip(events, first, strict=True) if here]
    other = [event for event, here in zip(events, first, strict=True) if not here]
    parts = (measured(*part) if part else Counter() for part in (one, other))
    assert sum(parts, Counter()) == measured(*events)


@given(st.lists(calls(), min_size=1, max_size=8))
def test_parts_add_up_to_the_spend(events: list[Call]) -> None:
    found = measured(*events)
    assert sum(found["cost_parts_sum", part, "sum"] for part in PARTS) == found["cost_spend_sum", "", "sum"]


def call(**fields: Any) -> Call:
    known: dict[str, Any] = {"provider": "anthropic", "model": "claude-haiku-4-5", "gateway": "eu-1"}
    return Call(at_ms=T0_MS, started_at_ms=T0_MS - 500, call_id="c", **known | fields)


def test_what_keeps_costs_from_being_whole_is_counted() -> None:
    used = {"input_tokens": 1000, "output_tokens": 100}
    found = measured(
        call(**used),
        call(**used, usage_source="estimated"),
        call(),
        call(**used, model="no-such-model"),
        call(input_tokens=0, output_tokens=0),
        call(input_tokens=5, cache_read_tokens=6, output_tokens=1),
        call(**used, reported_cost_usd=0.25),
        call(**used, model="no-such-model", reported_cost_usd=0.5),
    )
    assert found == Counter(
        {
            ("cost_status_count", "priced", "n"): 4,
            ("cost_status_count", "unpriced", "n"): 3,
            ("cost_status_count", "provider_reported", "n"): 1,
            ("cost_usage_count", "provider", "n"): 6,
            ("cost_usage_count", "estimated", "n"): 1,
            ("cost_usage_count", "missing", "n"): 1,
            ("cost_unpriced_tokens_sum", "", "n"): 2,
            ("cost_unpriced_tokens_sum", "", "sum"): 1106,
            ("cost_contradictory_count", "", "n"): 1,
            ("cost_spend_sum", "", "n"): 5,
            ("cost_spend_sum", "", "sum"): 3 * 1_500_000 + 500_000_000,
            ("cost_parts_sum", "input", "n"): 3,
            ("cost_parts_sum", "input", "sum"): 3_000_000,
            ("cost_parts_sum", "output", "n"): 3,
            ("cost_parts_sum", "output", "sum"): 1_500_000,
            ("cost_parts_sum", "other", "n"): 1,
            ("cost_parts_sum", "other", "sum"): 500_000_000,
            ("cost_reported_sum", "", "n"): 1,
            ("cost_reported_sum", "", "sum"): 250_000_000,
            ("cost_reported_ours_sum", "", "n"): 1,
            ("cost_reported_ours_sum", "", "sum"): 1_500_000,
        }
    )


def test_reported_costs_that_cannot_be_do_not_overflow_the_sum() -> None:
    used = {"input_tokens": 1000, "output_tokens": 100}
    absurd = [call(**used, reported_cost_usd=1e9) for _ in range(12)]
    found = measured(*absurd, call(**used, reported_cost_usd=0.25))
    assert found["cost_reported_sum", "", "n"] == found["cost_reported_ours_sum", "", "n"] == 1
    assert found["cost_reported_sum", "", "sum"] == 250_000_000
    assert found["cost_spend_sum", "", "sum"] == 13 * 1_500_000


def test_a_call_that_used_tokens_and_cost_nothing_is_counted() -> None:
    """Less than half a nano-dollar is stored as none."""
    rows = [Contract(contract_id="c", provider="p", rates={"input": ["0.0001"], "output": ["1"]})]
    tiny = {"provider": "p", "model": "m", "output_tokens": 0}
    zero = ("cost_zero_count", "", "n")
    assert measured(call(**tiny, input_tokens=4), contracts=rows)[zero] == 1
    assert measured(call(**tiny, input_tokens=6), contracts=rows)["cost_spend_sum", "", "sum"] == 1
    for none in (call(**tiny, input_tokens=6), call(**tiny, input_tokens=0)):
        assert zero not in measured(none, contracts=rows)


def test_events_that_end_no_call_cost_nothing() -> None:
    common: dict[str, Any] = {
        "gateway": "eu-1",
        "call_id": "c",
        "started_at_ms": T0_MS,
        "provider": "openai",
        "model": "gpt-4o",
    }
    assert measured(Token(at_ms=T0_MS, **common, output_tokens_so_far=5)) == Counter()
    found = measured(Response(at_ms=T0_MS, **common, input_tokens=1000, output_tokens=10))
    assert found["cost_spend_sum", "", "sum"] == 2_600_000
