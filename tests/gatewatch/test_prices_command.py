"""`gatewatch prices` against a real engine: every answer, and every file that is refused."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner, Result

from gatewatch.cli.prices import commands
from gatewatch.events import Call, encode
from gatewatch.price_ledger import PriceDocuments
from gatewatch.price_table import package_documents
from signals.lane import Lane, Rules
from sinks.clickhouse import Sink
from sinks.price import read_versions, register_package
from sinks.schema import STORE
from streams.process import end
from tests.sinks.conftest import RunningEngine, start_store
from tests.stored import flush

MODELS = {"gpt-4o", "gpt-4o-mini", "o3", "gpt-4-turbo", "gemini-2.5-pro", "claude-haiku-4-5"}
LISTED = msgspec.json.decode(package_documents()[0])
LISTED["providers"] = [
    provider | {"models": [model for model in provider["models"] if model["id"] in MODELS]}
    for provider in LISTED["providers"]
    if provider["id"] in ("openai", "google", "anthropic")
]
FEW = msgspec.json.encode(LISTED)
"""The release's list with few models: thousands of rates take their time."""
TABLES = ("price_versions", "prices", "calls")
CONTRACTS = """
[[contract]]
contract_id = "ea"
provider = "openai"
adjust_bp = -1000
source = "agreement 7"

[[contract]]
contract_id = "gpus"
provider = "vllm"
model = "llama-70b"
rates = { input = 0.2, output = 0.6 }
"""


@pytest.fixture(scope="module")
def engine_with_tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    running = start_store(tmp_path_factory.mktemp("prices"))
    yield running
    assert end(running.process, 30)


@pytest.fixture
def store(engine_with_tables: RunningEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sink]:
    """Empty tables, and the environment that names them."""
    running = engine_with_tables
    monkeypatch.setenv("GATEWATCH_CLICKHOUSE_URL", running.url)
    monkeypatch.setenv("GATEWATCH_CLICKHOUSE_PASSWORD", running.writer_password)
    own = classmethod(lambda cls, contracts=b"[]": cls(FEW, package_documents()[1], contracts))
    monkeypatch.setattr(PriceDocuments, "of_package", own)
    sink = running.sink()
    for table in TABLES:
        sink.command(f"TRUNCATE TABLE {STORE}.{table}")
    yield sink
    sink.close()


@pytest.fixture
def contracts(tmp_path: Path) -> str:
    file = tmp_path / "contracts.toml"
    file.write_text(CONTRACTS)
    return str(file)


