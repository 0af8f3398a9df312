"""Money is exact, and parts in nano-USD add up to the rounded total."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewatch.money import PICO_PER_USD, half_even, nano_parts, pico_usd, usd, usd_per_million

picos = st.integers(0, 5 * 10**17)


@given(picos)
def test_dollars_are_exact_and_come_back(pico: int) -> None:
    text = usd(pico)
    assert Decimal(text) * PICO_PER_USD == pico
    assert "E" not in text and not (text.endswith("0") and "." in text)
    assert pico_usd(text) == pico


@given(picos)
def test_rates_are_written_for_a_million(rate: int) -> None:
    assert Decimal(usd_per_million(rate)) * 10**6 == rate


@pytest.mark.parametrize("amount", ["0.0000000000001", "nan", "inf", "twelve", "", "1e400"])
def test_an_amount_that_is_finer_or_no_number_is_refused(amount: str) -> None:
    with pytest.raises(ValueError, match=r"money|finer"):
        pico_usd(amount)


@given(st.integers(0, 10**15), st.sampled_from([10, 1000]))
def test_halves_go_to_the_even_side(value: int, unit: int) -> None:
    exact = (Decimal(value) / unit).quantize(Decimal(1), rounding=ROUND_HALF_EVEN)
    assert half_even(value, unit) == int(exact)


@given(st.lists(picos, min_size=1, max_size=14))
def test_parts_add_up_to_the_rounded_total_and_stray_less_than_a_nano_dollar(parts: list[int]) -> None:
    nano = nano_parts(parts)
    assert sum(nano) == half_even(sum(parts), 1000)
    assert all(part >= 0 for part in nano)
    assert all(abs(rounded * 1000 - exact) <= 1000 for rounded, exact in zip(nano, parts, strict=True))


@given(st.lists(st.tuples(picos, picos, picos), min_size=1, max_size=20))
def test_columns_are_rounded_as_single_costs_are(rows: list[tuple[int, int, int]]) -> None:
    columns = [np.array(column, dtype=np.int64) for column in zip(*rows, strict=True)]
    by_column = nano_parts(columns)
    assert [[int(value) for value in row] for row in zip(*by_column, strict=True)] == [
        nano_parts(row) for row in rows
    ]
