"""Contracts from files: exact numbers, a whole file or nothing, and a reason with the row that is wrong."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewatch.contract import Contract
from gatewatch.contract_file import contracts_document, read_contracts
from gatewatch.price_table import PriceError, day_ms

TOML = """
[[contract]]
contract_id = "acme"
tenant = "acme"
adjust_bp = -1500
valid_from = 2026-12-01
valid_to = 2027-01-01T09:00:00+01:00

[[contract]]
contract_id = "gpus"
provider = "vllm"
rates = { input = 0.1234567, output = ["0.6", 200000, 1.2], "tool:search" = 0.001 }
currency = "EUR"
usd_per_unit = 1.1
rate_date = 2026-11-02
source = "finance"
source_date = 2026-11-01
"""


def test_toml_and_json_lines_say_the_same() -> None:
    expected = [
        Contract(
            contract_id="acme",
            tenant="acme",
            adjust_bp=-1500,
            valid_from_ms=day_ms("2026-12-01"),
            valid_to_ms=day_ms("2027-01-01") + 8 * 3_600_000,
        ),
        Contract(
            contract_id="gpus",
            provider="vllm",
            rates={"input": ["0.1234567"], "output": ["0.6", "200000", "1.2"], "tool:search": ["0.001"]},
            currency="EUR",
            usd_per_unit="1.1",
            rate_date="2026-11-02",
            source="finance",
            source_date="2026-11-01",
        ),
    ]
    assert read_contracts(TOML.encode()) == expected
    lines = b"\n\n".join(msgspec.json.encode(row) for row in expected)
    assert read_contracts(lines) == expected
    dated = b'{"contract_id": "acme", "tenant": "acme", "adjust_bp": -1500, "valid_from": "2026-12-01", '
    dated += b'"valid_to": "2027-01-01T08:00"}'
    assert read_contracts(dated) == expected[:1]


def test_no_contracts_must_be_said() -> None:
    assert read_contracts(b"contract = []") == []
    with pytest.raises(PriceError, match=r"`contract = \[\]` to have none"):
        read_contracts(b"")


@given(st.decimals(0, 10**6, places=6))
def test_a_rate_is_the_decimal_that_is_written(rate: object) -> None:
    (row,) = read_contracts(f'{{"contract_id": "a", "rates": {{"input": {rate}}}}}'.encode())
    assert row.rates == {"input": [f"{rate}"]}


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_file_is_contracts_or_has_a_reason(data: bytes) -> None:
    try:
        rows = read_contracts(data)
    except PriceError as error:
        assert str(error)
    else:
        assert read_contracts(b"\n".join(map(msgspec.json.encode, rows)) or b"contract = []") == rows


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"adjust_bp": 5}, "line 2: it has no contract_id"),
        ({"contract_id": ""}, "it has no contract_id"),
        ({"contract_id": "b"}, "line 2: contract b says nothing"),
        ({"contract_id": "first", "free": True}, r"line 2 \(first\): line 1 has the same contract_id"),
        (
            {"contract_id": "b", "tennant": "x"},
            r"line 2 \(b\): there is no field 'tennant'; did you mean tenant\?",
        ),
        ({"contract_id": "b", "rates": {"input": -1}}, "input is below zero"),
        ({"contract_id": "b", "rates": {"input": "-0.5"}}, "input is below zero"),
        ({"contract_id": "b", "rates": {"inputs": 1}}, "'inputs' is no rate"),
        ({"contract_id": "b", "rates": {"input": "1/3"}}, "is no decimal number"),
        ({"contract_id": "b", "rates": {"input": "NaN"}}, "is no number"),
        ({"contract_id": "b", "rates": {"input": True}}, "is no number"),
        ({"contract_id": "b", "rates": {"input": 1e300}}, "more than anything costs"),
        ({"contract_id": "b", "rates": {"input": 1e-9}}, "finer than a pico-USD"),
        ({"contract_id": "b", "rates": {"input": []}}, "not rate, threshold, rate"),
        ({"contract_id": "b", "rates": {"input": [1, 100]}}, "not rate, threshold, rate"),
        ({"contract_id": "b", "rates": {"input": [1, 100, 2, 50, 3]}}, "do not rise"),
        ({"contract_id": "b", "rates": [1]}, "no table of rates"),
        ({"contract_id": "b", "rates": {"input": 1}, "free": True}, "is free and has rates"),
        ({"contract_id": "b", "adjust_bp": 1.5}, "Expected `int`"),
        ({"contract_id": "b", "adjust_bp": -10_001}, "more than the whole price"),
        ({"contract_id": "b", "adjust_bp": 10**7}, "a hundred times the price"),
        ({"contract_id": "b", "free": "yes"}, "Expected `bool`"),
        ({"contract_id": "b", "free": True, "valid_from": "tomorrow"}, "is no day or time"),
        (
            {"contract_id": "b", "free": True, "valid_from_ms": 5, "valid_from": "2026-01-01"},
            "both valid_from",
        ),
        ({"contract_id": "b", "free": True, "valid_from_ms": 5, "valid_to_ms": 5}, "ends before it begins"),
        ({"contract_id": "b", "free": True, "valid_from_ms": -5}, "before 1970"),
        ({"contract_id": "b\u0000c", "free": True}, "control character"),
        ({"contract_id": "b" * 501, "free": True}, "longer than 500"),
        ({"contract_id": "b", "rates": {"input": 1}, "currency": "EUR"}, "without a rate_date"),
        ({"contract_id": "b", "rates": {"input": 1}, "usd_per_unit": 0}, "not above zero"),
        ([], "line 2 is no object"),
    ],
)
def test_what_is_wrong_is_said_with_its_row(row: object, reason: str) -> None:
    data = f'{{"contract_id": "first", "adjust_bp": 1}}\n{json.dumps(row)}'.encode()
    with pytest.raises(PriceError, match=reason):
        read_contracts(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xff", "no text in UTF-8: byte 0"),
        (b"x = 1", "x: there are only"),
        (b"[contract]\na = 1", "it holds no contract"),
        (b"[[contracts]]\ncontract_id = 'a'", "contracts: there are only"),
        (b'{"contract_id": "a", "free": true}\n{', "line 2 is no JSON"),
        (b"# Prices\n\nAs agreed.", "it is neither TOML nor"),
    ],
)
def test_a_file_that_holds_no_contracts_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(PriceError, match=reason):
        read_contracts(data)


def test_a_document_holds_what_was_read() -> None:
    rows = read_contracts(TOML.encode())
    assert msgspec.json.decode(contracts_document(rows), type=list[Contract]) == rows
