"""Exact money: whole pico-USD, because providers' prices need it and floats lose cents.

One US dollar per million tokens is 1,000,000 pico-USD a token, and almost every published price is a
whole number of these. So a call's cost is a sum of products of integers, and exact.

What is stored is nano-USD. Rounding each part of a cost by itself would make the parts miss the
total; :func:`nano_parts` rounds the running sum instead, so that the parts of every call add up
to its rounded total, to the nano-dollar. It uses integer operations only and takes columns too.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Final, TypeVar

__all__ = ["PICO_PER_NANO", "PICO_PER_USD", "half_even", "nano_parts", "pico_usd", "usd", "usd_per_million"]

PICO_PER_USD: Final = 10**12
PICO_PER_NANO: Final = 1_000

_Integers = TypeVar("_Integers")


def half_even(value: Any, unit: int) -> Any:
    """How many units a value is, to the nearest, a half to the even one.

    Parameters
    ----------
    value
        An integer, or a NumPy array of integers; never negative.
    unit
        The size of a unit, an even number.

    Examples
    --------
    >>> [half_even(pico, 1000) for pico in (499, 500, 501, 1500, 2500)]
    [0, 0, 1, 2, 2]
    """
    whole = value // unit
    rest = value - whole * unit
    return whole + ((rest > unit // 2) | ((rest == unit // 2) & (whole % 2 == 1)))


def nano_parts(parts: Iterable[_Integers]) -> list[_Integers]:
    """Parts of a cost in nano-USD, which add up exactly to the rounded total.

    Part i is the difference of the rounded running sums up to i and up to i - 1 (cumulative
    rounding). Each differs from its exact value by less than one nano-USD.

    Parameters
    ----------
    parts
        Pico-USD, in the fixed order of :data:`gatewatch.price_book.PARTS`: integers, or one NumPy array
        of ``int64`` a part.

    Examples
    --------
    >>> nano_parts([400, 400, 400])
    [0, 1, 0]
    """
    rounded: list[Any] = []
    exact: Any = 0
    before: Any = 0
    for part in parts:
        exact = exact + part
        total = half_even(exact, PICO_PER_NANO)
        rounded.append(total - before)
        before = total
    return rounded


def usd(pico: int) -> str:
    """Pico-USD as an exact decimal number of dollars, without an exponent.

    >>> usd(2_404_800_000), usd(0)
    ('0.0024048', '0')
    """
    if 0 < pico < PICO_PER_USD:  # as most costs are, and three times as fast
        return f"0.{pico:012d}".rstrip("0")
    return _decimal(pico, 12)


@lru_cache(maxsize=4096)
def usd_per_million(pico: int) -> str:
    """A rate in pico-USD a token as dollars for a million tokens.

    >>> usd_per_million(150_000), usd_per_million(2_800)
    ('0.15', '0.0028')
    """
    return _decimal(pico, 6)


def _decimal(value: int, places: int) -> str:
    sign = "-" if value < 0 else ""
    whole, rest = divmod(abs(value), 10**places)
    return f"{sign}{whole}.{rest:0{places}d}".rstrip("0").rstrip(".") if rest else f"{sign}{whole}"


def pico_usd(amount: str | int | Decimal) -> int:
    """Dollars as whole pico-USD.

    Raises
    ------
    ValueError
        It is no number, not finite, or finer than a pico-USD.
    """
    try:
        exact = Decimal(amount) * PICO_PER_USD
    except (InvalidOperation, TypeError) as error:
        raise ValueError("an amount of money is a decimal number of dollars") from error
    if not exact.is_finite() or abs(exact) > 10**30:
        raise ValueError("an amount of money is a finite number of dollars")
    if exact != int(exact):
        raise ValueError(f"{amount} USD is finer than a pico-USD (1e-12)")
    return int(exact)
