"""genai-prices' published data: the same list as from its package, or a reason that names the model."""

from __future__ import annotations

import copy
import json
from datetime import date, time
from decimal import Decimal
from typing import Any

import pytest
from genai_prices.data import providers

from docs.price_source import published
from gatewatch.price_ledger import PriceDocuments
from gatewatch.price_list import import_list
from gatewatch.price_row import price_rows
from gatewatch.price_table import PriceError, package_documents

DECLARED = package_documents()[1]
MODEL: dict[str, Any] = {
    "id": "gpt-9",
    "match": {"or": [{"equals": "GPT-9"}, {"starts_with": "gpt-9-"}]},
    "prices": {"input_mtok": 2.5, "output_mtok": {"base": 10, "tiers": [{"start": 200000, "price": 15}]}},
}
LIST: list[dict[str, Any]] = [
    {"id": "openai", "name": "OpenAI", "api_pattern": "https://api", "models": [MODEL], "extractors": [{}]}
]


def changed(**model: Any) -> bytes:
    listed = copy.deepcopy(LIST)
    listed[0]["models"][0] |= model
    return json.dumps(listed).encode()


def test_the_published_file_and_the_package_give_the_same_prices() -> None:
    def plain(value: object) -> Any:
        if isinstance(value, Decimal):
            return int(value) if value == int(value) else float(value)
        return value.isoformat() if isinstance(value, date | time) else value

    data = json.dumps([published(provider) for provider in providers], default=plain).encode()
    listed = import_list(data, DECLARED)
    ours = package_documents()[0]
    # But for what the list is called.
    assert listed.splitlines()[2:] == ours.splitlines()[2:]
    assert json.loads(listed)["about"]["version"].startswith("data ")
    assert import_list(data, DECLARED) == listed


def test_a_small_list_is_enough() -> None:
    rows = price_rows(PriceDocuments(import_list(changed(), DECLARED), DECLARED).book())
    assert [
        (row.component, row.above_input_tokens, row.usd_per_unit)
        for row in rows
        if row.model == "gpt-9" and row.component in ("input", "output")
    ] == [("input", 0, Decimal("2.5")), ("output", 0, Decimal(10)), ("output", 200_000, Decimal(15))]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{", "it is no JSON"),
        (b"[]", "it is no list of providers"),
        (b'{"gpt-4o": {}}', "it is no list of providers"),
        (b'[{"name": "x"}]', "provider 1 has no id"),
        (json.dumps(LIST * 2).encode(), "provider 2: openai is there twice"),
        (changed(id=None), "model 1 of provider openai has no id"),
        (changed(prices={"input_mtok": -1}), "openai/gpt-9: input_mtok: a rate is below zero"),
        (changed(prices={"input_mtok": 1e300}), "openai/gpt-9: input_mtok: a rate is below zero, or more"),
        (changed(prices={"input_mtok": "1"}), "openai/gpt-9: input_mtok: '1' is no number"),
        (changed(prices={"input_mtok": True}), "openai/gpt-9: input_mtok: True is no number"),
        (changed(prices={"dreams_kcount": 1}), "openai/gpt-9: gatewatch does not know what 'dreams_kcount'"),
        (changed(prices=[]), "openai/gpt-9: it has no prices"),
        (changed(prices={"input_mtok": {"base": 1}}), "openai/gpt-9 is not as genai-prices publishes it"),
        (
            changed(
                prices={
                    "input_mtok": {"base": 1, "tiers": [{"start": 5, "price": 1}, {"start": 5, "price": 2}]}
                }
            ),
            "openai/gpt-9: input_mtok: thresholds",
        ),
        (
            changed(prices=[{"constraint": {"moon": "full"}, "prices": {}}]),
            "a condition that gatewatch does not know",
        ),
        (changed(prices=[{"constraint": {"start_date": "soon"}, "prices": {}}]), "openai/gpt-9 is not as"),
        (changed(match={"sounds_like": "gpt"}), "openai/gpt-9: a kind of match"),
        (changed(match={"regex": "("}), "openai/gpt-9 is not as"),
        (changed(match={}), "openai/gpt-9: a kind of match"),
        (changed(prices=None), "openai/gpt-9 is not as"),
    ],
)
def test_bad_data_is_refused_with_the_models_name(data: bytes, reason: str) -> None:
    with pytest.raises(PriceError, match=reason):
        import_list(data, DECLARED)
