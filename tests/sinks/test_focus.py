"""The FOCUS export: valid by the specification's rules, and exactly what the calls cost."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatewatch.contract import Contract
from gatewatch.events import Event, Request
from gatewatch.price_book import PriceBook, default_book
from sinks.clickhouse import Sink
from sinks.focus import charge
from sinks.focus.charge import Grain, Summary, charges, periods
from sinks.focus.column import COLUMNS, WRITTEN, metadata
from sinks.focus.file import CsvFile, Format, ParquetFile, new_file
from sinks.schema import STORE, VIEWS
from tests import focus
from tests.event import T0_MS, call
from tests.stored import store

FROM: Final = datetime(2025, 10, 9, tzinfo=UTC)
TO: Final = datetime(2025, 10, 12, tzinfo=UTC)
"""All calls that are made here are within."""
HOUR_MS: Final = 3_600_000
HAIKU: Final = {"provider": "anthropic", "model": "claude-haiku-4-5"}
AWKWARD: Final = 'Müller, "Söhne"\n& Co ✓ =1+1'
CONTRACTS: Final = (
    Contract(contract_id="ea", provider="azure", adjust_bp=-1500),
    Contract(contract_id="mark-up", tenant="acme", adjust_bp=333),
    Contract(contract_id="map", deployment="prod-chat", same_as_model="gpt-4o", same_as_provider="azure"),
    Contract(contract_id="own", provider="vllm", model="llama", free=True),
)
BOOK: Final = PriceBook(CONTRACTS)
LISTED: Final = PriceBook([row for row in CONTRACTS if row.same_as_model])


def calls() -> list[Event]:
    """Something of everything: prices of all shapes, names of all kinds, and calls without a price."""
    usage = {"input_tokens": 1237, "cache_read_tokens": 401, "output_tokens": 97}
    return [
        *(call(n, tenant=f"tenant-{n % 3}", team="search", key_alias=f"key-{n % 2}", **usage)
          for n in range(9)),
        *(call(10 + n, at_ms=T0_MS + n * 5 * HOUR_MS, tenant="acme", **usage) for n in range(9)),
        call(20, **HAIKU, input_tokens=9000, cache_write_tokens=3000, cache_write_1h_tokens=1000,
             web_searches=2, output_tokens=11, output_reasoning_tokens=7),
        *(call(21 + n, provider="google", model="gemini-2.5-pro", input_tokens=190_000 + n * 10_001,
               output_tokens=50) for n in range(3)),
        call(30, model="o3", service_tier="flex", output_reasoning_tokens=2500, output_tokens=3000,
             input_tokens=1000),
        call(31, provider="google", model="gemini-2.5-flash", input_tokens=1000, cache_read_tokens=500,
             input_audio_tokens=600, cache_audio_read_tokens=300, output_tokens=10),
        call(32, provider="google", model="gemini-2.5-flash", input_tokens=1000, cache_read_tokens=600,
             input_audio_tokens=900, output_tokens=10),
        *(call(33 + n, provider="deepseek", model="deepseek-chat", at_ms=T0_MS + n * 8 * HOUR_MS, **usage)
          for n in range(3)),
        call(40, provider="azure", deployment="prod-chat", model="prod-chat", tenant="acme", **usage),
        call(41, provider="azure", model="gpt-4o", environment="test", **usage),
        call(42, provider="vllm", model="llama", **usage),
        call(43, gateway_cache_hit=True, **usage),
        call(44, provider="perplexity", model="sonar", **usage),
        call(45, tenant=AWKWARD, team=AWKWARD, key_alias="a,b", tags={"cost\ncentre": AWKWARD, "run": "7"},
             **usage),
        call(46, tags={"run": "8", "gatewatch/tenant": "forged"}, **usage),
        call(50, model="nobody-knows", reported_cost_usd=0.123456789, **usage),
        call(51, model="nobody-knows", **usage),
        call(52, model="gpt-5", service_tier="scale", **usage),
        Request(at_ms=T0_MS, gateway="eu-1", call_id="begun", started_at_ms=T0_MS, provider="openai",
                model="gpt-4o"),
    ]  # fmt: skip


charged = partial(store, contracts=CONTRACTS)


def export(
    sink: Sink,
    path: Path,
    *,
    book: PriceBook = BOOK,
    listed: PriceBook = LISTED,
    grain: Grain = "day",
    start: datetime = FROM,
    end: datetime = TO,
    **options: Any,
) -> Summary:
    summary = Summary()
    with new_file(path, force=True) as target:
        file = (CsvFile if path.suffix == ".csv" else ParquetFile)(target)
        for first, last in periods(start, end, grain):
            for rows in charges(sink, first, last, book=book, listed=listed, summary=summary, **options):
                file.write(rows)
        file.close()
    return summary


def total(records: Sequence[focus.Record], column: str = "BilledCost") -> Decimal:
    return sum((Decimal(record[column] or "nan") for record in records), Decimal(0))


def cost_of_view(sink: Sink) -> Decimal:
    ((usd,),) = sink.rows(f"SELECT ifNull(sum(cost_usd), 0) FROM {VIEWS}.calls")
    return Decimal(usd)


NAMES: Final = [column.name for column in WRITTEN]


@pytest.fixture(scope="module")
def good(embedded_sink: Sink, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str | None]]:
    """The records of one valid file, made once; tests change copies."""
    sink = embedded_sink
    sink.command(f"TRUNCATE TABLE {STORE}.calls")
    charged(sink, *calls())
    path = tmp_path_factory.mktemp("focus") / "good.csv"
    export(sink, path, tags=["*"])
    records = focus.read(path)
    assert focus.faults(NAMES, records) == set()
    return records


@pytest.mark.engine
@pytest.mark.parametrize("grain", ["day", "hour"])
def test_files_are_valid_and_sum_to_what_the_calls_cost(sink: Sink, tmp_path: Path, grain: Grain) -> None:
    charged(sink, *calls())
    summary = export(sink, tmp_path / "a.csv", grain=grain, tags=["*"])
    export(sink, tmp_path / "a.parquet", grain=grain, tags=["*"])
    as_csv, as_parquet = focus.read(tmp_path / "a.csv"), focus.read(tmp_path / "a.parquet")
    assert focus.faults(NAMES, as_csv) == set()
    assert as_csv == as_parquet
    assert total(as_csv) == cost_of_view(sink) == Decimal(summary.cost_nano_usd).scaleb(-9) > 0
    assert summary.rows == len(as_csv)
    assert summary.calls.keys() == {"priced", "partial", "free", "provider_reported", "unpriced", ""}
    assert {row["x_CostStatus"] for row in as_csv} == {"priced", "partial", "free", "provider_reported"}
    # Only what no sum of counts can explain has no unit price: audio that was cached, nobody knows how much.
    assert {row["x_PriceId"] for row in as_csv if row["x_UnitPriceSource"] == "cost"} == {
        None,
        "google/gemini-2.5-flash",
    }


# One fault each: the rule that it breaks, the column that is changed, and the value that it gets.
FAULTS: Final = [
    *(("null", name, None) for name in sorted(focus.NOT_NULL)),
    *(("null of usage", name, None) for name in focus.NOT_NULL_OF_USAGE),
    *(("number", name, "1,5") for name in sorted(focus.DECIMALS)),
    *(("number", "BilledCost", text) for text in ("+1", "$1", "1e5", "1E+5", "nan", "1/2", "0x1", " 1", "١")),
    *(("time", name, "2025-10-09") for name in sorted(focus.TIMES)),
    *(
        ("time", "ChargePeriodStart", text)
        for text in ("2025-10-09 00:00:00", "2025-10-09T00:00:00", "2025-10-09T00:00:00+02:00",
                     "2025-13-09T00:00:00Z", "2025-10-09T00:00:00.000Z")
    ),
    *(("allowed", name, "Something") for name in sorted(focus.ALLOWED)),
    ("allowed", "ServiceSubcategory", "Relational Databases"),
    ("currency", "BillingCurrency", "$"),
    ("currency", "BillingCurrency", "usd"),
    *(("unit", "ConsumedUnit", text) for text in ("tokens", "1M Tokens", "")),
    *(("unit", "PricingUnit", text) for text in ("tokens", "1,000 Tokens", "Token/")),
    ("blank", "ServiceName", " "),
    ("object", "Tags", "team=search"),
    ("object", "Tags", '["a"]'),
    ("object", "Tags", "{"),
    ("flat", "Tags", '{"a":{"b":"c"}}'),
    ("flat", "Tags", '{"a":["b"]}'),
    ("unique keys", "Tags", '{"a":"1","a":"2"}'),
    ("own keys", "SkuPriceDetails", '{"ServiceTier":"batch"}'),
    *(("together", other, None) for _, other in focus.TOGETHER),
    ("period order", "ChargePeriodEnd", "2025-10-09T00:00:00Z"),
    ("within", "ChargePeriodStart", "2025-09-30T23:00:00Z"),
    ("within", "ChargePeriodEnd", "2025-11-01T01:00:00Z"),
    ("negative", "ListUnitPrice", "-1"),
    ("negative", "ContractedUnitPrice", "-1"),
    ("product", "ListCost", "0.000000000001"),
    ("product", "ContractedCost", "123.4"),
    ("not covered", "EffectiveCost", "0.000000001"),
    ("rounding", "BilledCost", "5.0"),
    ("nano", "BilledCost", "0.0000000001"),
    ("one parent", "SkuPriceId", "the same for all"),
]  # fmt: skip


@pytest.mark.engine
@pytest.mark.parametrize(("rule", "column", "value"), FAULTS)
def test_a_planted_fault_is_found(
    good: list[dict[str, str | None]], rule: str, column: str, value: str | None
) -> None:
    """So that a valid file is one that was looked at."""
    # A row with everything: a tenant, a deployment, tags and a cost.
    index = next(i for i, row in enumerate(good) if row["ResourceId"] and row["SubAccountId"] and row["Tags"])
    rows = [dict(row) for row in good]
    rows[index][column] = value
    if rule == "one parent":
        rows[index - 1][column] = value
    found = focus.faults(NAMES, rows)
    other = {"SkuId": "SkuPriceId"}.get(column, column)
    assert any(fault.rule == rule and fault.column in (column, other) for fault in found), found


@pytest.mark.engine
def test_a_fault_of_the_header_is_found(good: list[dict[str, str | None]]) -> None:
    for name in sorted(focus.EXPECTED):
        without = [other for other in NAMES if other != name]
        assert focus.Fault("presence", name, -1) in focus.faults(without, [])
    assert focus.Fault("unknown", "Region", -1) in focus.faults([*NAMES, "Region"], [])
    assert focus.Fault("order", "x_Team", -1) in focus.faults(["x_Team", *NAMES[:5]], [])
    assert focus.Fault("repeated", "Tags", -1) in focus.faults([*NAMES, "Tags"], [])
    assert focus.Fault("name", "x_team", -1) in focus.faults([*NAMES, "x_team"], [])
    assert focus.faults(NAMES, []) == set()


def test_the_declared_columns_are_those_of_the_specification() -> None:
    declared = {column.name: column for column in COLUMNS if column.level != "custom"}
    assert declared.keys() == focus.KNOWN
    assert len(declared) == 65
    assert {name for name, column in declared.items() if column.level == "mandatory"} == focus.MANDATORY
    assert {column.name for column in WRITTEN} >= focus.EXPECTED
    for column in WRITTEN:
        assert column.nullable is (column.name not in focus.NOT_NULL) or column.level == "custom", column
        assert (column.kind == "decimal") is (column.name in focus.DECIMALS)
        assert (column.kind == "datetime") is (column.name in focus.TIMES)
        assert (column.kind == "json") is (column.name in focus.OBJECTS)


@pytest.mark.engine
def test_rows_are_the_lines_of_a_bill(sink: Sink, tmp_path: Path) -> None:
    """Haiku: $1 a million, $0.1 cached, $1.25 and $2 to write, $5 for output, a cent a search."""
    usage = {
        "input_tokens": 9000,
        "cache_read_tokens": 2000,
        "cache_write_tokens": 3000,
        "cache_write_1h_tokens": 1000,
        "output_tokens": 100,
        "web_searches": 2,
    }
    charged(sink, *(call(n, **HAIKU, **usage, tenant="t") for n in range(3)))
    export(sink, tmp_path / "a.csv")
    rows = {row["SkuMeter"]: row for row in focus.read(tmp_path / "a.csv")}
    columns = ("ConsumedQuantity", "ConsumedUnit", "PricingQuantity", "PricingUnit", "ContractedUnitPrice")
    assert {meter: tuple(row[name] for name in (*columns, "BilledCost")) for meter, row in rows.items()} == {
        "Input Tokens": ("12000.0", "Tokens", "0.012", "1000000 Tokens", "1.0", "0.012"),
        "Cached Input Tokens": ("6000.0", "Tokens", "0.006", "1000000 Tokens", "0.1", "0.0006"),
        "Cache Write Tokens": ("6000.0", "Tokens", "0.006", "1000000 Tokens", "1.25", "0.0075"),
        "Cache Write Tokens (1 Hour)": ("3000.0", "Tokens", "0.003", "1000000 Tokens", "2.0", "0.006"),
        "Output Tokens": ("300.0", "Tokens", "0.0003", "1000000 Tokens", "5.0", "0.0015"),
        "Web Search Requests": ("6.0", "Requests", "6.0", "Requests", "0.01", "0.06"),
    }
    assert {row["x_CallCount"] for row in rows.values()} == {"3.0"}
    cached = rows["Cached Input Tokens"]
    assert cached["SkuId"] == "anthropic/claude-haiku-4-5/cached-input-tokens"
    assert cached["SkuPriceId"] == "anthropic/claude-haiku-4-5/cached-input-tokens/standard"
    assert (cached["ServiceProviderName"], cached["ServiceName"]) == ("Anthropic", "Anthropic API")
    assert (cached["ChargePeriodStart"], cached["BillingPeriodEnd"]) == (
        "2025-10-09T00:00:00Z",
        "2025-11-01T00:00:00Z",
    )


@pytest.mark.engine
def test_list_and_contracted_prices_are_told_apart(sink: Sink, tmp_path: Path) -> None:
    fields = {"provider": "azure", "deployment": "prod-chat", "model": "prod-chat", "tenant": "acme"}
    charged(sink, call(1, **fields, input_tokens=1_000_000, output_tokens=1))
    export(sink, tmp_path / "a.csv")
    row = next(row for row in focus.read(tmp_path / "a.csv") if row["SkuMeter"] == "Input Tokens")
    # 2.5 dollars, less 15 %, plus 3.33 %: 2.19576 and a quarter.
    assert (row["ListUnitPrice"], row["ContractedUnitPrice"]) == ("2.5", "2.195762")
    assert (row["ListCost"], row["ContractedCost"], row["BilledCost"]) == ("2.5", "2.195762", "2.195762")
    assert (row["SkuId"], row["x_Model"], row["ResourceId"]) == (
        "azure/gpt-4o/input-tokens",
        "prod-chat",
        "prod-chat",
    )
    assert row["x_PriceId"] is not None
    assert row["x_PriceId"].endswith("*ea*mark-up")


@pytest.mark.engine
def test_context_tiers_are_rows_of_their_own(sink: Sink, tmp_path: Path) -> None:
    gemini = {"provider": "google", "model": "gemini-2.5-pro"}
    sizes = enumerate((200_000, 100_000, 200_001))
    charged(sink, *(call(n, **gemini, input_tokens=tokens, output_tokens=0) for n, tokens in sizes))
    export(sink, tmp_path / "a.csv")
    rows = {
        row["SkuPriceId"]: row for row in focus.read(tmp_path / "a.csv") if row["SkuMeter"] == "Input Tokens"
    }
    sku = "google/gemini-2.5-pro/input-tokens/standard"
    assert {name: (row["ConsumedQuantity"], row["ListUnitPrice"]) for name, row in rows.items()} == {
        f"{sku}/up-to-200000": ("300000.0", "1.25"),
        f"{sku}/above-200000": ("200001.0", "2.5"),
    }


@pytest.mark.engine
def test_calls_without_a_price_are_counted_and_in_no_row(sink: Sink, tmp_path: Path) -> None:
    usage = {"input_tokens": 100, "output_tokens": 10}
    charged(sink, *(call(n, model="nobody-knows", **usage) for n in range(3)), call(9, **usage))
    summary = export(sink, tmp_path / "a.csv")
    assert summary.calls == Counter({"unpriced": 3, "priced": 1})
    assert (summary.unpriced, summary.unpriced_tokens) == (Counter({("openai", "nobody-knows"): 3}), 330)
    assert {row["x_Model"] for row in focus.read(tmp_path / "a.csv")} == {"gpt-4o"}


@pytest.mark.engine
def test_what_was_priced_by_other_prices_keeps_its_cost(sink: Sink, tmp_path: Path) -> None:
    """Calls that were priced with contracts, exported where nobody knows of these."""
    charged(sink, *calls())
    summary = export(sink, tmp_path / "a.csv", book=default_book(), listed=default_book())
    rows = focus.read(tmp_path / "a.csv")
    assert focus.faults(NAMES, rows) == set()
    assert total(rows) == cost_of_view(sink)
    assert summary.no_unit_price_nano_usd > 0
    marked_up = [row for row in rows if row["SubAccountId"] == "acme"]
    assert {row["x_UnitPriceSource"] for row in marked_up} == {"cost"}
    assert {(row["PricingUnit"], row["PricingCategory"]) for row in marked_up} == {("Dollars", "Other")}
    assert {row["SkuMeter"]: row["ConsumedQuantity"] for row in marked_up if row["x_PriceId"]}.keys() == {
        "Input Tokens",
        "Cached Input Tokens",
        "Output Tokens",
    }


@pytest.mark.engine
def test_a_contract_that_was_changed_since_explains_no_cost(sink: Sink, tmp_path: Path) -> None:
    """Its price id is the same, its rates are not."""
    before = [Contract(contract_id="ea", provider="azure", adjust_bp=-1000)]
    after = PriceBook([Contract(contract_id="ea", provider="azure", adjust_bp=-1500)])
    store(sink, call(1, provider="azure", input_tokens=1000, output_tokens=0), contracts=before)
    export(sink, tmp_path / "a.csv", book=after)
    (row,) = focus.read(tmp_path / "a.csv")
    assert focus.faults(NAMES, [row]) == set()
    assert (row["BilledCost"], row["x_UnitPriceSource"]) == ("0.00225", "cost")
    assert (row["ConsumedQuantity"], row["PricingQuantity"]) == ("1000.0", "0.00225")


@pytest.mark.engine
def test_rates_finer_than_a_nano_dollar_sum_to_what_was_rounded(sink: Sink, tmp_path: Path) -> None:
    """At $2.58325 a million, a token is 2583.25 nano-dollars, and each call is rounded for itself."""
    charged(sink, *(call(n, tenant="acme", input_tokens=1001 + 4 * n, output_tokens=1) for n in range(40)))
    export(sink, tmp_path / "a.csv")
    rows = focus.read(tmp_path / "a.csv")
    assert focus.faults(NAMES, rows) == set()
    assert {row["x_UnitPriceSource"] for row in rows} == {"price"}
    assert total(rows) == cost_of_view(sink) != total(rows, "ContractedCost")
    # A quarter of a nano-dollar is lost forty times.
    assert total(rows, "ContractedCost") - total(rows) == Decimal("10e-9")


@pytest.mark.engine
@pytest.mark.parametrize("format_", ["csv", "parquet"])
def test_a_month_without_calls_is_a_file_without_rows(sink: Sink, tmp_path: Path, format_: Format) -> None:
    summary = export(sink, tmp_path / f"a.{format_}")
    assert summary == Summary()
    assert focus.read(tmp_path / f"a.{format_}") == []
    if format_ == "csv":
        assert (tmp_path / "a.csv").read_text() == ",".join(NAMES) + "\n"


@pytest.mark.engine
def test_large_costs_stay_exact(sink: Sink, tmp_path: Path) -> None:
    """Hundreds of calls of a billion tokens each: more digits than a float has."""
    tokens = {"input_tokens": 999_999_999, "cache_read_tokens": 333_333_333, "output_tokens": 999_999_997}
    charged(sink, *(call(n, model="gpt-4o", **tokens) for n in range(1500)))
    export(sink, tmp_path / "a.csv")
    export(sink, tmp_path / "a.parquet")
    rows = focus.read(tmp_path / "a.csv")
    assert focus.faults(NAMES, rows) == set()
    assert rows == focus.read(tmp_path / "a.parquet")
    # $2.5, $1.25 and $10 a million.
    one = Decimal("2.5") * 666_666_666 + Decimal("1.25") * 333_333_333 + 10 * 999_999_997
    assert total(rows) == cost_of_view(sink) == 1500 * one / 1_000_000
    assert {row["ConsumedQuantity"] for row in rows} == {
        "999999999000.0",
        "499999999500.0",
        "1499999995500.0",
    }


@pytest.mark.engine
def test_names_come_through_whatever_they_hold(sink: Sink, tmp_path: Path) -> None:
    charged(sink, *calls())
    for name in ("a.csv", "a.parquet"):
        export(sink, tmp_path / name, tags=["cost\ncentre", "run"])
        rows = focus.read(tmp_path / name)
        (tags,) = {row["Tags"] for row in rows if row["SubAccountId"] == row["x_Team"] == AWKWARD}
        assert json.loads(tags or "") == {
            "cost\ncentre": AWKWARD,
            "run": "7",
            "gatewatch/tenant": AWKWARD,
            "gatewatch/team": AWKWARD,
            "gatewatch/key_alias": "a,b",
            "gatewatch/gateway": "eu-1",
        }


@pytest.mark.engine
def test_tags_are_told_apart_only_where_asked_and_ours_are_reserved(sink: Sink, tmp_path: Path) -> None:
    usage = {"input_tokens": 1000, "output_tokens": 0}
    charged(sink, *(call(n, tags={"run": str(n), "gatewatch/tenant": "forged"}, **usage) for n in range(4)))
    for asked, rows in (([], 1), (["run"], 4), (["*"], 4), (["other"], 1)):
        export(sink, tmp_path / "a.csv", tags=asked)
        found = [json.loads(row["Tags"] or "") for row in focus.read(tmp_path / "a.csv")]
        assert len(found) == rows
        assert not any("gatewatch/tenant" in tags for tags in found)
        assert ("run" in found[0]) is (rows > 1)


@pytest.mark.engine
def test_a_period_with_many_rows_is_read_in_slices(
    sink: Sink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    charged(sink, *calls())
    export(sink, tmp_path / "a.csv")
    monkeypatch.setattr(charge, "_GROUPS", 2)
    asked: list[str] = []
    plain: Callable[..., Any] = Sink.rows

    def counted(self: Sink, sql: str, *rest: Any) -> Any:
        asked.append(sql)
        return plain(self, sql, *rest)

    monkeypatch.setattr(Sink, "rows", counted)
    export(sink, tmp_path / "b.csv")
    assert sum("cityHash64" in sql for sql in asked) > 5
    key = [json.dumps(row, sort_keys=True) for row in focus.read(tmp_path / "a.csv")]
    assert sorted(key) == sorted(json.dumps(r, sort_keys=True) for r in focus.read(tmp_path / "b.csv"))


some_call = st.fixed_dictionaries(
    {
        "model": st.sampled_from(
            ["gpt-4o-mini", "gpt-4.1-nano", "o3", "claude-haiku-4-5", "gemini-2.5-flash"]
        ),
        "provider": st.sampled_from(["openai", "anthropic", "google", "openrouter", "nobody"]),
        "tenant": st.sampled_from(["", "acme", "b"]),
        "service_tier": st.sampled_from(["", "batch", "priority"]),
        "input_tokens": st.integers(0, 300_000),
        "output_tokens": st.integers(0, 5000),
    },
    optional={
        "cache_read_tokens": st.integers(0, 3000),
        "cache_write_tokens": st.integers(0, 3000),
        "output_reasoning_tokens": st.integers(0, 3000),
        "input_audio_tokens": st.integers(0, 3000),
        "web_searches": st.integers(0, 3),
        "reported_cost_usd": st.floats(0, 10),
    },
)


@pytest.mark.engine
@settings(max_examples=12)
@given(st.lists(some_call, min_size=1, max_size=40))
def test_whatever_was_used_the_rows_are_valid_and_sum_to_its_cost(
    embedded_sink: Sink, tmp_path_factory: pytest.TempPathFactory, made: list[dict[str, Any]]
) -> None:
    sink = embedded_sink
    sink.command(f"TRUNCATE TABLE {STORE}.calls")
    charged(sink, *(call(number, **fields) for number, fields in enumerate(made)))
    path = tmp_path_factory.getbasetemp() / "any.csv"
    summary = export(sink, path)
    rows = focus.read(path)
    assert focus.faults(NAMES, rows) == set()
    assert total(rows) == cost_of_view(sink)
    assert sum(summary.calls.values()) == len(made)


def test_metadata_describes_the_columns_that_are_written() -> None:
    said = metadata(written_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), start=FROM, end=TO, grain="day")
    json.dumps(said)
    definitions = {each["ColumnName"]: each for each in said["Schema"]["ColumnDefinition"]}
    assert list(definitions) == NAMES
    assert definitions["BilledCost"] == {
        "ColumnName": "BilledCost",
        "DataType": "DECIMAL",
        "NumericPrecision": 38,
        "NumberScale": 9,
    }
    assert definitions["Tags"]["ProviderTagPrefixes"] == ["gatewatch/"]
    assert said["Schema"]["FocusVersion"] == "1.4"
    assert said["Recency"]["RecencyLastUpdated"] == "2026-01-02T03:04:05Z"
    ids = {said[part]["DatasetInstanceId"] for part in ("Schema", "Recency")}
    assert ids == {said["DatasetInstance"][0]["DatasetInstanceId"]}


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with pytest.raises(KeyboardInterrupt), new_file(path) as target:
        target.write(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with new_file(path) as target:
        target.write(b"one")
    with pytest.raises(FileExistsError), new_file(path) as target:
        raise AssertionError("nothing may be made that cannot be kept")
    # One that comes meanwhile is not lost.
    with pytest.raises(FileExistsError), new_file(tmp_path / "b.csv") as target:
        (tmp_path / "b.csv").write_bytes(b"another's")
    assert (tmp_path / "b.csv").read_bytes() == b"another's"
    with new_file(path, force=True) as target:
        target.write(b"two")
    assert path.read_bytes() == b"two"
    (tmp_path / "link").symlink_to(path)
    with new_file(tmp_path / "link", force=True) as target:
        target.write(b"three")
    assert ((tmp_path / "link").is_symlink(), path.read_bytes()) == (True, b"three")
    (tmp_path / "link").unlink()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileExistsError), new_file(tmp_path / "pipe", force=True):
        raise AssertionError("a pipe is no file to be replaced")
    (tmp_path / "pipe").unlink()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.csv", "b.csv"]


DOCS: Final = Path(__file__).resolve().parents[2] / "docs" / "focus.md"


def test_every_column_is_documented_as_it_is_declared() -> None:
    page = DOCS.read_text("utf-8")
    for column in COLUMNS:
        kind = {"datetime": "date/time", "json": "JSON"}.get(column.kind, column.kind)
        nulls = "yes" if column.nullable else "no"
        cells = [kind, column.level, nulls, column.value] if column.written else [column.value]
        line = f"| `{column.name}` | {' | '.join(cells)} |"
        assert line in page, line
