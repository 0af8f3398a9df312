"""Rows of the owner's own: contract prices, discounts, mark-ups, currencies, free and mapped deployments."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction

from msgspec import Struct

from gatewatch.charge import RATE_FIELDS, TOKEN_RATES, Rates
from gatewatch.price_table import PriceError

__all__ = ["Contract", "best_contract", "check_contract", "contract_rates", "names_model"]


class Contract(Struct, frozen=True, kw_only=True):
    """A row of the owner's own. What is left empty holds for all.

    Four kinds of facts, each decided by the row that says most (tenant before deployment before model
    before provider before tier), and between equals by the row that begins or stands later:

    - ``same_as_model`` (and ``same_as_provider``): what a deployment, profile or alias really is;
    - ``free`` or ``rates``: a price of its own, for a self-hosted model or a negotiated one;
    - ``adjust_bp`` without a tenant: the provider's discount; then
    - ``adjust_bp`` with a tenant: the mark-up or discount that this tenant is charged.

    A rate that a currency or an adjustment makes finer than a pico-USD is rounded to the nearest whole
    one, half to even: at most half a millionth of a dollar in a million tokens.
    """

    contract_id: str
    tenant: str = ""
    provider: str = ""
    model: str = ""
    """The model as sent, or as the price list names it; a trailing ``*`` is any ending."""
    deployment: str = ""
    service_tier: str = ""
    valid_from_ms: int | None = None
    valid_to_ms: int | None = None
    same_as_model: str = ""
    same_as_provider: str = ""
    free: bool = False
    rates: dict[str, list[str]] = {}
    """Rate by name (``input``, ``cache_read``, ..., ``web_search``, ``request``): decimal strings, for a
    million tokens or for one request or search: ``[rate]`` or ``[rate, above input tokens, rate, ...]``."""
    adjust_bp: int = 0
    """Basis points: -1500 is 15 % off, 500 is 5 % on top."""
    currency: str = "USD"
    usd_per_unit: str = "1"
    """What one unit of the currency costs, with ``rate_date``, the day of that rate."""
    rate_date: str = ""
    source: str = ""
    source_date: str = ""


def names_model(row: Contract, asked: set[str]) -> bool:
    """Whether a row is for a model, which goes by any of the names that are asked for."""
    wanted = row.model.strip().lower()
    if not wanted:
        return True
    if wanted.endswith("*"):
        return any(name.startswith(wanted[:-1]) for name in asked)
    return wanted in asked


def best_contract(rows: Iterable[Contract], wanted: Callable[[Contract], bool]) -> Contract | None:
    """Of the rows that are wanted, the one that says most; None where none is."""
    best: Contract | None = None
    best_key: tuple[object, ...] = ()
    for index, row in enumerate(rows):
        if wanted(row):
            key = (
                bool(row.tenant),
                bool(row.deployment),
                bool(row.model),
                not row.model.endswith("*"),
                bool(row.provider),
                bool(row.service_tier),
                row.valid_from_ms or 0,
                index,
            )
            if best is None or key > best_key:
                best, best_key = row, key
    return best


def check_contract(row: Contract) -> None:
    """Raise :class:`PriceError` for a row that says nothing, or what cannot be."""
    if not row.contract_id:
        raise PriceError("a contract has no contract_id")
    says = (row.same_as_model, row.free, row.rates, row.adjust_bp)
    if not any(says):
        raise PriceError(f"contract {row.contract_id} says nothing: no rates, adjustment, model or free")
    if row.free and row.rates:
        raise PriceError(f"contract {row.contract_id} is free and has rates")
    if row.adjust_bp < -10_000:
        raise PriceError(f"contract {row.contract_id} takes more than the whole price off")
    if row.currency != "USD" and not (row.rate_date and row.rates):
        raise PriceError(
            f"contract {row.contract_id} is in {row.currency} without rates or without a rate_date"
        )
    if row.valid_from_ms is not None and row.valid_to_ms is not None and row.valid_from_ms >= row.valid_to_ms:
        raise PriceError(f"contract {row.contract_id} ends before it begins")


def contract_rates(row: Contract) -> Rates:
    """A contract's rates in pico-USD; a rate in USD that is finer is refused."""
    try:
        exchange = Fraction(row.usd_per_unit)
    except (ValueError, ZeroDivisionError) as error:
        raise PriceError(f"contract {row.contract_id}: usd_per_unit is no decimal number") from error
    if exchange <= 0:
        raise PriceError(f"contract {row.contract_id}: usd_per_unit is not above zero")
    rates: Rates = {}
    for name, steps in row.rates.items():
        if name not in RATE_FIELDS and name != "request" and not name.startswith("tool:"):
            raise PriceError(
                f"contract {row.contract_id}: {name!r} is no rate; there are {', '.join(RATE_FIELDS)}, "
                "request, tool:<name>"
            )
        if len(steps) % 2 == 0:
            raise PriceError(f"contract {row.contract_id}: {name} is not rate, threshold, rate, ...")
        each = 10**6 if name in TOKEN_RATES else 10**12
        found: list[int] = []
        for index, step in enumerate(steps):
            try:
                value = Fraction(step) * (each * exchange if index % 2 == 0 else 1)
            except (ValueError, ZeroDivisionError) as error:
                raise PriceError(f"contract {row.contract_id}: {name} holds {step!r}, no number") from error
            if value < 0 or (index % 2 and (value != int(value) or (index > 1 and value <= found[-2]))):
                raise PriceError(
                    f"contract {row.contract_id}: {name} is negative or its thresholds do not rise"
                )
            if row.currency == "USD" and exchange == 1 and value != int(value):
                raise PriceError(f"contract {row.contract_id}: {name} is finer than a pico-USD")
            found.append(round(value))
        rates[name] = tuple(found)
    return rates
