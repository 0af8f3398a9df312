"""Contracts as people write them: a TOML file with ``[[contract]]`` tables, or an object a line of JSON.

The fields are those of :class:`~gatewatch.contract.Contract`. Beside that, days and times may be written as
such (``valid_from``, ``valid_to``), rates and exchange rates as numbers, which are read as the decimals that
they are, and a rate without context tiers without brackets.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final

import msgspec

from gatewatch.contract import Contract, check_contract, contract_rates
from gatewatch.price_table import PriceError

__all__ = ["contracts_document", "read_contracts"]

_TIMES: Final = {"valid_from": "valid_from_ms", "valid_to": "valid_to_ms"}
_FIELDS: Final = (*Contract.__struct_fields__, *_TIMES)
_TEXT_MOST: Final = 500
_TIME_MOST_MS: Final = 9_223_372_036_854
_ADJUST_MOST_BP: Final = 1_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def contracts_document(contracts: list[Contract]) -> bytes:
    """Contracts as a version of the prices holds them."""
    return msgspec.json.encode(contracts)


def read_contracts(data: bytes) -> list[Contract]:
    """The contracts of a file, all of them checked.

    Raises
    ------
    PriceError
        The first row that cannot be used, and why; or two rows have the same ``contract_id``.
    """
    contracts: list[Contract] = []
    seen: dict[str, str] = {}
    for place, row in _rows(data):
        name = row.get("contract_id")
        where = f"{place} ({name})" if isinstance(name, str) and name else place
        try:
            contract = _contract(row)
            check_contract(contract)
            contract_rates(contract)
        except PriceError as error:
            # Checks that are made elsewhere, too, name the contract themselves.
            raise PriceError(f"{place if str(name) in str(error) else where}: {error}") from error
        if contract.contract_id in seen:
            before = seen[contract.contract_id]
            raise PriceError(f"{where}: {before} has the same contract_id; give each row one of its own")
        seen[contract.contract_id] = place
        contracts.append(contract)
    return contracts


def _rows(data: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PriceError(f"it is no text in UTF-8: byte {error.start} is none") from error
    if text.lstrip().startswith("{"):
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line, parse_float=Decimal)
            except (ValueError, RecursionError) as error:
                raise PriceError(f"line {number} is no JSON: {error}") from error
            if not isinstance(row, dict):
                raise PriceError(f"line {number} is no object; write one contract a line")
            yield f"line {number}", row
        return
    try:
        found = tomllib.loads(text, parse_float=Decimal)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise PriceError(f"it is neither TOML nor an object a line of JSON: {error}") from error
    rows = found.pop("contract", None)
    if found:
        raise PriceError(f"{', '.join(found)}: there are only [[contract]] tables in such a file")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise PriceError(
            "it holds no contract: write a [[contract]] table for each, or `contract = []` to have none"
        )
    for number, row in enumerate(rows, 1):
        yield f"contract {number}", row


def _contract(row: dict[str, Any]) -> Contract:
    for field in row:
        if field not in _FIELDS:
            near = difflib.get_close_matches(field, _FIELDS, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(_FIELDS)}"
            raise PriceError(f"there is no field {field!r}; {hint}")
    made = dict(row)
    for field, known in _TIMES.items():
        if field in made:
            if known in made:
                raise PriceError(f"it has both {field} and {known}; leave one of them out")
            made[known] = _ms(field, made.pop(field))
    for field in ("rate_date", "source_date"):
        if isinstance(made.get(field), date):
            made[field] = made[field].isoformat()
    if "usd_per_unit" in made:
        made["usd_per_unit"] = _number("usd_per_unit", made["usd_per_unit"])
    rates = made.get("rates", {})
    if not isinstance(rates, dict):
        raise PriceError("rates is no table of rates by name")
    made["rates"] = {
        name: [_number(name, step) for step in (steps if isinstance(steps, list) else [steps])]
        for name, steps in rates.items()
    }
    if not made.get("contract_id"):
        raise PriceError("it has no contract_id; give it a name of its own")
    try:
        contract = msgspec.convert(made, Contract)
    except msgspec.ValidationError as error:
        raise PriceError(str(error)) from error
    for field in Contract.__struct_fields__:
        value = getattr(contract, field)
        if isinstance(value, str) and (len(value) > _TEXT_MOST or not value.isprintable()):
            raise PriceError(f"{field} is longer than {_TEXT_MOST} characters or holds a control character")
    for at_ms in (contract.valid_from_ms, contract.valid_to_ms):
        if at_ms is not None and not 0 <= at_ms <= _TIME_MOST_MS:
            raise PriceError("a time is before 1970 or after 2262")
    if contract.adjust_bp > _ADJUST_MOST_BP:
        raise PriceError(f"adjust_bp is above {_ADJUST_MOST_BP:,}, a hundred times the price")
    return contract


def _number(field: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise PriceError(f"{field}: {value!r} is no number")
    if isinstance(value, str):
        # A fraction such as 1/3 would be a number to the arithmetic.
        try:
            Decimal(value)
        except ArithmeticError:
            raise PriceError(f"{field}: {value!r} is no decimal number") from None
    number = Decimal(value)
    if not number.is_finite():
        raise PriceError(f"{field}: {value!r} is no number")
    if number < 0:
        raise PriceError(f"{field} is below zero ({value}); what is taken off a price is adjust_bp")
    if number > 10**9:
        raise PriceError(f"{field}: {value} is more than anything costs")
    return f"{number:f}"


def _ms(field: str, value: object) -> int:
    """Milliseconds since 1970 of a day or time; without a zone it is UTC."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise _no_time(field, value) from None
    if isinstance(value, datetime):
        at = value if value.tzinfo else value.replace(tzinfo=UTC)
    elif isinstance(value, date):
        at = datetime(value.year, value.month, value.day, tzinfo=UTC)
    else:
        raise _no_time(field, value)
    return int((at - _EPOCH).total_seconds() * 1000)


def _no_time(field: str, value: object) -> PriceError:
    return PriceError(f"{field}: {value!r} is no day or time; write 2026-12-01 or 2026-12-01T09:00Z")