def prices(*arguments: str, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(commands, arguments, input=stdin)


def rows(done: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.engine
def test_contracts_are_imported_once_shown_and_compared(store: Sink, contracts: str) -> None:
    register_package(store)
    dry = prices("import", contracts, "--dry-run")
    assert (dry.exit_code, len(read_versions(store))) == (0, 1)
    assert "3 rates added; nothing was stored" in dry.stderr
    done = prices("import", contracts, "--note", "first")
    assert done.exit_code == 0
    assert "version 2 is stored: 3 rates added. It takes effect at " in done.stdout
    again = prices("import", contracts)
    assert (again.exit_code, again.stdout) == (0, "")
    assert "version 2 holds exactly this already; nothing was stored" in again.stderr
    versions = rows(prices("list", "--versions"))
    assert [(row["version"], row["in_effect"], row["contracts"], row["note"]) for row in versions] == [
        (1, "yes", 0, "the list of this release"),
        (2, "", 2, "first"),
    ]
    differences = rows(prices("diff"))
    assert [(row["change"], row["contract_id"], row["component"], row["new"]) for row in differences] == [
        ("added", "ea", "adjustment", "-10 %"),
        ("added", "gpus", "input", "0.2"),
        ("added", "gpus", "output", "0.6"),
    ]
    assert rows(prices("diff", "1", "2")) == differences
    assert [row["change"] for row in rows(prices("diff", "2", "1"))] == ["removed"] * 3


@pytest.mark.engine
def test_a_file_of_contracts_replaces_all_that_there_were(store: Sink, contracts: str) -> None:
    register_package(store)
    prices("import", contracts)
    dearer = CONTRACTS.partition('[[contract]]\ncontract_id = "ea"')[2].partition("[[contract]]")[2]
    done = prices("import", "-", stdin=b"[[contract]]" + dearer.replace("0.6", "0.75").encode())
    assert done.exit_code == 0
    found = rows(prices("diff"))
    assert [(row["change"], row["component"], row["old"], row["new"], row["percent"]) for row in found] == [
        ("removed", "adjustment", "-10 %", None, None),
        ("changed", "output", "0.6", "0.75", "+25.00"),
    ]
    assert prices("import", "-", stdin=b"contract = []").exit_code == 0
    assert read_versions(store)[-1].contract_count == 0


@pytest.mark.engine
def test_the_first_import_makes_version_one_with_the_releases_list(store: Sink, contracts: str) -> None:
    done = prices("import", contracts)
    assert done.exit_code == 0
    assert "version 1 is stored, and holds from the beginning" in done.stdout
    found = rows(prices("list", "--provider", "vllm"))
    assert [(row["component"], row["usd"], row["contract_id"]) for row in found] == [
        ("input", "0.2", "gpus"),
        ("output", "0.6", "gpus"),
    ]
    assert register_package(store) is None


@pytest.mark.engine
def test_genai_prices_data_replaces_the_list_and_keeps_the_contracts(store: Sink, contracts: str) -> None:
    prices("import", contracts)
    model = {"id": "gpt-4o", "match": {"equals": "gpt-4o"}, "prices": {"input_mtok": 2.0, "output_mtok": 10}}
    data = json.dumps([{"id": "openai", "name": "OpenAI", "api_pattern": "x", "models": [model]}]).encode()
    done = prices("import", "-", stdin=data)
    assert done.exit_code == 0
    assert "rates removed" in done.stdout
    version = read_versions(store)[-1]
    assert (version.version, version.contract_count) == (2, 2)
    assert version.source.startswith("genai-prices data ")
    (found,) = [
        row
        for row in rows(prices("diff"))
        if (row["model"], row["component"], row["service_tier"]) == ("gpt-4o", "input", "standard")
        and row["provider"] == "openai"
    ]
    assert (found["old"], found["new"], found["percent"]) == ("2.5", "2", "-20.00")
    listed = rows(prices("list", "--version", "2", "--provider", "openai", "--model", "gpt-4o"))
    assert {
        row["usd"] for row in listed if (row["service_tier"], row["component"]) == ("standard", "input")
    } == {"2"}


@pytest.mark.engine
def test_a_list_can_be_asked_by_name_day_and_format(store: Sink) -> None:
    register_package(store)
    asked = ("list", "--provider", "openai", "--model", "o3")
    before = rows(prices(*asked, "--at", "2025-06-09"))
    after = rows(prices(*asked, "--at", "2025-06-10"))
    assert [
        row["usd"]
        for found in (before, after)
        for row in found
        if (row["component"], row["service_tier"]) == ("input", "standard")
    ] == ["10", "2"]
    spans = rows(prices(*asked, "--history"))
    assert [
        (row["valid_from"], row["valid_to"])
        for row in spans
        if (row["component"], row["service_tier"]) == ("input", "standard")
    ] == [("", "2025-06-10"), ("2025-06-10", "")]
    # The model by a name that calls use, and the provider by another one's name for it.
    found = rows(prices("list", "--provider", "gcp.gemini", "--model", "models/gemini-2.5-pro"))
    assert {row["model"] for row in found} == {"gemini-2.5-pro"}
    table = list(csv.DictReader(io.StringIO(prices(*asked, "--format", "csv").stdout)))
    assert [row["usd"] for row in table] == [row["usd"] for row in rows(prices(*asked))]
    assert "component" in prices(*asked, "--format", "table").stdout.splitlines()[0]


@pytest.mark.engine
def test_a_check_counts_the_calls_that_a_disagreement_touches(store: Sink) -> None:
    register_package(store)
    now_ms = int(time.time() * 1000)
    lane = Lane(3, 0, Rules())

    def call(number: int, **fields: Any) -> bytes:
        known: dict[str, Any] = {
            "provider": "openai",
            "model": "gpt-4o",
            "at_ms": now_ms - 1000,
            "started_at_ms": now_ms - 2000,
        }
        return encode(Call(gateway="g", call_id=f"c{number}", **known | fields))

    calls = [
        call(0, input_tokens=1000, output_tokens=10),
        call(1, input_tokens=2000, output_tokens=20, model="openai/GPT-4o"),
        call(2, input_tokens=3000, output_tokens=0),
        call(3, input_tokens=3000, output_tokens=5, model="gpt-4o-mini"),
        call(4, input_tokens=3000, output_tokens=5, started_at_ms=now_ms - 5 * 86_400_000),
    ]
    lane.feed(0, now_ms, b"\n".join(calls))
    flush(store, lane)
    listed = {"gpt-4o": {"litellm_provider": "openai", "input_cost_per_token": 2.5e-6,
                         "output_cost_per_token": 1.1e-5}}  # fmt: skip
    data = json.dumps(listed).encode()
    done = prices("check", "-", "--days", "1", stdin=data)
    assert done.exit_code == 1
    (found,) = rows(done)
    assert found["price_id"] == "openai/gpt-4o"
    assert (found["ours_usd_per_million"], found["theirs_usd_per_million"]) == ("10", "11")
    assert (found["component"], found["percent"], found["calls"]) == ("output", "+10.00", 2)
    assert Decimal(found["cost_usd"]) == Decimal("0.0003")
    assert "1 rates are equal within 0.1 %, 1 are not (1 rows)" in done.stderr
    week = rows(prices("check", "-", "--days", "7", stdin=data))
    assert (week[0]["calls"], Decimal(week[0]["cost_usd"])) == (3, Decimal("0.00035"))
    assert prices("check", "-", "--tolerance", "10", stdin=data).exit_code == 0
    assert prices("check", "-", "--tolerance", "9.99", stdin=data).exit_code == 1


def test_without_a_store_the_releases_list_is_shown_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b'{"gpt-4o": {"litellm_provider": "openai", "input_cost_per_token": 1}}'
    monkeypatch.setenv("GATEWATCH_CLICKHOUSE_URL", "http://127.0.0.1:9")
    checked = prices("check", "-", stdin=data)
    assert checked.exit_code == 1
    assert rows(checked)[0]["calls"] is None
    assert "the package's own prices, without contracts" in checked.stderr
    assert "no store was asked which calls they touch" in checked.stderr
    # A store that was named and does not answer has other prices, perhaps.
    assert prices("list", "--model", "gpt-4o").exit_code == 1
    assert prices("import", "-", stdin=b"contract = []").exit_code == 1


def test_a_dry_run_needs_no_store(monkeypatch: pytest.MonkeyPatch, contracts: str) -> None:
    monkeypatch.delenv("GATEWATCH_CLICKHOUSE_URL", raising=False)
    monkeypatch.setattr("streams.setting.Settings.clickhouse_url", "http://127.0.0.1:9")
    done = prices("import", contracts, "--dry-run")
    assert done.exit_code == 0
    assert len(rows(done)) == 3


@pytest.mark.engine
@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (["import", "/there/is/none"], b"", "cannot read /there/is/none"),
        (["import", "-"], b"", "standard input: it holds no contract"),
        (["import", "-"], b"{}", "standard input: line 1: it has no contract_id; give it a name of its own"),
        (["import", "-"], b'[{"id": "openai", "models": [{"id": "m"}]}]', "openai/m is not as genai-prices"),
        (["import", "-"], b'{"m": {"litellm_provider": "x"}}', "`gatewatch prices check`"),
        (["import", "-", "--kind", "genai-prices"], b"contract = []", "it is no JSON"),
        (["import", "-", "--kind", "contracts"], b"[]", "standard input: it is neither TOML nor"),
        (["import", "-", "--note", "a\nb"], b"contract = []", "control character"),
        (["import", "-", "--takes-effect", "soon"], b"contract = []", "--takes-effect 'soon' is no time"),
        (
            ["import", "-", "--takes-effect", "2020-01-01"],
            b'{"contract_id": "a", "free": true}',
            "60 s from now",
        ),
        (["check", "-"], b"contract = []", "standard input: it is no JSON"),
        (["check", "-", "--tolerance", "much"], b"", "--tolerance 'much'"),
        (["check", "-", "--tolerance", "-1"], b"", "--tolerance '-1'"),
        (["check", "-", "--tolerance", "NaN"], b"", "--tolerance 'NaN'"),
        (
            ["check", "-", "--version", "9"],
            b'{"m": {"litellm_provider": "x", "input_cost_per_token": 1}}',
            "is no v",
        ),
        (["list", "--at", "2026-13-01"], b"", "--at '2026-13-01'"),
        (["list", "--at", "2026-01-01", "--history"], b"", "leave --at out"),
        (["list", "--version", "7"], b"", "there is no version 7; versions are 1 to 1"),
        (["diff", "1", "3"], b"", "there is no version 3"),
    ],
)
def test_wrong_input_is_refused_with_what_to_do_and_stores_nothing(
    store: Sink, arguments: list[str], stdin: bytes, said: str
) -> None:
    register_package(store)
    done = prices(*arguments, stdin=stdin)
    assert said in done.stderr
    assert (done.exit_code, done.stdout) == (2, "")
    assert len(read_versions(store)) == 1


