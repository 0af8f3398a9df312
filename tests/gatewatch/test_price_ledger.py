"""The ledger of prices: which version prices a record, and what a version is."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from gatewatch.contract import Contract
from gatewatch.contract_file import contracts_document
from gatewatch.price_book import Price, PriceBook, default_book
from gatewatch.price_ledger import (
    LEAD_MS,
    TRUST_MS,
    VERSION_MOST,
    PriceDocuments,
    PriceLedger,
    PriceVersion,
    in_effect,
    ledger_of,
    package_ledger,
)
from gatewatch.price_table import PriceError, package_documents
from signals.cost import AMOUNT_BITS, VERSION_BITS

PACKAGE = PriceDocuments.of_package()
AT_MS = 1_795_000_000_000


def cheaper(percent: int) -> PriceDocuments:
    """The package's list with so much off OpenAI's prices."""
    row = Contract(contract_id="off", provider="openai", adjust_bp=-100 * percent)
    return PriceDocuments.of_package(contracts_document([row]))


def input_rate(book: PriceBook) -> int:
    price = book.resolve("openai", "gpt-4o", AT_MS)
    assert isinstance(price, Price)
    return next(charge.rates[0] for charge in price.charges if charge.name == "input")


def test_a_version_begins_exactly_at_its_time() -> None:
    ledger = ledger_of([PACKAGE, cheaper(10), cheaper(20)], [1000, 5000, 9000])
    moments = [0, 999, 1000, 4999, 5000, 8999, 9000, 10**13]
    assert [ledger.version_at(at_ms) for at_ms in moments] == [1, 1, 1, 1, 2, 2, 3, 3]
    assert [input_rate(ledger.at(at_ms)[1]) for at_ms in moments[::2]] == [
        2_500_000,
        2_500_000,
        2_250_000,
        2_000_000,
    ]
    assert [in_effect(ledger.versions, at_ms).version for at_ms in moments] == [1, 1, 1, 1, 2, 2, 3, 3]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6, unique=True), st.integers(0, 60), st.data())
def test_it_does_not_matter_in_which_order_versions_are_learned(
    times: list[int], at_ms: int, data: st.DataObject
) -> None:
    versions = [
        PriceVersion(version=number, made_ms=0, takes_effect_ms=time)
        for number, time in enumerate(sorted(times), 1)
    ]
    shuffled = data.draw(st.permutations(versions))
    ledger = PriceLedger()
    for version in shuffled:
        ledger.add(version, PACKAGE)
    expected = max((v.version for v in versions if v.takes_effect_ms <= at_ms), default=1)
    assert ledger.version_at(at_ms) == expected == in_effect(shuffled, at_ms).version


def test_a_version_never_changes() -> None:
    ledger = ledger_of([PACKAGE])
    ledger.add(PriceVersion(version=1, made_ms=7, takes_effect_ms=7), cheaper(50))
    assert input_rate(ledger.book(1)) == 2_500_000
    assert ledger.versions[0].made_ms == 0


def test_few_books_are_kept_and_come_back_the_same() -> None:
    ledger = ledger_of([cheaper(percent) for percent in range(1, 11)], list(range(10)))
    assert len(ledger._books) == 3
    first = [input_rate(ledger.book(number)) for number in range(1, 11)]
    assert first == [2_500_000 * (100 - percent) // 100 for percent in range(1, 11)]
    assert len(ledger._books) == 3
    # The list is the same in all of them, and stands there once.
    assert len(ledger._compressed) == 2 + 10
    assert ledger.documents(4) == cheaper(4)


def test_the_default_is_the_packages_list_as_version_one() -> None:
    assert package_ledger().at(0) == (1, default_book())
    with pytest.raises(LookupError):
        PriceLedger().at(0)


def test_the_digest_identifies_the_content() -> None:
    assert PACKAGE.digest == PriceDocuments(*package_documents()).digest != cheaper(1).digest
    assert PACKAGE.list_digest == cheaper(1).list_digest
    # What ends one document does not begin the next.
    assert PriceDocuments(b"ab", b"c").list_digest != PriceDocuments(b"a", b"bc").list_digest


def test_fields_of_a_later_release_are_ignored() -> None:
    listed = json.loads(PACKAGE.listed)
    listed["future"] = {"deep": [1]}
    for provider in listed["providers"]:
        provider["region"] = "eu"
        for model in provider["models"]:
            model["prices"][0]["carbon"] = "low"
    declared = json.loads(PACKAGE.declared)
    declared["loyalty"] = [{"provider": "openai"}]
    declared["fee"][0]["until_when"] = "2030"
    contracts = [
        {
            **msgspec.to_builtins(Contract(contract_id="a", provider="openai", adjust_bp=-100)),
            "signed_by": "me",
        }
    ]
    later = PriceDocuments(*(json.dumps(document).encode() for document in (listed, declared, contracts)))
    assert input_rate(later.book()) == 2_475_000


def test_a_declared_row_of_a_model_that_the_list_lacks_is_left_out() -> None:
    listed = json.loads(PACKAGE.listed)
    listed["providers"] = [provider for provider in listed["providers"] if provider["id"] == "openai"]
    alone = structs.replace(PACKAGE, listed=json.dumps(listed).encode()).book()
    assert input_rate(alone) == 2_500_000
    assert not isinstance(alone.resolve("deepseek", "deepseek-chat", AT_MS), Price)


def test_every_row_of_the_packages_own_declared_table_finds_its_model() -> None:
    table, declared = PACKAGE.tables()
    models = {provider.id: {model.id for model in provider.models} for provider in table.providers}
    rows = [(entry.provider, entry.model) for entry in declared.row]
    rows += [(entry.provider, entry.model) for entry in declared.model]
    for provider, model in rows:
        assert model in models[provider]
    for weekdays in declared.weekdays:
        assert weekdays.provider in models


@pytest.mark.parametrize(
    ("documents", "reason"),
    [
        (structs.replace(PACKAGE, listed=b"{}"), "the price list cannot be read"),
        (structs.replace(PACKAGE, listed=b"\xff"), "the price list cannot be read"),
        (structs.replace(PACKAGE, declared=b'{"tier": 1}'), "the declared table cannot be read"),
        (structs.replace(PACKAGE, contracts=b'[{"tenant": "a"}]'), "the contracts cannot be read"),
        (structs.replace(PACKAGE, contracts=b'[{"contract_id": "a"}]'), "says nothing"),
    ],
)
def test_documents_that_make_no_book_are_refused_whole(documents: PriceDocuments, reason: str) -> None:
    ledger = ledger_of([PACKAGE])
    with pytest.raises(PriceError, match=f"version 2 of the prices: .*{reason}"):
        ledger.add(PriceVersion(version=2, made_ms=0, takes_effect_ms=0), documents)
    assert ledger.newest == 1
    assert ledger.version_at(10) == 1


def test_versions_have_the_bits_that_a_stored_cost_has_for_them() -> None:
    assert (1 << VERSION_BITS) - 1 == VERSION_MOST
    assert AMOUNT_BITS + VERSION_BITS + 2 == 63  # two bits for the rank, and none for a sign
    with pytest.raises(PriceError, match="not within 1 and 8191"):
        PriceLedger().add(PriceVersion(version=VERSION_MOST + 1, made_ms=0, takes_effect_ms=0), PACKAGE)


def test_a_worker_knows_a_version_before_it_takes_effect() -> None:
    """Inserts take up to 20 s (sinks.price), which lies between the two."""
    assert LEAD_MS - TRUST_MS > 20_000
