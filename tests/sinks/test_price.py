"""The ledger of prices in the store: immutable, without gaps, whoever makes versions at the same time."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from msgspec import structs

from gatewatch.contract import Contract
from gatewatch.contract_file import contracts_document
from gatewatch.events import Call, encode
from gatewatch.price_ledger import LEAD_MS, PriceDocuments, PriceVersion
from gatewatch.price_row import price_rows
from gatewatch.price_table import PriceError
from signals.lane import Lane, Rules
from sinks import price as ledger
from sinks.clickhouse import Sink
from sinks.schema import STORE
from tests.stored import flush

PACKAGE = PriceDocuments.of_package()


def few(content: PriceDocuments) -> PriceDocuments:
    """With a list of one provider: thousands of rows take their time."""
    listed = msgspec.json.decode(content.listed)
    listed["providers"] = [provider for provider in listed["providers"] if provider["id"] == "anthropic"]
    return structs.replace(content, listed=msgspec.json.encode(listed))


LIST = few(PACKAGE)


def documents(*contracts: Contract) -> PriceDocuments:
    return structs.replace(LIST, contracts=contracts_document(list(contracts)))


def acme(adjust_bp: int) -> PriceDocuments:
    return documents(Contract(contract_id="acme", tenant="acme", adjust_bp=adjust_bp))


def newest(sink: Sink) -> PriceVersion | None:
    versions = ledger.read_versions(sink)
    return versions[-1] if versions else None


def make(sink: Sink, content: PriceDocuments, **more: Any) -> ledger.Made:
    return ledger.make_version(sink, content, note="", based_on=newest(sink), **more)


def test_the_first_version_is_the_releases_list_and_comes_once(sink: Sink) -> None:
    made = ledger.register_package(sink)
    assert made is not None
    assert (made.version, made.takes_effect_ms, made.source) == (1, made.made_ms, "genai-prices 0.2.3")
    assert ledger.register_package(sink) is None
    assert ledger.read_version(sink, 1) == PACKAGE
    assert ledger.read_version(sink, 2) is None
    stored = sink.rows(f"SELECT count() FROM {STORE}.prices FINAL")[0][0]
    assert stored == len(price_rows(PACKAGE.book()))


def test_a_new_release_brings_its_list_and_keeps_the_contracts(
    sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    def release(version: bytes) -> None:
        listed = LIST.listed.replace(b'"0.2.3"', version)
        own = classmethod(lambda cls, contracts=b"[]": cls(listed, LIST.declared, contracts))
        monkeypatch.setattr(PriceDocuments, "of_package", own)

    make(sink, acme(500))
    release(b'"0.3.0"')
    made = ledger.register_package(sink)
    assert made is not None
    assert (made.version, made.source, made.contract_count) == (2, "genai-prices 0.3.0", 1)
    release(b'"0.2.3"')
    # The old release is started again, beside the new one or after it.
    assert ledger.register_package(sink) is None


def test_equal_content_makes_no_version_and_what_was_before_does(sink: Sink) -> None:
    first = make(sink, acme(500))
    again = make(sink, acme(500))
    assert (first.is_new, again.is_new, again.version) == (True, False, first.version)
    assert make(sink, acme(600)).version.version == 2
    assert make(sink, acme(500)).version.version == 3


def test_versions_take_effect_in_their_order_and_with_time_to_learn_of_them(sink: Sink) -> None:
    first = make(sink, acme(1)).version
    second = make(sink, acme(2)).version
    third = make(sink, acme(3), takes_effect_ms=second.made_ms + 3_600_000).version
    fourth = make(sink, acme(4)).version
    assert first.takes_effect_ms == first.made_ms
    assert second.takes_effect_ms >= second.made_ms + LEAD_MS
    assert third.takes_effect_ms == second.made_ms + 3_600_000
    assert fourth.takes_effect_ms == third.takes_effect_ms + 1


@pytest.mark.parametrize(
    ("after_ms", "reason"),
    [(LEAD_MS - 2000, "60 s from now at the earliest"), (8 * 86_400_000, "within 7 days")],
)
def test_a_time_that_is_too_early_or_too_late_is_refused(sink: Sink, after_ms: int, reason: str) -> None:
    first = make(sink, acme(1)).version
    with pytest.raises(PriceError, match=reason):
        make(sink, acme(2), takes_effect_ms=first.made_ms + after_ms)
    assert newest(sink) == first
    assert sink.rows(f"SELECT max(version) FROM {STORE}.prices") == [(1,)]


def test_a_broker_whose_clock_is_ahead_gets_the_same_time_to_learn(sink: Sink) -> None:
    first = make(sink, acme(1)).version
    ahead_ms = first.made_ms + 300_000
    sink.command(
        f"INSERT INTO {STORE}.chunks (opened_at, appended_to) "
        f"SELECT fromUnixTimestamp64Milli({ahead_ms}), fromUnixTimestamp64Milli({ahead_ms})"
    )
    assert make(sink, acme(2)).version.takes_effect_ms == ahead_ms + LEAD_MS


def test_of_two_importers_at_once_one_makes_the_version_and_the_other_is_told(sink: Sink) -> None:
    make(sink, LIST)
    seen = newest(sink)
    mine = ledger.make_version(sink, acme(500), note="mine", based_on=seen)
    with pytest.raises(ledger.PriceRaceError, match=r"version 2 of the prices \(mine\)"):
        ledger.make_version(sink, acme(900), note="theirs", based_on=seen)
    assert [version.note for version in ledger.read_versions(sink)] == ["", "mine"]
    # Nor is there a row of theirs that is only not shown: the engine has kept the first one.
    assert sink.rows(f"SELECT count() FROM {STORE}.price_versions") == [(2,)]
    assert ledger.read_version(sink, 2) == acme(500)
    assert sink.rows(f"SELECT adjust_bp FROM {STORE}.prices FINAL WHERE kind = 'contract'") == [(500,)]
    # An importer whose answer was lost tries again, and finds what it stored itself.
    assert ledger.make_version(sink, acme(500), note="mine", based_on=seen).version == mine.version


def test_where_the_engine_lets_two_rows_in_the_first_one_holds(sink: Sink) -> None:
    """After a restore, say, which may lose what the engine knows of tokens."""
    first = make(sink, acme(500)).version
    for made_ms, content in ((first.made_ms + 5, acme(900)), (first.made_ms, acme(500))):
        row = structs.replace(first, made_ms=made_ms, digest=content.digest, note="late")
        sink.insert(f"{STORE}.price_versions", ledger._version_block(row, content))
    assert ledger.read_versions(sink)[0].made_ms == first.made_ms
    assert ledger.read_version(sink, 1) == acme(500)
    assert sink.rows("SELECT count(), any(digest) FROM gatewatch.price_versions") == [(1, first.digest)]


def test_a_worker_reads_what_it_does_not_know_yet(sink: Sink) -> None:
    assert ledger.refresh(0, sink)[1] == []
    make(sink, LIST)
    make(sink, acme(5))
    read_ms, versions = ledger.refresh(0, sink)
    assert [version.version for version, _ in versions] == [1, 2]
    assert [content for _, content in versions] == [LIST, acme(5)]
    assert ledger.refresh(1, sink)[1] == versions[1:]
    later_ms, none = ledger.refresh(2, sink)
    assert none == []
    assert later_ms >= read_ms >= versions[1][0].made_ms


def test_rates_whose_maker_died_are_stored_by_the_next_one(sink: Sink) -> None:
    make(sink, LIST)
    make(sink, acme(5))
    everything = sink.rows("SELECT * FROM gatewatch_store.prices FINAL ORDER BY ALL")
    sink.command(f"TRUNCATE TABLE {STORE}.prices")
    assert ledger.fill_rows(sink) == [1, 2]
    assert sink.rows("SELECT * FROM gatewatch_store.prices FINAL ORDER BY ALL") == everything
    assert ledger.fill_rows(sink) == []


def test_the_ledger_says_that_it_is_full_before_costs_cannot_be_stored(sink: Sink) -> None:
    last = PriceVersion(version=ledger.IMPORT_MOST, made_ms=0, takes_effect_ms=0, digest="x")
    with pytest.raises(PriceError, match=r"version 8001 .* up to 8191, and imports end at 8000"):
        ledger.make_version(sink, acme(1), note="", based_on=last)
    assert newest(sink) is None


def test_the_view_shows_the_rates_in_effect_and_the_history_beside_it(sink: Sink) -> None:
    make(sink, LIST)
    make(sink, acme(-1500))
    question = (
        "SELECT usd_per_unit, unit, above_input_tokens, valid_from, kind FROM gatewatch.prices "
        "WHERE provider = 'anthropic' AND model = 'claude-sonnet-4-5' AND component = 'cache_read' "
        "AND service_tier = 'standard' ORDER BY above_input_tokens"
    )
    assert sink.rows(question) == [
        (Decimal("0.3"), "million tokens", 0, None, "list"),
        (Decimal("0.6"), "million tokens", 200_000, None, "list"),
    ]
    # The second version takes effect in a minute.
    history = "SELECT version, is_in_effect, contract_count FROM gatewatch.price_versions ORDER BY version"
    assert sink.rows(history) == [(1, 1, 0), (2, 0, 1)]
    assert sink.rows("SELECT count() FROM gatewatch.prices WHERE kind = 'contract'") == [(0,)]
    sink.command(
        f"INSERT INTO {STORE}.price_versions SELECT * REPLACE (3 AS version, now64(3) AS takes_effect_at) "
        f"FROM (SELECT * FROM {STORE}.price_versions WHERE version = 2)"
    )
    assert sink.rows(history) == [(1, 0, 0), (2, 0, 1), (3, 1, 1)]


def test_rows_of_any_size_are_stored_exactly(sink: Sink) -> None:
    dear = Contract(
        contract_id="dear", model="m", rates={"input": ["999999999.000001"], "request": ["1000000000"]}
    )
    make(sink, documents(dear))
    assert sink.rows(
        f"SELECT component, usd_per_unit FROM {STORE}.prices WHERE kind = 'contract' ORDER BY component"
    ) == [("input", Decimal("999999999.000001")), ("request", Decimal(10**9))]


def test_stored_calls_are_told_by_price_name_and_context(sink: Sink) -> None:
    now_ms = ledger.ledger_clock(sink)[0]
    lane = Lane(7, 0, Rules())

    def call(number: int, **fields: Any) -> bytes:
        known: dict[str, Any] = {
            "provider": "google",
            "model": "gemini-2.5-pro",
            "output_tokens": 10,
            "started_at_ms": now_ms - 2000,
        }
        return encode(Call(at_ms=now_ms - 1000, gateway="g", call_id=f"c{number}", **known | fields))

    calls = [
        call(0, input_tokens=1000),
        call(1, input_tokens=200_000, cache_read_tokens=1000),
        call(2, input_tokens=200_001),
        call(3, input_tokens=500, model="models/gemini-2.5-pro"),
        call(4, input_tokens=500, model="no-such-model"),
        call(5, input_tokens=500, started_at_ms=now_ms - 3 * 86_400_000),
    ]
    lane.feed(0, now_ms, b"\n".join(calls))
    flush(sink, lane)
    uses = {(use.model, use.context): use for use in ledger.price_uses(sink, 1, [200_000])}
    assert sorted(uses) == [("gemini-2.5-pro", 0), ("gemini-2.5-pro", 1), ("models/gemini-2.5-pro", 0)]
    low = uses["gemini-2.5-pro", 0]
    assert (low.price_id, low.calls) == ("google/gemini-2.5-pro", 2)
    assert low.part_calls == {"input": 2, "cache_read": 1, "cache_write": 0, "output": 2, "reasoning": 0}
    # 1,000 and 199,000 plain tokens at $1.25, 1,000 cached ones at $0.125 a million.
    assert (low.part_usd["input"], low.part_usd["cache_read"]) == (Decimal("0.25"), Decimal("0.000125"))
    assert uses["gemini-2.5-pro", 1].part_usd["input"] == Decimal("0.5000025")
    assert ledger.price_uses(sink, 7, [])[0].calls >= 1


def test_a_block_has_the_columns_of_the_table(sink: Sink) -> None:
    block = ledger.price_table(1, price_rows(acme(5).book())[-3:])
    assert isinstance(block, pa.Table)
    columns = sink.rows(f"SELECT name FROM system.columns WHERE database = '{STORE}' AND table = 'prices'")
    assert set(block.column_names) == {name for (name,) in columns}