@pytest.mark.engine
def test_an_import_that_was_overtaken_says_by_whom(
    store: Sink, contracts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sinks import price

    register_package(store)
    real = price.make_version

    def overtaken(sink: Sink, documents: Any, **more: Any) -> Any:
        monkeypatch.setattr(price, "make_version", real)
        assert (
            prices("import", "-", "--note", "faster", stdin=b'{"contract_id": "a", "free": true}').exit_code
            == 0
        )
        return real(sink, documents, **more)

    monkeypatch.setattr(price, "make_version", overtaken)
    done = prices("import", contracts)
    assert done.exit_code == 1
    assert "another import made version 2 of the prices (faster) at the same time" in done.stderr
    assert [version.note for version in read_versions(store)][1:] == ["faster"]


@pytest.mark.engine
def test_what_is_not_known_exits_with_one_and_says_what_is_near(store: Sink) -> None:
    register_package(store)
    done = prices("list", "--provider", "antropic")
    assert done.exit_code == 1
    assert "known names that are near: anthropic" in done.stderr
    done = prices("list", "--provider", "openai", "--model", "gpt-4-turbos")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "gpt-4-turbo" in done.stderr


@pytest.mark.engine
def test_a_misspelt_provider_of_a_contract_is_pointed_at(store: Sink) -> None:
    def row(provider: str) -> bytes:
        return msgspec.json.encode({"contract_id": "a", "provider": provider, "free": True})

    done = prices(
        "import", "-", "--dry-run", stdin=b'{"contract_id": "a", "provider": "opnai", "free": true}'
    )
    assert done.exit_code == 0
    assert "the list has no provider 'opnai' (there is openai" in done.stderr
    quiet = prices(
        "import", "-", "--dry-run", stdin=b'{"contract_id": "a", "provider": "vllm", "free": true}'
    )
    assert "no provider" not in quiet.stderr
